"""One pass over the data as batches: drawn, sorted and cut in numpy, held as two arrays.

What is drawn is what Python's random.Random draws for the same seed, number by number: numpy has
the same Mersenne Twister, which is given the other's state.
"""

from __future__ import annotations

import json
import random
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from parakeet_ft.files import broken_seal, read_json, sealed, write_json

# Of the folders that passes are kept in, and of how a pass is made of its seed.
FORMAT = 1
FILES = ("order.npy", "starts.npy")


class Pass(Sequence[list[int]]):
    """The batches of one pass, those of one step together. order: utterances (N) int32; batch b is
    order[starts[b]:starts[b + 1]].
    """

    def __init__(self, order: np.ndarray, starts: np.ndarray) -> None:
        self.order, self.starts = order, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        index %= len(self)
        return self.order[self.starts[index] : self.starts[index + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def sizes(self) -> np.ndarray:
        """Utterances of each batch."""
        return np.diff(self.starts)

    def write(self, folder: Path) -> None:
        """Keep it in a folder."""
        np.save(folder / "order.npy", self.order)
        np.save(folder / "starts.npy", self.starts)
        crcs = {name: zlib.crc32((folder / name).read_bytes()) for name in FILES}
        write_json(folder / "meta.json", sealed(crcs))

    @classmethod
    def read(cls, folder: Path) -> Pass:
        """Map what was written."""
        order, starts = (np.asarray(np.load(folder / name, mmap_mode="r")) for name in FILES)
        return cls(order, starts)


def problem(folder: Path) -> str | None:
    """What is wrong with a folder that a pass was written into; None if nothing is."""
    try:
        meta = read_json(folder / "meta.json")
        if wrong := broken_seal(meta):
            return wrong
        for name in FILES:
            if zlib.crc32((folder / name).read_bytes()) != meta.get(name):
                return f"{name} was changed after it was written (its checksum differs)"
    except (OSError, ValueError) as error:
        return str(error)
    return None


class Twister:
    """What random.Random(seed) draws, many numbers at a time. Either kind of draw goes on where the
    last one ended; after `below` there is no `uniform`.
    """

    def __init__(self, seed: str) -> None:
        _, state, _ = random.Random(seed).getstate()
        self.numbers = np.random.RandomState()
        self.numbers.set_state(("MT19937", np.array(state[:-1], np.uint32), state[-1], 0, 0.0))
        self.raw = self._raw()

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        """uniform(low, high), `count` times."""
        return low + (high - low) * self.numbers.random_sample(count)

    def _raw(self) -> Iterator[int]:
        while True:
            yield from np.frombuffer(self.numbers.bytes(1 << 16), "<u4").tolist()

    def below(self, first: int, last: int) -> Iterator[int]:
        """randrange(first), randrange(first - 1), ... to randrange(last)."""
        raw = self.raw
        for bound in range(first, last - 1, -1):
            shift = 32 - bound.bit_length()
            value = next(raw) >> shift
            while value >= bound:
                value = next(raw) >> shift
            yield value

    def shuffled(self, count: int) -> np.ndarray:
        """range(count) after random.shuffle."""
        found = array("i", range(count))
        for i, j in zip(range(count - 1, 0, -1), self.below(count, 2), strict=True):
            found[i], found[j] = found[j], found[i]
        return np.frombuffer(found, np.int32) if count else np.zeros(0, np.int32)

    def sample(self, count: int, *, step: int = 1 << 16) -> Iterator[np.ndarray]:
        """random.sample(range(count), count), a part at a time, int32."""
        pool = array("i", range(count))
        drawn = array("i")
        for left, j in zip(range(count, 0, -1), self.below(count, 1), strict=True):
            drawn.append(pool[j])
            pool[j] = pool[left - 1]
            if len(drawn) == step or left == 1:
                yield np.array(drawn, np.int32)
                drawn = array("i")


def plan_pass(
    durations: Sequence[float] | np.ndarray,
    indices: Sequence[int] | np.ndarray,
    *,
    batch_seconds: float,
    seed: int,
    number: int,
    num_ranks: int = 1,
) -> Pass:
    """Divide `indices` into batches of similar duration, at most batch_seconds with padding, in
    random order; the ranks of one step get neighbours in duration, so that none waits long.

    Every index occurs as often as it is given. The number of batches is a multiple of num_ranks:
    the largest are halved until it is.
    """
    twister = Twister(f"{seed} {number}")
    durations, given = np.asarray(durations, np.float64), np.asarray(indices, np.int32)
    # Jitter of 10 % makes other neighbours in each pass and costs little padding.
    lengths = durations[given] * twister.uniform(0.9, 1.1, len(given))
    order = given[np.argsort(lengths, kind="stable")]
    starts = _cut(durations[order], batch_seconds)
    order, starts = _halved(order, starts, num_ranks)
    groups = twister.shuffled((len(starts) - 1) // num_ranks)
    batches = (groups[:, None].astype(np.int64) * num_ranks + np.arange(num_ranks)).ravel()
    return _arranged(order, starts, batches)


def _cut(durations: np.ndarray, batch_seconds: float, *, step: int = 1 << 20) -> np.ndarray:
    """Where batches start, for utterances in order: each takes what comes until it is full."""
    starts = array("q")
    size, longest = 0, 0.0
    for first in range(0, len(durations), step):
        for at, duration in enumerate(durations[first : first + step].tolist(), first):
            if duration > longest:
                longest = duration
            size += 1
            if size == 1 or longest * size > batch_seconds:
                starts.append(at)
                size, longest = 1, duration
    starts.append(len(durations))
    return np.array(starts, np.int64)


def _halved(order: np.ndarray, starts: np.ndarray, num_ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve the largest batches in place until num_ranks divides their number."""
    while (len(starts) - 1) % num_ranks:
        sizes = np.diff(starts)
        at = int(sizes.argmax())
        if sizes[at] == 1:
            raise ValueError(
                f"{len(order)} utterances cannot be divided equally among {num_ranks} ranks"
            )
        batch = order[starts[at] : starts[at + 1]]
        halves = batch[::2], batch[1::2]
        order[starts[at] : starts[at + 1]] = np.concatenate(halves)
        starts = np.insert(starts, at + 1, starts[at] + len(halves[0]))
    return order, starts


def _arranged(order: np.ndarray, starts: np.ndarray, batches: np.ndarray) -> Pass:
    """The batches of these numbers, in this order."""
    sizes = np.diff(starts)[batches]
    ends = np.cumsum(sizes)
    shift = np.repeat(starts[batches] - (ends - sizes), sizes)
    shift += np.arange(len(order))
    return Pass(order[shift], np.concatenate([[0], ends]).astype(np.int64))


def draw_replay(
    durations: Sequence[float] | np.ndarray,
    indices: Sequence[int] | np.ndarray,
    *,
    seconds: float,
    seed: int,
    number: int,
    name: str = "replay",
) -> np.ndarray:
    """Indices of replay utterances for one pass, int32: shuffled anew, and again if they run out,
    until `seconds` are full. Replays of other names are shuffled in other ways.
    """
    twister = Twister(f"{name} {seed} {number}")
    durations, given = np.asarray(durations, np.float64), np.asarray(indices, np.int32)
    drawn: list[np.ndarray] = []
    filled = 0.0
    while len(given) and filled < seconds:
        for part in twister.sample(len(given)):
            found = given[part]
            # Sums from the left, as a loop would add them.
            sums = np.cumsum(np.concatenate([[filled], durations[found]]))
            count = int(np.searchsorted(sums[:-1], seconds))
            drawn.append(found[:count])
            filled = float(sums[count])
            if count < len(found):
                break
    return np.concatenate(drawn) if drawn else np.zeros(0, np.int32)


def weighted(spans: Sequence[tuple[int, int, float]], *, seed: int, number: int) -> np.ndarray:
    """The indices of one pass, int32: each span (first, last + 1, weight) as often as its weight
    says. Of a fraction, consecutive passes take consecutive parts of a shuffled span, so that all
    of it is met.
    """
    found = []
    for start, stop, weight in spans:
        whole, count = int(weight), stop - start
        found += [np.arange(start, stop, dtype=np.int32)] * whole
        some = round((weight - whole) * count)
        if some:
            key = zlib.crc32(json.dumps([seed, start, stop]).encode())
            shuffled = np.random.RandomState(key).permutation(count)
            # In [number * some, (number + 1) * some), around and around.
            chosen = shuffled[(number * some + np.arange(some)) % count]
            found.append((start + np.sort(chosen)).astype(np.int32))
    return np.concatenate(found) if found else np.zeros(0, np.int32)
