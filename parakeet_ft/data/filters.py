"""Utterance -> reason to drop it, or None. Pure: nothing here opens a file. The reasons are the
words of the summary and the report.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from parakeet_ft.data.audio import Measured
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.text import is_utf8

# A claimed length may differ from the real one by rounding and by the padding of lossy formats.
TOLERANCE_SECONDS = 0.2
TOLERANCE_SHARE = 0.02
# What each reason means, for the report. Those of decoding are in data/audio.py.
REASONS = {
    "missing": "the audio file does not exist",
    "not_a_file": "the path is a directory or device",
    "no_permission": "the file may not be read",
    "zero_bytes": "the file is empty",
    "unreadable": "no decoder reads the file",
    "damaged": "the data cannot be decoded to the end",
    "truncated": "the file ends before its header says",
    "no_samples": "the file has no audio",
    "beyond_end": "the utterance begins after the end of the file",
    "pipe_failed": "the command gave no audio",
    "bad_times": "offset or duration are no seconds",
    "not_finite": "samples are NaN or infinite",
    "no_such_channel": "the file lacks the channel asked for",
    "crashed_decoder": "the decoder crashed on this file",
    "not_utf8": "the text, a name or a further field is not UTF-8",
    "bad_row": "the row of the table is incomplete",
    "empty_text": "there is no text",
    "silent": "the level is below the limit",
    "clipped": "too many samples at full scale",
    "too_short": "shorter than the limit",
    "too_long": "longer than the limit",
    "wrong_duration": "the utterance ends after its file",
    "too_few_chars": "too few characters a second for speech",
    "too_many_chars": "too many characters a second for speech",
    "ctc_unalignable": "more tokens than encoder frames: CTC has no path",
    "unknown_chars": "the tokenizer cannot write some character",
    "duplicate_audio": "the same samples came before",
    "duplicate_text": "the same text came often enough before",
    "text_in_held_out": "the text is in dev or test",
    "low_alignment_score": "the transcript does not fit the audio",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of what is kept; None switches a filter off. Durations in seconds, levels in dBFS,
    `max_clipped` a fraction of the samples.

    `max_duration` is what Parakeet's full attention trains on without trouble; `ctc_subsampling` is
    FastConformer's, over 10 ms frames. `check_claimed_duration` drops what is said to be longer
    than its audio is: what is missing may hold some of the text. `min_alignment_score` is in nats a
    frame, against the extra field `alignment_score` where there is one (data/alignment.py).
    """

    min_duration: float | None = 0.1
    max_duration: float | None = 30.0
    min_chars_per_second: float | None = 0.3
    max_chars_per_second: float | None = 40.0
    min_level_dbfs: float | None = -60.0
    max_clipped: float | None = 0.05
    ctc_subsampling: int | None = 8
    max_same_text: int | None = None
    drop_duplicate_audio: bool = True
    check_claimed_duration: bool = True
    allow_empty_text: bool = False
    min_alignment_score: float | None = None


def encoder_frames(duration: float, *, subsampling: int = 8) -> int:
    """Frames that FastConformer's encoder gives for `duration` seconds (NeMo 3.0.0: floor(samples /
    160) mel frames, halved up thrice).
    """
    return math.ceil(math.floor(duration * 100 + 1e-6) / subsampling)


def ctc_length(pieces: Sequence[int]) -> int:
    """Frames that CTC needs at least: one a token and a blank between two equal ones."""
    return len(pieces) + sum(a == b for a, b in itertools.pairwise(pieces))


def reason_to_drop(
    utterance: Utterance,
    measured: Measured,
    *,
    limits: Limits,
    encode: Callable[[str], Sequence[int]] | None = None,
    unknown_id: int = 0,
    claimed: float = 0.0,
) -> tuple[str, str] | None:
    """(reason, detail) of the first filter that drops the utterance, or None. `encode` is the
    tokenizer's, text -> ids; `claimed` the seconds that the source gave, 0 if it gave none.

    Non-speech (`non_speech` true among the extra fields) may have no text and be silent.
    """
    return (
        _text_reason(utterance, limits)
        or _audio_reason(utterance, measured, limits, claimed)
        or _rate_reason(utterance, measured.duration, limits)
        or _token_reason(utterance, measured.duration, limits, encode, unknown_id)
    )


def _text_reason(utterance: Utterance, limits: Limits) -> tuple[str, str] | None:
    """What is wrong with the row and its text."""
    if "bad_row" in utterance.extra:
        return "bad_row", str(utterance.extra["bad_row"])
    for shown in (utterance.text, utterance.audio_filepath):
        if not is_utf8(shown):
            return "not_utf8", repr(shown.encode("utf-8", "backslashreplace")[:80])
    if not is_utf8(utterance.to_json()):
        return "not_utf8", "in the speaker or a further field"
    if not utterance.text.strip() and not _may_be_empty(utterance, limits):
        return "empty_text", ""
    score = utterance.extra.get("alignment_score")
    if score is not None and _is_below(score, limits.min_alignment_score):
        return "low_alignment_score", f"{score:.2f}: {utterance.text[:60]}"
    return None


def _may_be_empty(utterance: Utterance, limits: Limits) -> bool:
    """Whether an utterance needs no text."""
    return limits.allow_empty_text or bool(utterance.extra.get("non_speech"))


def _audio_reason(
    utterance: Utterance, measured: Measured, limits: Limits, claimed: float
) -> tuple[str, str] | None:
    """What is wrong with the audio."""
    if measured.reason is not None:
        return measured.reason, measured.detail
    seconds = measured.duration
    if limits.check_claimed_duration and _ends_late(claimed, seconds):
        return "wrong_duration", f"claims {claimed:.2f} s, has {seconds:.2f} s"
    if _is_below(seconds, limits.min_duration):
        return "too_short", f"{seconds:.2f} s"
    if _is_above(seconds, limits.max_duration):
        return "too_long", f"{seconds:.2f} s"
    is_silent = _is_below(measured.level_dbfs, limits.min_level_dbfs)
    if is_silent and not utterance.extra.get("non_speech"):
        return "silent", f"{measured.level_dbfs:.0f} dBFS"
    if _is_above(measured.clipped_share, limits.max_clipped):
        return "clipped", f"{100 * measured.clipped_share:.1f} % of the samples"
    return None


def _ends_late(claimed: float, seconds: float) -> bool:
    """Whether audio is said to be longer than rounding and padding make it."""
    return claimed - seconds > TOLERANCE_SECONDS + TOLERANCE_SHARE * seconds


def _is_below(value: float, limit: float | None) -> bool:
    """Whether a value is below a limit that is in force."""
    return limit is not None and value < limit


def _is_above(value: float, limit: float | None) -> bool:
    """Whether a value is above a limit that is in force."""
    return limit is not None and value > limit


def _rate_reason(utterance: Utterance, duration: float, limits: Limits) -> tuple[str, str] | None:
    """Whether the text is too short or too long for its audio."""
    if not utterance.text or not duration:
        return None
    rate = len(utterance.text) / duration
    if _is_below(rate, limits.min_chars_per_second):
        return "too_few_chars", f"{rate:.2f} characters a second"
    if _is_above(rate, limits.max_chars_per_second):
        return "too_many_chars", f"{rate:.1f} characters a second"
    return None


def _token_reason(
    utterance: Utterance,
    duration: float,
    limits: Limits,
    encode: Callable[[str], Sequence[int]] | None,
    unknown_id: int,
) -> tuple[str, str] | None:
    """Whether the tokenizer and CTC can deal with the text."""
    if encode is None:
        # A lower bound: no piece spans two words.
        needed = len(utterance.text.split())
    else:
        ids = encode(utterance.text)
        if unknown_id in ids:
            return "unknown_chars", utterance.text[:80]
        needed = ctc_length(ids)
    if limits.ctc_subsampling is None:
        return None
    frames = encoder_frames(duration, subsampling=limits.ctc_subsampling)
    if needed <= frames:
        return None
    return "ctc_unalignable", f"{needed} tokens or more, {frames} frames"
