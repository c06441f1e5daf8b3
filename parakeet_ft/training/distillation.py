"""Learning without forgetting (arXiv 1606.09282): while the model learns, it is also held to what
the checkpoint made of the same audio.

Supported: models with a CTC head (CTC and the hybrids), by the divergence of its frame-wise
distributions; RNNT and TDT, by the distance of the encoders' outputs. The vocabulary may be kept or
extended, but must still hold all of the checkpoint's pieces.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model import parts


def divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    frames: torch.Tensor,
    *,
    columns: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Mean over valid frames of KL(teacher || student) at a temperature, times its square (arXiv
    1503.02531).

    student (B, T, V) and teacher (B, T, W) are log-probabilities, frames (B) valid lengths. columns
    (W): where the teacher's labels are among the student's; other labels of the student are left
    out, and the rest renormalised.
    """
    student = torch.log_softmax(student.float()[..., columns] / temperature, -1)
    teacher = torch.log_softmax(teacher.float() / temperature, -1)
    per_frame = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="none").sum(
        -1
    )
    mask = valid(frames, student.shape[1])
    # Not by indexing: how many are valid would have to be asked for.
    return temperature**2 * per_frame.where(mask, 0).sum() / mask.sum()


def distance(student: torch.Tensor, teacher: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Squared distance of two encoders' outputs (B, D, T) over valid frames, as a share of the
    teacher's power.
    """
    mask = valid(frames, teacher.shape[2])[:, None]
    return ((student - teacher).float().square() * mask).sum() / (
        teacher.float().square() * mask
    ).sum()


def valid(frames: torch.Tensor, length: int) -> torch.Tensor:
    """Lengths (B) to a mask (B, T)."""
    return torch.arange(length, device=frames.device) < frames[:, None]


class Teacher:
    """The checkpoint's encoder and, if it has one, its CTC head, frozen; `loss` compares what the
    student has just computed with it.

    The student's outputs are caught by hooks as training computes them, so that its encoder runs
    once a batch.
    """

    def __init__(self, model: Any, *, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature
        self.parts = [
            copy.deepcopy(part).eval().requires_grad_(False)
            for part in (model.preprocessor, model.encoder, parts.ctc_decoder(model))
            if part is not None
        ]
        self.pieces = parts.pieces(model)
        self.caught: dict[str, Any] = {}

    def follow(self, model: Any) -> dict[str, Any]:
        """Begin to catch what `model`, the student, computes. Returns what is compared, for the
        record.

        Raises UserError if its vocabulary lacks pieces of the checkpoint's, or if a setting would
        have no effect.
        """
        head, pieces = (
            parts.ctc_decoder(model),
            {piece: number for number, piece in enumerate(parts.pieces(model))},
        )
        missing = [piece for piece in self.pieces if piece not in pieces]
        if missing:
            raise UserError(
                f"distillation.weight={self.weight:g}, but the new vocabulary lacks {len(missing)} "
                f"of the checkpoint's {len(self.pieces)} pieces "
                f"({', '.join(map(repr, missing[:5]))}): there is nothing to compare. Use "
                f"tokenizer=keep or extend, or distillation.weight=0."
            )
        if head is None and self.temperature != 1:
            raise UserError(
                f"distillation.temperature={self.temperature:g} has no effect on "
                f"{parts.family(model)} models: without a CTC head the encoders' outputs "
                "are compared, not probabilities. Leave it at 1."
            )
        if head is not None and head is not model.decoder and not model.ctc_loss_weight:
            raise UserError(
                "distillation needs the CTC head of this hybrid, but its ctc_loss_weight is 0. Use "
                "distillation.weight=0."
            )
        columns = [*(pieces[piece] for piece in self.pieces), len(pieces)]
        self.columns = torch.tensor(columns, device=parts.device(model))
        model.encoder.register_forward_hook(
            lambda module, inputs, outputs: self.caught.update(
                encoded=outputs[0], frames=outputs[1]
            )
        )
        if head is not None:
            head.register_forward_hook(
                lambda module, inputs, outputs: self.caught.update(log_probs=outputs)
            )
        return {
            "weight": self.weight,
            "temperature": self.temperature,
            "shared_pieces": len(self.pieces),
            "compares": "CTC distributions, frame by frame"
            if head is not None
            else "encoder outputs, relative squared distance",
        }

    def loss(self, audio: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Unweighted loss of the batch (audio (B, T), lengths (B)) that the student has just run
        on.
        """
        preprocessor, encoder, *heads = (part.to(audio.device) for part in self.parts)
        with torch.no_grad():
            features, feature_lengths = preprocessor(input_signal=audio, length=lengths)
            encoded, frames = encoder(audio_signal=features, length=feature_lengths)
            if heads:
                teacher = heads[0](encoder_output=encoded)
        if heads:
            return divergence(
                self.caught["log_probs"],
                teacher,
                frames,
                columns=self.columns,
                temperature=self.temperature,
            )
        return distance(self.caught["encoded"], encoded, frames)


def build_teacher(model: Any, *, weight: float, temperature: float) -> Teacher | None:
    """A frozen copy of what is needed of the untouched checkpoint; None for weight 0. To be made
    before anything changes the model.
    """
    return Teacher(model, weight=weight, temperature=temperature) if weight else None
