"""A transcript aligned to its recording's CTC log-probabilities, and cut into utterances at pauses.
numpy; exact; bounded memory.

The method is that of CTC segmentation (Kürzinger et al. 2020, arXiv 2007.09127): the best CTC path
of the whole transcript, untranscribed audio allowed at sentence ends, and a score that says where
the transcript does not fit.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from parakeet_ft.data.text import strip_punctuation
from parakeet_ft.errors import UserError

# Audio that the transcript lacks may pass for this much a frame (nats) between sentences: dearer
# than speech that fits, far cheaper than pressing words into it.
UNTRANSCRIBED = -1.0
# The score of an utterance is its worst stretch of this many frames (2.4 s at 80 ms), as in the
# paper.
SCORE_FRAMES = 30
SENTENCE_END = re.compile(r"[.!?…。]['\"»”)]*$")


@dataclasses.dataclass(frozen=True)
class TranscriptWord:
    """A word of the transcript, as written, and its tokens; `ends_sentence` where an utterance may
    end first of all.
    """

    text: str
    tokens: tuple[int, ...]
    ends_sentence: bool


@dataclasses.dataclass(frozen=True)
class AlignedUtterance:
    """An utterance of a recording: times in seconds, score in nats a frame (0 is certain, below -2
    seldom right).
    """

    begin: float
    end: float
    text: str
    score: float


def transcript_words(
    text: str, *, encode: Callable[[str], Sequence[int]], unknown_id: int
) -> list[TranscriptWord]:
    """Words with tokens. Line ends and sentence marks end sentences.

    A word that the tokenizer cannot write is tried in lower case and then without punctuation; one
    that still cannot be written has no tokens, and keeps its place in the text between its
    neighbours.
    """
    words = []
    for line in text.splitlines():
        parts = line.split()
        for number, part in enumerate(parts):
            ends_sentence = number == len(parts) - 1 or bool(SENTENCE_END.search(part))
            words.append(TranscriptWord(part, _tokens(part, encode, unknown_id), ends_sentence))
    return words


def _tokens(word: str, encode: Callable[[str], Sequence[int]], unknown_id: int) -> tuple[int, ...]:
    """The tokens of the first form of a word that can be written; () if none can."""
    for form in (word, word.lower(), strip_punctuation(word.lower()).strip()):
        found = tuple(encode(form)) if form else ()
        if found and unknown_id not in found:
            return found
    return ()


def best_path(
    log_probs: np.ndarray, tokens: Sequence[int], *, blank: int, free_after: Sequence[int] = ()
) -> np.ndarray:
    """The most probable CTC path of `tokens` over log_probs (T, V), as states (T,): 2i + 1 is token
    i, 2i the blank before it.

    Before the first token, after the last, and after those whose index is in `free_after`, a blank
    costs at most -UNTRANSCRIBED a frame. Memory is O(sqrt(T) * tokens): scores are kept each
    sqrt(T) frames, and the frames between computed again on the way back. Raises UserError if the
    tokens do not fit into the frames.
    """
    num_frames = len(log_probs)
    needed = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
    if needed > num_frames:
        raise UserError(
            f"The transcript has {needed} tokens, the recording {num_frames} frames: it belongs to "
            f"another recording."
        )
    trellis = _Trellis(log_probs, tokens, blank=blank, free_after=free_after)
    step = max(1, math.isqrt(num_frames))
    scores = trellis.start()
    kept = {0: scores}
    for frame in range(1, num_frames):
        scores = trellis.advance(scores, frame)
        if frame % step == 0:
            kept[frame] = scores
    path = np.empty(num_frames, dtype=np.int64)
    last = len(scores) - 1
    path[-1] = last if last == 0 or scores[-1] >= scores[-2] else last - 1
    end = num_frames - 1
    for start in sorted(kept, reverse=True):
        scores = kept[start]
        backs = np.zeros((end - start, len(scores)), dtype=np.int8)
        for row, frame in enumerate(range(start + 1, end + 1)):
            scores = trellis.advance(scores, frame, backs[row])
        for frame in range(end, start, -1):
            path[frame - 1] = path[frame] - backs[frame - start - 1, path[frame]]
        end = start
    return path


class _Trellis:
    """The states of a CTC path over log_probs (T, V), and how scores go from frame to frame."""

    def __init__(
        self, log_probs: np.ndarray, tokens: Sequence[int], *, blank: int, free_after: Sequence[int]
    ) -> None:
        self.log_probs = log_probs
        self.labels = _labels(tokens, blank)
        last = len(self.labels) - 1
        self.free = np.array(sorted({0, last, *(2 * i + 2 for i in free_after)}))
        # Without a blank between, a token may follow another only if they differ.
        self.cannot_skip = np.ones(len(self.labels), dtype=bool)
        self.cannot_skip[3::2] = self.labels[3::2] == self.labels[1:-2:2]

    def start(self) -> np.ndarray:
        """Scores (states,) of the first frame: a path begins with a blank or the first token."""
        scores = np.full(len(self.labels), -np.inf, dtype=np.float32)
        scores[:2] = self._emissions(0)[:2]
        return scores

    def advance(self, scores: np.ndarray, frame: int, back: np.ndarray | None = None) -> np.ndarray:
        """The scores of a frame from those of the one before, less the best, as float32 would lose
        hundredths of a nat over hours; `back` takes how many states each came from behind.
        """
        from_one = np.concatenate(([-np.inf], scores[:-1])).astype(np.float32)
        from_two = np.concatenate(([-np.inf, -np.inf], scores[:-2])).astype(np.float32)
        from_two = from_two[: len(scores)]
        from_two[self.cannot_skip] = -np.inf
        best = np.maximum(scores, from_one)
        if back is not None:
            back[:] = from_one > scores
            back[from_two > best] = 2
        np.maximum(best, from_two, out=best)
        best += self._emissions(frame)
        best -= best.max()
        return best

    def _emissions(self, frame: int) -> np.ndarray:
        """Log-probabilities (states,) of a frame."""
        row = np.asarray(self.log_probs[frame], dtype=np.float32)[self.labels]
        row[self.free] = np.maximum(row[self.free], UNTRANSCRIBED)
        return row


def _labels(tokens: Sequence[int], blank: int) -> np.ndarray:
    """The label of each state: the tokens with a blank before, between and after."""
    labels = np.full(2 * len(tokens) + 1, blank)
    labels[1::2] = tokens
    return labels


def align_words(
    log_probs: np.ndarray, words: Sequence[TranscriptWord], *, blank: int, frame_seconds: float
) -> list[tuple[float, float, float]]:
    """(begin, end, score) of each word: times in seconds, score the worst mean log-probability (see
    SCORE_FRAMES) of the stretch around it.
    """
    tokens = [token for word in words for token in word.tokens]
    owners = np.repeat(np.arange(len(words)), [len(word.tokens) for word in words])
    last_of = np.cumsum([len(word.tokens) for word in words]) - 1
    path = best_path(
        log_probs,
        tokens,
        blank=blank,
        free_after=[
            int(last_of[i])
            for i, word in enumerate(words)
            if word.ends_sentence and last_of[i] >= 0
        ],
    )
    spoken = np.flatnonzero(path % 2)
    first = np.full(len(words), -1)
    last = np.full(len(words), -1)
    for frame in spoken:
        word = owners[path[frame] // 2]
        first[word] = frame if first[word] < 0 else first[word]
        last[word] = frame
    labels = _labels(tokens, blank)
    # Chosen row by row: the whole matrix may be a file on disk.
    along = np.array([float(log_probs[frame][labels[state]]) for frame, state in enumerate(path)])
    sums = np.concatenate(([0.0], np.cumsum(along)))
    times = []
    end = 0
    for index in range(len(words)):
        begin = end  # of a word without tokens, which takes no time
        score = 0.0
        if first[index] >= 0:
            begin = int(first[index])
            end = int(last[index]) + 1
            score = _stretch(sums, begin, end)
        times.append((begin * frame_seconds, end * frame_seconds, score))
    return times


def _stretch(sums: np.ndarray, begin: int, end: int) -> float:
    """Mean log-probability of SCORE_FRAMES frames around a word, within the recording."""
    middle = (begin + end) // 2
    total = len(sums) - 1
    low = max(0, min(middle - SCORE_FRAMES // 2, total - SCORE_FRAMES))
    high = min(total, low + SCORE_FRAMES)
    return float(sums[high] - sums[low]) / (high - low)


def cut_utterances(
    words: Sequence[TranscriptWord],
    times: Sequence[tuple[float, float, float]],
    *,
    max_seconds: float,
    total_seconds: float,
    pad_seconds: float = 0.3,
) -> list[AlignedUtterance]:
    """Utterances: sentences, and those longer than `max_seconds` parted at their longest pauses.

    Each takes half of the pause to its neighbour, at most `pad_seconds`; its score is that of its
    worst word.
    """
    groups = []
    start = 0
    for index, word in enumerate(words):
        if word.ends_sentence or index == len(words) - 1:
            groups += _part(times, start, index + 1, max_seconds - 2 * pad_seconds)
            start = index + 1
    segments = []
    for number, (low, high) in enumerate(groups):
        begin = times[low][0]
        end = times[high - 1][1]
        if end <= begin:
            continue
        # The edges of the recording need not be shared with a neighbour.
        room_before = begin
        if number:
            room_before = max(0.0, begin - times[groups[number - 1][1] - 1][1]) / 2
        room_after = max(0.0, total_seconds - end)
        if number + 1 < len(groups):
            room_after = max(0.0, times[groups[number + 1][0]][0] - end) / 2
        scores = [score for begins, ends, score in times[low:high] if ends > begins]
        segments.append(
            AlignedUtterance(
                round(begin - min(pad_seconds, room_before), 3),
                round(end + min(pad_seconds, room_after), 3),
                " ".join(w.text for w in words[low:high]),
                round(min(scores, default=-99.0), 3),
            )
        )
    return segments


def _part(
    times: Sequence[tuple[float, float, float]], low: int, high: int, max_seconds: float
) -> list[tuple[int, int]]:
    """Ranges of words of at most `max_seconds`, parted at the longest pause; of equal pauses at the
    one nearest to the middle.
    """
    if high - low < 2 or times[high - 1][1] - times[low][0] <= max_seconds:
        return [(low, high)]
    middle = (times[low][0] + times[high - 1][1]) / 2
    at = max(
        range(low + 1, high),
        key=lambda i: (round(times[i][0] - times[i - 1][1], 2), -abs(times[i][0] - middle)),
    )
    return _part(times, low, at, max_seconds) + _part(times, at, high, max_seconds)
