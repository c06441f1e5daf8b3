"""Utterances of one or several manifests, as a sequence that costs a process nothing to hold.

Small manifests are read into memory. Large ones are read once per node, by all cores, into files
(`columns`, `cache`) that ranks and their workers map: a fork or a pickle shares them.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from parakeet_ft.data import cache, columns, sources, storage
from parakeet_ft.data.columns import Columns
from parakeet_ft.data.manifest import ManifestError, Utterance
from parakeet_ft.data.manifest_blocks import blocks_of
from parakeet_ft.data.sources import Source
from parakeet_ft.settings.finetune import WeightedManifest

# Bytes of manifests (some 20,000 lines) up to which they are read into memory each time.
SMALL = 6_000_000


class Part:
    """What one name in the settings stands for. `key`: the identity of its content, None if it was
    made of utterances in memory; `weight`: how often a pass has each of its utterances.
    """

    def __init__(
        self, rows: Columns, *, name: str, key: str | None, weight: float, folder: Path | None
    ) -> None:
        self.rows, self.name, self.key, self.weight, self.folder = rows, name, key, weight, folder

    def __reduce__(self) -> tuple[Any, ...]:
        # A folder is mapped again; columns in memory travel.
        if self.folder:
            return _reopened, (self.folder, self.name, self.key, self.weight)
        buffers = {name: column.tobytes() for name, column in self.rows.numbers.items()}
        for name, strings in self.rows.strings.items():
            buffers |= {name: bytes(strings.data), f"{name}.ends": strings.ends.tobytes()}
        return _rebuilt, (self.rows.meta, buffers, self.name, self.key, self.weight)


def _reopened(folder: Path, name: str, key: str | None, weight: float) -> Part:
    return Part(columns.read(folder), name=name, key=key, weight=weight, folder=folder)


def _rebuilt(meta: Any, buffers: Any, name: str, key: str | None, weight: float) -> Part:
    return Part(Columns(meta, buffers), name=name, key=key, weight=weight, folder=None)


class Corpus(Sequence[Utterance]):
    """The utterances of parts, one after the other; `corpus[i]` makes one."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.starts = [0, *itertools.accumulate(len(part.rows) for part in parts)]

    @classmethod
    def open(
        cls, named: str | os.PathLike | Iterable[WeightedManifest], *, thorough: bool = True
    ) -> Corpus:
        """The corpus of a manifest, or of several ({manifest, weight} each). thorough: compare
        what is cached with its checksums. Raises ManifestError as `read_manifest` does.
        """
        if isinstance(named, str | os.PathLike):
            named = [WeightedManifest(os.fspath(named))]
        return cls(
            [_open_part(one.manifest, weight=one.weight, thorough=thorough) for one in named]
        )

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> Corpus:
        """Utterances in memory as a corpus."""
        rows = columns.in_memory([columns.block_of(map(columns.row_of, utterances))])
        return cls([Part(rows, name="", key=None, weight=1.0, folder=None)])

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of {len(self)}")
        index = index % len(self)
        at = bisect.bisect_right(self.starts, index) - 1
        return self.parts[at].rows.utterance(index - self.starts[at])

    def __iter__(self) -> Iterator[Utterance]:
        return (part.rows.utterance(i) for part in self.parts for i in range(len(part.rows)))

    def __add__(self, other: Corpus) -> Corpus:
        return Corpus(self.parts + other.parts)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers (N); of several parts a copy."""
        found = [part.rows.numbers[name] for part in self.parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    @property
    def durations(self) -> np.ndarray:
        """Seconds (N), float64."""
        return self.numbers("durations")

    def texts(self) -> Iterator[str]:
        """The texts, in order."""
        for part in self.parts:
            yield from part.rows.strings["texts"]

    def paths(self) -> Iterator[str]:
        """The paths, each once or, in very large corpora, a few times."""
        for part in self.parts:
            yield from part.rows.strings["paths"]

    @property
    def text_sizes(self) -> np.ndarray:
        """Bytes of the texts (N)."""
        return np.concatenate([part.rows.strings["texts"].sizes for part in self.parts])

    @property
    def num_words(self) -> int:
        """Words of all texts."""
        return sum(part.rows.meta["num_words"] for part in self.parts)

    @property
    def most_characters(self) -> int:
        """Characters of the longest text."""
        return max((part.rows.meta["most_characters"] for part in self.parts), default=0)

    @property
    def spans(self) -> list[tuple[int, int, float]]:
        """First and last + 1 index of each part, and its weight."""
        pairs = zip(itertools.pairwise(self.starts), self.parts, strict=True)
        return [(start, stop, part.weight) for (start, stop), part in pairs]

    @property
    def key(self) -> str | None:
        """The identity of the content and weights; None if it is not kept in the cache."""
        keys = [(part.key, part.weight) for part in self.parts]
        if not all(part.folder for part in self.parts):
            return None
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:32]


def durations_of(utterances: Sequence[Utterance]) -> np.ndarray:
    """Seconds (N), float64."""
    if isinstance(utterances, Corpus):
        return utterances.durations
    return np.array([u.duration for u in utterances], dtype=np.float64)


def texts_of(utterances: Iterable[Utterance]) -> Iterator[str]:
    """The texts, in order."""
    return utterances.texts() if isinstance(utterances, Corpus) else (u.text for u in utterances)


def _open_part(name: str, *, weight: float, thorough: bool) -> Part:
    found = sources.expand(name)
    if _is_small(found):
        rows = columns.in_memory(blocks_of(found, in_parallel=False))
        return Part(_not_empty(rows, name), name=name, key=None, weight=weight, folder=None)
    prints = [(one.manifest, one.tar, sources.fingerprint(one)) for one in found]
    content = json.dumps([columns.FORMAT, prints])
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    folder = cache.kept_folder(
        f"corpus-{key}",
        lambda folder: _build(folder, found, name),
        # Ranks map what the first process of their node has compared.
        lambda folder: columns.problem(folder, thorough=thorough),
    )
    rows = columns.read(folder)
    return Part(_not_empty(rows, name), name=name, key=key, weight=weight, folder=folder)


def _is_small(found: Sequence[Source]) -> bool:
    """Whether reading is quicker than to look for what was read before; what is no file here is
    told by reading it.
    """
    local = [one.manifest for one in found if not storage.is_remote(one.manifest)]
    if not all(map(os.path.isfile, local)):
        return True
    return len(local) == len(found) and sum(map(os.path.getsize, local)) <= SMALL


def _build(folder: Path, found: Sequence[Source], name: str) -> None:
    print(f"reading {name}, once for all runs and ranks of this machine", flush=True)
    columns.write(folder, blocks_of(found, in_parallel=True), name=name)


def _not_empty(rows: Columns, name: str) -> Columns:
    """Raise ManifestError for no utterance at all."""
    if not len(rows):
        raise ManifestError(
            f"{name} holds no utterance. Expected at least one JSON line with audio_filepath, "
            f"duration and text."
        )
    return rows
