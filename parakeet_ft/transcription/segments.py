"""Segments: stretches of audio that go through a model at once, and how they are read, by threads,
while the model works.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from parakeet_ft.data.audio import AudioError, read_audio, stream_audio
from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.manifest import Utterance

# Decoded whole, a long stereo recording of 44.1 kHz needs six times the memory of what the model
# hears of it.
STREAM_SECONDS = 300.0
# What threads read before it is asked for: 64 MB of samples.
AHEAD_SECONDS = 1000.0
# -80 dB below full scale, three steps of 16-bit audio: digital silence, dithered or not. Models
# write something for it.
SILENCE = 1e-4

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True)
class Segment:
    """`seconds` of `path` from `begin`, `whole` if that is all of it. `attention` None: the
    checkpoint's. `member`: which bytes of a shard are the file that `path` names.
    """

    path: str
    begin: float
    seconds: float
    whole: bool
    attention: str | None = None
    member: Member | None = None

    @property
    def source(self) -> str | Member:
        """Where the audio is read from."""
        return self.member or self.path


def segment_of(utterance: Utterance) -> Segment:
    """An utterance in one piece, as training reads it: `duration` seconds from `offset`."""
    return Segment(
        utterance.audio_filepath,
        utterance.offset,
        utterance.duration,
        whole=False,
        member=utterance.member,
    )


def stored_segment(stored: dict[str, Any]) -> Segment:
    """A segment from what dataclasses.asdict made of it."""
    member = stored.get("member")
    return Segment(**stored | {"member": Member(**member) if member else None})


def read_segment(segment: Segment, *, rate_hz: int) -> np.ndarray:
    """Mono audio (samples,). Raises AudioError; a file that holds no audio is empty if all of it
    was asked for.
    """
    try:
        if segment.whole and segment.seconds > STREAM_SECONDS:
            return np.concatenate(list(stream_audio(segment.source, rate_hz=rate_hz)))
        return read_audio(
            segment.source,
            offset=segment.begin,
            duration=None if segment.whole else segment.seconds,
            rate_hz=rate_hz,
        )
    except AudioError as error:
        if segment.whole and error.reason in ("zero_bytes", "no_samples"):
            return np.zeros(0, dtype=np.float32)
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise AudioError("unreadable", f"Cannot decode {segment.path}: {error}") from None


def is_silent(samples: np.ndarray) -> bool:
    """Whether there is nothing to hear: such audio has no words, whatever a model writes."""
    return not len(samples) or float(np.abs(samples).max()) < SILENCE


def length_batches(durations: Sequence[float], *, batch_seconds: float) -> list[list[int]]:
    """Indices sorted by duration, longest first, in batches whose padded length is at most
    batch_seconds (or one of them).
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(durations)), key=lambda i: (-durations[i], i)):
        if batches and durations[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def segment_batches(segments: Sequence[Segment], *, batch_seconds: float) -> list[list[int]]:
    """`length_batches` of the segments with the checkpoint's attention, then of the others."""
    by_attention: dict[str, list[int]] = {}
    for index, segment in enumerate(segments):
        by_attention.setdefault(segment.attention or "", []).append(index)
    batches = []
    for _, indices in sorted(by_attention.items()):
        durations = [segments[index].seconds for index in indices]
        for batch in length_batches(durations, batch_seconds=batch_seconds):
            batches.append([indices[place] for place in batch])
    return batches


def read_ahead(
    batches: Iterable[list[int]],
    read: Callable[[int], Read],
    *,
    num_threads: int,
    seconds: Callable[[int], float],
    most_seconds: float = AHEAD_SECONDS,
) -> Iterator[tuple[list[int], list[Read | AudioError]]]:
    """Batches with what was read of them, or the errors of reading it, while threads read the next:
    one of them, and more up to most_seconds of audio, of which `seconds` tells an index's.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="audio")
    waiting: collections.deque[tuple[list[int], list[Future]]] = collections.deque()
    remaining = collections.deque(batches)
    ahead = 0.0
    try:
        while remaining or waiting:
            while remaining and (len(waiting) < 2 or ahead < most_seconds):
                batch = remaining.popleft()
                ahead += sum(map(seconds, batch))
                waiting.append((batch, [pool.submit(read, index) for index in batch]))
            batch, futures = waiting.popleft()
            ahead -= sum(map(seconds, batch))
            yield batch, [_result(future) for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Read]) -> Read | AudioError:
    """What a thread read, or why it could not."""
    try:
        return future.result()
    except AudioError as error:
        return error
