"""Words and their times out of NeMo's hypotheses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from parakeet_ft.transcription.word_times import pauses, word_spans
from parakeet_ft.transcription.words import Transcript, Word


def transcript_of(
    hypothesis: Any, decoding: Any, samples: np.ndarray, *, frame_seconds: float, rate_hz: int
) -> Transcript:
    """A hypothesis with its words and their times, none if none were asked for."""
    duration = len(samples) / rate_hz
    if not isinstance(hypothesis.timestamp, dict):  # no word times were asked for
        return Transcript(hypothesis.text, (), duration)
    texts, frames = word_frames(hypothesis, decoding)

    # The features of a frame lie around its number, not behind it.
    carried = [
        (_times(first, frame_seconds), _times(last, frame_seconds)) for first, last in frames
    ]
    spans = word_spans(carried, pauses(samples, rate_hz=rate_hz), duration=duration)
    words = tuple(Word(text, *span) for text, span in zip(texts, spans, strict=True))
    return Transcript(hypothesis.text, words, duration)


def _times(frames: tuple[int, int], frame_seconds: float) -> tuple[float, float]:
    """Seconds around the middle of the frames."""
    begin, end = frames
    return (begin - 0.5) * frame_seconds, (end - 0.5) * frame_seconds


def word_frames(
    hypothesis: Any, decoding: Any
) -> tuple[list[str], list[tuple[tuple[int, int], tuple[int, int]]]]:
    """The words of a hypothesis with timestamps, as NeMo parts them, and the frames (begin, end) of
    each one's first and last token.

    A mark of punctuation has the frames of the token before it, as it is not spoken.
    """
    from nemo.collections.asr.parts.utils.timestamp_utils import get_words_offsets

    characters = hypothesis.timestamp["char"]
    texts = [
        row["char"] if isinstance(row["char"], str) else "".join(row["char"]) for row in characters
    ]
    frames = _token_frames(hypothesis, decoding, characters)
    for index, text in enumerate(texts):
        if index and text in (decoding.supported_punctuation or ()):
            frames[index] = frames[index - 1]
    # With its own number in place of each token's time, NeMo says which tokens make a word.
    numbered = [
        {"char": text, "start_offset": index, "end_offset": index}
        for index, text in enumerate(texts)
    ]
    pieces = _pieces(hypothesis, decoding, len(texts))
    encoded = [row | {"char": piece} for row, piece in zip(numbered, pieces, strict=True)]
    words = get_words_offsets(
        char_offsets=numbered,
        encoded_char_offsets=encoded,
        word_delimiter_char=decoding.word_seperator,
        supported_punctuation=decoding.supported_punctuation,
        tokenizer_type=decoding.tokenizer_type,
        decode_tokens_to_str=decoding.decode_tokens_to_str,
    )
    spoken = [word for word in words if str(word["word"]).strip()]
    return (
        [str(word["word"]).strip() for word in spoken],
        [(frames[word["start_offset"]], frames[word["end_offset"]]) for word in spoken],
    )


def _pieces(hypothesis: Any, decoding: Any, num_tokens: int) -> list[str]:
    """The tokenizer's pieces that a hypothesis is made of."""
    labels = [int(label) for label in hypothesis.y_sequence]
    if len(labels) != num_tokens:  # CTC: a label for each frame
        runs = (label for label, _ in itertools.groupby(labels))
        labels = [label for label in runs if label != decoding.blank_id]
    return [decoding.decode_ids_to_tokens([label])[0] for label in labels]


def _token_frames(
    hypothesis: Any, decoding: Any, characters: list[dict[str, Any]]
) -> list[tuple[int, int]]:
    """(begin, end) of each token. CTC: the frames that name it; else the one that wrote it, TDT:
    and its duration.
    """
    labels = [int(label) for label in hypothesis.y_sequence]
    if len(labels) == len(characters):
        offsets = [(int(row["start_offset"]), int(row["end_offset"])) for row in characters]
        return [(begin, max(end, begin + 1)) for begin, end in offsets]
    frames = []
    at = 0
    for label, run in itertools.groupby(labels):
        length = len(list(run))
        if label != decoding.blank_id:
            frames.append((at, at + length))
        at += length
    return frames
