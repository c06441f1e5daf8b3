"""What was said, and when: words and transcripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from parakeet_ft.transcription.segments import Segment


@dataclasses.dataclass(frozen=True)
class Word:
    """A word and its begin and end in seconds from the begin of the recording."""

    text: str
    begin: float
    end: float


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was said in `duration` seconds; `words` is empty where no times were asked for."""

    text: str
    words: tuple[Word, ...] = ()
    duration: float = 0.0


def join(parts: Iterable[tuple[float, Transcript]], *, duration: float) -> Transcript:
    """One transcript out of those of consecutive segments, each with the second where it begins;
    word times are kept inside the recording.
    """
    parts = list(parts)
    words = [
        Word(word.text, begin + word.begin, begin + word.end)
        for begin, part in parts
        for word in part.words
    ]
    return Transcript(
        " ".join(part.text for _, part in parts if part.text),
        tuple(clip(words, duration)),
        duration,
    )


def join_segments(
    heard: Sequence[tuple[Segment, Transcript]], *, seconds: float, begin: float = 0.0
) -> Transcript:
    """The transcript of a recording of `seconds` from `begin` of its file, all of whose segments
    are there.
    """
    # What was decoded is longer or shorter than some headers announce.
    whole = len(heard) == 1 and heard[0][0].whole
    return join(
        [(segment.begin - begin, transcript) for segment, transcript in heard],
        duration=heard[0][1].duration if whole else seconds,
    )


def clip(words: Iterable[Word], duration: float) -> list[Word]:
    """Words that begin and end between 0 and `duration`, none before the one before it."""
    clipped, earliest = [], 0.0
    for word in words:
        begin = min(max(word.begin, earliest), duration)
        clipped.append(Word(word.text, begin, min(max(word.end, begin), duration)))
        earliest = begin
    return clipped
