"""Overfitting one small batch: a model, a loss and data that work together learn a few utterances
by heart in seconds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch

from parakeet_ft.batches.loaders import BatchDataset, as_float
from parakeet_ft.data.corpus import durations_of
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.model import parts
from parakeet_ft.model.objective import training_loss
from parakeet_ft.run.console import Narrator
from parakeet_ft.run.provenance import Run
from parakeet_ft.scoring import wer
from parakeet_ft.transcription.decode import transcribe

LEAST_FALL = 0.3  # the loss must fall to this share of its start


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of it. Losses are of the same batch without augmentation or dropout, WER a
    fraction.
    """

    steps: int
    lr: float
    first_loss: float
    last_loss: float
    wer: float
    references: list[str]
    transcripts: list[str]

    @property
    def passed(self) -> bool:
        """Whether the batch was learnt by heart."""
        return self.wer == 0 and self.last_loss <= LEAST_FALL * self.first_loss

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return dataclasses.asdict(self) | {"passed": self.passed}

    def lines(self) -> list[str]:
        """The verdict, what was measured and, where it failed, what that speaks for and the
        transcripts.
        """
        fall = self.last_loss / self.first_loss if self.first_loss else float("nan")
        wrong = sum(r != t for r, t in zip(self.references, self.transcripts, strict=True))
        loss = (
            f"the loss of one batch went from {self.first_loss:.3f} to {self.last_loss:.4f}, "
            f"{fall:.2g} of its start, "
            f"in {self.steps} steps at lr {self.lr:g}"
        )
        if self.passed:
            return [
                f"SMOKE TEST PASSED: {loss}, and all {len(self.references)} transcripts equal "
                f"their references: model, loss and data work together"
            ]
        if not fall <= 1e9:
            cause = "the loss is not a number: lower optim.lr, or look at these utterances"
        elif fall > 0.95:
            cause = "nothing learns: look at optim.lr and at what adaptation freezes"
        elif fall > LEAST_FALL:
            cause = "it learns too slowly to be sure: raise optim.lr, or freeze less"
        else:
            cause = (
                "the loss falls but decoding does not follow: look at the tokenizer, the "
                "texts "
                "and the blank index"
            )
        return [
            f"SMOKE TEST FAILED: {loss}; {wrong} of {len(self.references)} transcripts differ from "
            f"their references (WER {100 * self.wer:.0f} %)",
            cause,
            *(
                f"{reference!r} -> {transcript!r}"
                for reference, transcript in zip(self.references, self.transcripts, strict=True)
            ),
        ]


def choose(
    utterances: Sequence[Utterance], *, size: int = 4, least_seconds: float = 1.0
) -> list[Utterance]:
    """The shortest utterances with text of at least least_seconds; shorter ones only if there are
    no others.
    """
    shortest = map(utterances.__getitem__, durations_of(utterances).argsort(kind="stable").tolist())
    spoken: tuple[list[Utterance], list[Utterance]] = [], []
    for utterance in shortest:
        if utterance.text.strip():
            spoken[utterance.duration >= least_seconds].append(utterance)
        if len(spoken[True]) == size:
            break
    return spoken[True] or spoken[False][:size]


def overfit(
    model: Any,
    utterances: Sequence[Utterance],
    *,
    settings: dict[str, Any],
    precision: str,
    max_steps: int = 300,
    seconds: float = 45.0,
    check_every: int = 10,
) -> Result:
    """Train what learns on one batch until its transcripts equal their references, or steps or
    seconds are over.

    With the run's optimiser (`settings` of parakeet_ft.training.optim) at its peak learning rate
    throughout. Nothing random: no augmentation, no dropout, BatchNorm with its statistics.
    """
    device, started = parts.device(model), time.monotonic()
    dataset = BatchDataset(utterances, model.tokenizer.text_to_ids, rate_hz=parts.rate_hz(model))
    audio, *others = (tensor.to(device) for tensor in dataset.batch(list(range(len(utterances)))))
    batch = [as_float(audio), *others]
    still(model)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        betas=tuple(settings["betas"]),
    )
    losses: list[float] = []
    references, texts = [u.text for u in utterances], [""] * len(utterances)
    while len(losses) < max_steps and (not losses or time.monotonic() - started < seconds):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            loss = training_loss(model, *batch)["loss"]
        losses.append(loss.item())
        if not torch.isfinite(loss):
            break
        if len(losses) % check_every == 0:
            texts = transcribe(model, utterances)
            if texts == references and losses[-1] <= LEAST_FALL * losses[0]:
                break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings["gradient_clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["gradient_clip"])
        optimizer.step()
    texts = transcribe(model, utterances)
    return Result(
        steps=len(losses),
        lr=settings["lr"],
        first_loss=losses[0],
        last_loss=losses[-1],
        wer=wer.score(references, texts).wer,
        references=references,
        transcripts=texts,
    )


def tell(result: Result, *, say: Narrator, run: Run) -> dict[str, Any]:
    """Print the verdict and store it in run.json, which ends the run; returns its facts."""
    say.lines(result.lines())
    say.end_phase()
    run.record(smoke=result.facts())
    run.finish(say.phases)
    return result.facts()


def still(model: torch.nn.Module) -> None:
    """Evaluation mode, in which the loss can still be trained: cuDNN's recurrent layers must be in
    train mode for that, so they lose their dropout.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.RNNBase):
            module.dropout = 0.0
            module.train()
