"""Signs of trouble at a validation, in words: worse than the checkpoint for long, forgetting,
silence, babble. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parakeet_ft.scoring.forgotten import guard_wers
from parakeet_ft.settings.guards import SHORT, title_of

UNKNOWN = "⁇"  # how SentencePiece writes <unk>
SILENCE, BABBLE = 0.3, 2.0  # words said for each word of the references: below, above
MANY_UNKNOWN = 0.05  # <unk> for each word said
SETTLING = 0.3  # share of all steps in which a fresh vocabulary may still be silent or babble


def signs(
    references: Sequence[str], hypotheses: Sequence[str], *, silent_frames: int, frames: int
) -> dict[str, float]:
    """Ratios that tell a working model from a collapsed one: frames without a piece, words said per
    word of the references, <unk> per word said.
    """
    said, expected = (
        sum(len(text.split()) for text in texts) for texts in (hypotheses, references)
    )
    return {
        "val_blank_ratio": silent_frames / max(frames, 1),
        "val_length_ratio": said / max(expected, 1),
        "val_unk_ratio": sum(text.count(UNKNOWN) for text in hypotheses) / max(said, 1),
    }


def phase(point: dict[str, Any], *, num_steps: int, settling: bool) -> tuple[str, str]:
    """("healthy" | "expected" | "collapse", words) of a validation's signs; the words are empty if
    all is well.

    settling: the vocabulary is mostly new, or the checkpoint knew nothing of the domain: silence
    and babble are then a phase that passes.
    """
    blanks, length, unknown = (point[f"val_{name}_ratio"] for name in ("blank", "length", "unk"))
    found = []
    if length < SILENCE:
        found.append(
            f"hardly speaks: {length:.2f} words for each word of the references, "
            f"{100 * blanks:.1f} % of frames blank"
        )
    elif length > BABBLE:
        found.append(
            f"babbles: {length:.2f} words for each word of the references, {100 * blanks:.1f} % of "
            f"frames blank"
        )
    if unknown > MANY_UNKNOWN:
        found.append(
            f"{100 * unknown:.0f} % of its words are {UNKNOWN}: the vocabulary cannot write what "
            f"is learnt"
        )
    if not found:
        return "healthy", ""
    early = settling and point["step"] <= SETTLING * num_steps
    end = (
        f"expected at this phase, until about step {SETTLING * num_steps:.0f}"
        if early
        else "COLLAPSE; lower optim.lr, and look at the samples in hypotheses.jsonl"
    )
    return "expected" if early else "collapse", f"the model {'; '.join(found)}: {end}"


def streaks(
    history: Sequence[dict[str, Any]],
    *,
    base_wer: float,
    tolerated: Mapping[str, float],
) -> dict[str, int]:
    """For the domain and each guard, how many of the last validations in a row were worse than the
    checkpoint; a guard: above the WER that is tolerated of it.

    Validations of a phase in which that is expected do not count.
    """
    limits = {"domain": base_wer, **tolerated}
    rates = [{"domain": point["val_wer"], **guard_wers(point)} for point in history]

    def streak(role: str, limit: float) -> int:
        for count, (point, rate) in enumerate(zip(reversed(history), reversed(rates), strict=True)):
            if rate[role] <= limit or point.get("phase") == "expected":
                return count
        return len(history)

    return {role: streak(role, limit) for role, limit in limits.items()}


def trouble(role: str, length: int) -> str:
    """A streak of the domain or of a guard in words, with what can be done."""
    if role == "domain":
        return (
            f"domain WER is above the untouched checkpoint's for {length} validations in a row. If "
            "it does not fall soon, stop: look at hypotheses.jsonl, try smoke=true on the same "
            "data, or a lower optim.lr"
        )
    tolerance, more = "evaluation.guard_tolerance", "more general speech (data.replay.ratio)"
    if role != SHORT:
        tolerance, more = "is tolerated", f"more speech like it (data.guards.{role}.replay)"
    return (
        f"{title_of(role)} WER is above the untouched checkpoint's by more than {tolerance} for "
        f"{length} validations in a row. best.nemo is chosen among mixtures with the checkpoint "
        f"too, which often win it back; else give {more}, or a lower optim.lr"
    )


def alarms(
    found: dict[str, int], history: Sequence[dict[str, Any]], *, alarm_after: int
) -> dict[str, str]:
    """A sentence with what can be done for each streak of alarm_after validations that no
    validation of `history` has told before.
    """
    told = {role for point in history for role in point.get("alarms", {})}
    return {
        role: trouble(role, length)
        for role, length in found.items()
        if length >= alarm_after and role not in told
    }


def stop_reason(found: dict[str, int], *, patience: int | None) -> str | None:
    """Why to stop now, if a streak has reached `patience`; None for patience=None."""
    reached = [
        role for role, length in found.items() if patience is not None and length >= patience
    ]
    return (
        f"stopped early: {' and '.join(reached)} worse for {patience} validations in a row "
        f"(evaluation.patience)"
        if reached
        else None
    )


def sample(num_utterances: int, *, size: int = 8) -> list[int]:
    """Indices of a fixed sample, evenly spread."""
    return (
        [round(i * (num_utterances - 1) / max(size - 1, 1)) for i in range(size)]
        if num_utterances > size
        else list(range(num_utterances))
    )
