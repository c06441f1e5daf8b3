"""When words begin and end: at the pauses between the frames that wrote their tokens. Pure.

Models with full context write a token anywhere in its word, often at its end, and NeMo 3.0.0 makes
of that a word of one frame (transducers) or one that begins where the last ended (CTC). The frames
therefore only say where to look: a pause of the audio that fits best between the tokens of two
words parts them; where there is none, the middle does.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

METHOD = "frames of the tokens, parted at the pauses of the audio, else halfway"
STEP_SECONDS = 0.01
# Shorter ones are closures of stops (the silence in "eight"), which seldom last longer.
PAUSE_SECONDS = 0.06
# Nothing spoken lies further from the token that stands for it.
REACH_SECONDS = 1.0
# Of the way from the quietest to the loudest (in dB) up to which it is a pause.
PAUSE_SHARE = 0.35
# With less between quietest and loudest, noise covers the pauses.
LEAST_RANGE_DB = 12.0
SHORTEST_SECONDS = 0.02
# So much after its word's end, or before its begin, a token may well be written: a frame and a
# half.
SLACK_SECONDS = 0.12

Span = tuple[float, float]
# Cost so far, border, where the best way to it stood in the column before.
Way = tuple[float, Span, int]


def pauses(samples: np.ndarray, *, rate_hz: int) -> list[Span]:
    """Stretches (begin, end) in seconds of `samples` that are quiet beside the rest; [] where noise
    covers them.
    """
    step = round(STEP_SECONDS * rate_hz)
    count = len(samples) // step
    if not count:
        return []
    power = np.square(samples[: count * step].astype(np.float64)).reshape(count, step).mean(axis=1)
    # Three steps are averaged, so that no single period of a low voice is a pause.
    levels = 10 * np.log10(np.convolve(power, np.ones(3) / 3, mode="same") + 1e-10)
    low, high = np.percentile(levels, [5, 95])
    if high - low < LEAST_RANGE_DB:
        return []
    quiet = np.concatenate(([False], levels < low + PAUSE_SHARE * (high - low), [False]))
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2) * STEP_SECONDS
    return [
        (float(begin), float(end)) for begin, end in edges if end - begin >= PAUSE_SECONDS - 1e-9
    ]


def word_spans(
    carried: Sequence[tuple[Span, Span]], quiet: Sequence[Span], *, duration: float
) -> list[Span]:
    """(begin, end) in seconds of words, from the spans of each one's first and last token and the
    `pauses` of the audio.

    The borders before, between and after the words take the pauses that together cost least
    (Viterbi), no pause twice. No word begins more than REACH_SECONDS before its first token or ends
    as much after its last, none overlaps the next.
    """
    if not carried:
        return []
    carried = [
        (_into_speech(first, quiet, duration), _into_speech(last, quiet, duration))
        for first, last in carried
    ]
    befores = [None, *(last for _, last in carried)]
    afters = [*(first for first, _ in carried), None]
    edges = _borders(list(zip(befores, afters, strict=True)), quiet)
    spans: list[Span] = []
    earliest = 0.0
    for (first, last), (_, begin), (end, _) in zip(carried, edges, edges[1:], strict=False):
        begin = max(begin, first[0] - REACH_SECONDS)
        end = min(end, last[1] + REACH_SECONDS)
        if end - begin < SHORTEST_SECONDS:  # two words in one frame
            begin, end = first[0], last[1]
        begin = min(max(begin, earliest), duration)
        spans.append((begin, min(max(end, begin + SHORTEST_SECONDS), duration)))
        earliest = spans[-1][1]
    return spans


def _into_speech(token: Span, quiet: Sequence[Span], duration: float) -> Span:
    """A token written in the silence before all speech, or after it, as if at the speech's edge.

    Models like to write the first token at the very first frame.
    """
    if not quiet:
        return token
    onset = quiet[0][1] if quiet[0][0] < PAUSE_SECONDS else 0.0
    if token[0] < onset <= token[1] + REACH_SECONDS:
        token = onset, max(token[1], onset)
    offset = quiet[-1][0] if quiet[-1][1] > duration - PAUSE_SECONDS else duration
    if token[0] - REACH_SECONDS <= offset < token[1]:
        token = min(token[0], offset), offset
    return token


def _borders(sides: Sequence[tuple[Span | None, Span | None]], quiet: Sequence[Span]) -> list[Span]:
    """For each border, given the token before and after it, its pause or the point that stands for
    none.
    """
    columns: list[list[Way]] = []
    for before, after in sides:
        here = [(0.0, _no_pause(before, after))]
        here += [(_cost(pause, before, after), pause) for pause in _near(quiet, before, after)]
        ways = _ways(here, columns[-1] if columns else None)
        if not ways:  # two tokens in one frame
            best, index = min((row[0], index) for index, row in enumerate(columns[-1]))
            ways = [(best, here[0][1], index)]
        columns.append(ways)
    found = []
    at = min(range(len(columns[-1])), key=lambda index: columns[-1][index][0])
    for column in reversed(columns):
        found.append(column[at][1])
        at = column[at][2]
    return found[::-1]


def _ways(here: Sequence[tuple[float, Span]], last: Sequence[Way] | None) -> list[Way]:
    """The best way to each (cost, border) that one of the last borders comes before; to the first
    border of all there is nothing to come from.
    """
    ways = []
    for cost, border in here:
        past = [(0.0, -1)]
        if last is not None:
            past = [(row[0], index) for index, row in enumerate(last) if row[1][1] < border[0]]
        if past:
            best, index = min(past)
            ways.append((best + cost, border, index))
    return ways


def _no_pause(before: Span | None, after: Span | None) -> Span:
    """The point that parts two tokens where no pause does."""
    ends = []
    if before is not None:
        ends.append(before[1])
    if after is not None:
        ends.append(after[0])
    point = sum(ends) / len(ends)
    return point, point


def _near(quiet: Sequence[Span], before: Span | None, after: Span | None) -> Sequence[Span]:
    """The pauses that may part two tokens: none further away than a word may reach."""
    first, last = before or after, after or before
    assert first and last, "a border has a token on one side at least"
    low = first[0] - (REACH_SECONDS if before is None else 2 * SLACK_SECONDS)
    high = last[1] + (REACH_SECONDS if after is None else 2 * SLACK_SECONDS)
    start = bisect.bisect_right(quiet, low, key=lambda span: span[1])
    return quiet[start : bisect.bisect_left(quiet, high, key=lambda span: span[0])]


def _cost(pause: Span, before: Span | None, after: Span | None) -> float:
    """Less, the longer the pause; more, the further the token before it lies beyond its begin, or
    that after it before its end.
    """
    late = max(0.0, before[0] - pause[0]) if before else 0.0
    early = max(0.0, pause[1] - after[1]) if after else 0.0
    beyond = max(0.0, late - SLACK_SECONDS) + max(0.0, early - SLACK_SECONDS)
    return 0.5 * (late + early) + 3 * beyond - 0.1 - min(pause[1] - pause[0], 0.3)
