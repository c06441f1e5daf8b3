"""The training loss of each family, from audio to one number."""

from __future__ import annotations

import contextlib
import functools

import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model import features, joint_loss, parts
from parakeet_ft.model.transducer_loss import TransducerLoss


@functools.cache
def runs_bfloat16_lstm(device_type: str) -> bool:
    """Whether an LSTM trains under bfloat16 autocast here, found by trying a small one.

    oneDNN has no bfloat16 LSTM for CPUs without AVX-512: "could not create a primitive descriptor".
    """
    lstm = torch.nn.LSTM(2, 2).to(device_type)
    try:
        with torch.autocast(device_type, torch.bfloat16):
            output, _ = lstm(torch.zeros(1, 1, 2, device=device_type))
        output.float().sum().backward()
    except RuntimeError:
        return False
    return True


def prediction_network_runs_in_float32(model, *, device_type: str, precision: str) -> bool:
    """Whether `training_loss` leaves autocast for this model's prediction network."""
    has_one = parts.is_transducer(model)
    return has_one and precision.startswith("bf16") and not runs_bfloat16_lstm(device_type)


def predict(model, tokens: torch.Tensor, token_lengths: torch.Tensor):
    """The prediction network's output (B, H, U + 1) and its lengths (B), in float32 where autocast
    asks for a bfloat16 LSTM that this device does not have.
    """
    kind = tokens.device.type
    asked = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    leave = asked and not runs_bfloat16_lstm(kind)
    with torch.autocast(kind, enabled=False) if leave else contextlib.nullcontext():
        decoded, lengths, _ = model.decoder(targets=tokens, target_length=token_lengths)
    return decoded, lengths


def training_loss(
    model,
    audio: torch.Tensor,
    lengths: torch.Tensor,
    tokens: torch.Tensor,
    token_lengths: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Loss of a batch with the model's own loss objects: audio (B, T), tokens (B, U) -> {"loss",
    and its parts for hybrids}.

    As NeMo 3.0.0's training_step (ctc_models.py, rnnt_models.py, hybrid_rnnt_ctc_models.py) without
    its decoding of training batches. Losses are computed in float32: CTC on a CPU has no bfloat16,
    and transducer sums lose too much in it.
    """
    with features.no_waiting():
        outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    encoded, frames = outputs[0], outputs[1]
    if not parts.is_transducer(model):
        return {
            "loss": model.loss(
                log_probs=encoded.float(),
                targets=tokens,
                input_lengths=frames,
                target_lengths=token_lengths,
            )
        }
    decoded, target_lengths = predict(model, tokens, token_lengths)
    if not torch.is_autocast_enabled(encoded.device.type):
        decoded = decoded.to(
            encoded.dtype
        )  # where bf16-true left the prediction network in float32
    if isinstance(model.loss._loss, TransducerLoss):
        loss = joint_loss.loss_in_joint(model, encoded, decoded, tokens, frames, target_lengths)
    elif model.joint.fuse_loss_wer:
        loss, *_ = model.joint(
            encoder_outputs=encoded,
            decoder_outputs=decoded,
            encoder_lengths=frames,
            transcripts=tokens,
            transcript_lengths=token_lengths,
            compute_wer=False,
        )
    else:
        joint = model.joint(encoder_outputs=encoded, decoder_outputs=decoded)
        loss = model.loss(
            log_probs=joint, targets=tokens, input_lengths=frames, target_lengths=target_lengths
        )
    weight = parts.ctc_loss_weight(model)
    if not weight:
        return {"loss": loss}
    log_probs = model.ctc_decoder(encoder_output=encoded)
    ctc_loss = model.ctc_loss(
        log_probs=log_probs.float(),
        targets=tokens,
        input_lengths=frames,
        target_lengths=token_lengths,
    )
    return {
        "loss": (1 - weight) * loss + weight * ctc_loss,
        "transducer_loss": loss.detach(),
        "ctc_loss": ctc_loss.detach(),
    }


def set_ctc_loss_weight(model, weight: float | None) -> None:
    """What a hybrid's CTC loss weighs, also in its configuration; None leaves it as it is.

    Raises UserError for a model that has no two heads, and for what is no weight.
    """
    if weight is None:
        return
    if not parts.is_hybrid(model):
        raise UserError(
            f"model.ctc_loss_weight={weight}, but this {type(model).__name__} has one head and "
            "one loss. Leave it out."
        )
    if not 0 <= weight < 1:
        raise UserError(
            f"model.ctc_loss_weight={weight}: expected null, or a number from 0 to below 1."
        )
    model.ctc_loss_weight = model.cfg.aux_ctc.ctc_loss_weight = float(weight)


def compare_parts(transducer_loss: float, ctc_loss: float, *, weight: float) -> dict[str, float]:
    """Both parts of a hybrid's loss as they are, how many times the transducer's the CTC part is
    when both are weighted, and the weight at which they would be alike.
    """
    weighted = weight * ctc_loss, (1 - weight) * transducer_loss
    return {
        "transducer_loss": transducer_loss,
        "ctc_loss": ctc_loss,
        "ctc_loss_weight": weight,
        "ctc_times_transducer": weighted[0] / max(weighted[1], 1e-12),
        "weight_of_equal_parts": transducer_loss / max(transducer_loss + ctc_loss, 1e-12),
    }


def parts_lines(parts: dict[str, float]) -> list[str]:
    """`compare_parts` in words, with a warning where one part is ten times the other."""
    times = parts["ctc_times_transducer"]
    lines = [
        f"loss parts at the first step: transducer {parts['transducer_loss']:.3g}, "
        f"CTC {parts['ctc_loss']:.3g}; weighted by {parts['ctc_loss_weight']:g}, "
        f"CTC is {times:.3g} times the transducer's"
    ]
    if not 0.1 <= times <= 10:
        head = "CTC head" if times > 1 else "transducer"
        lines.append(
            f"warning: the {head} owns the gradient, as the two losses are scaled differently. "
            f"With model.ctc_loss_weight={parts['weight_of_equal_parts']:.2g} both parts weigh "
            "the same."
        )
    return lines
