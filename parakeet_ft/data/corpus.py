"""Utterances of one or several manifests, as a sequence that costs a process nothing to hold.

Small manifests are read into memory. Large ones are read once per node, by all cores, into files
(`columns`, `cache`) that ranks and their workers map: a fork or a pickle shares them.
"""

from __future__ import annotations

import bisect
import functools
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
from parakeet_ft.files import json_hash
from parakeet_ft.settings.manifests import WeightedManifest
from parakeet_ft.tokenizer.words import Texts, Words

# Bytes of manifests (some 20,000 lines) up to which they are read into memory each time.
SMALL = 6_000_000


class Part:
    """What one name in the settings stands for. `folder`: where it is kept, None if it is in memory
    alone; `weight`: how often a pass has each of its utterances.
    """

    def __init__(
        self, rows: Columns, *, name: str = "", weight: float = 1.0, folder: Path | None = None
    ) -> None:
        self.rows, self.name, self.weight, self.folder = rows, name, weight, folder

    @functools.cached_property
    def key(self) -> str:
        """The identity of its content."""
        if self.folder:
            return self.folder.name
        digest = hashlib.sha256()
        for column in self.rows.numbers.values():
            digest.update(column.tobytes())
        for strings in self.rows.strings.values():
            digest.update(strings.data)
        return digest.hexdigest()[:32]

    def __reduce__(self) -> tuple[Any, ...]:
        # A folder is mapped again; columns in memory travel.
        if self.folder:
            return _reopened, (self.folder, self.name, self.weight)
        buffers = {name: column.tobytes() for name, column in self.rows.numbers.items()}
        for name, strings in self.rows.strings.items():
            buffers |= {name: bytes(strings.data), f"{name}.ends": strings.ends.tobytes()}
        return _rebuilt, (self.rows.meta, buffers, self.name, self.weight)


def _reopened(folder: Path, name: str, weight: float) -> Part:
    return Part(columns.read(folder), name=name, weight=weight, folder=folder)


def _rebuilt(meta: Any, buffers: Any, name: str, weight: float) -> Part:
    return Part(Columns(meta, buffers), name=name, weight=weight)


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
        return cls([Part(rows)])

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

    def speakers(self) -> list[str | None]:
        """The speaker of each utterance."""
        found: list[str | None] = []
        for part in self.parts:
            names = [*part.rows.strings["speakers"], None]  # -1: none
            found += [names[i] for i in part.rows.numbers["speaker_ids"].tolist()]
        return found

    def spoken(self) -> Texts:
        """The texts, with their words for tokenizers."""
        return Texts(
            len(self),
            self._texts_between,
            self._count_words,
            key=self.key if self.kept else None,
            place=self._place,
        )

    def _place(self, number: int) -> str:
        """Where the utterance of a number, from 1, was read: lines without a word do not count."""
        at = bisect.bisect_left(self.starts, number) - 1
        of = f" of {self.parts[at].name}" if self.parts[at].name else ""
        return f"text {number - self.starts[at]}{of}"

    def _texts_between(self, start: int, stop: int) -> Iterator[str]:
        for first, last, part in zip(self.starts, self.starts[1:], self.parts, strict=False):
            if start < last and first < stop:
                texts = part.rows.strings["texts"]
                yield from texts.between(max(start, first) - first, min(stop, last) - first)

    def _count_words(self) -> Words | None:
        """The words of all parts; None if one of them has too many different ones."""
        counts: dict[str, int] = {}
        rows: dict[str, int] = {}
        for start, part in zip(self.starts, self.parts, strict=False):
            if not part.rows.meta["all_words"]:
                return None
            numbers = part.rows.numbers
            found = zip(
                part.rows.strings["words"],
                numbers["word_counts"].tolist(),
                (start + numbers["word_rows"]).tolist(),
                strict=True,
            )
            for word, count, row in found:
                counts[word] = counts.get(word, 0) + count
                rows.setdefault(word, row)
        metas = [part.rows.meta for part in self.parts]
        spaces = "".join(sorted(set("".join(meta["spaces"] for meta in metas))))
        return Words(counts, rows, sum(meta["uneven"] for meta in metas), spaces)

    def paths(self) -> Iterator[str]:
        """The paths, each once or, in very large corpora, a few times."""
        for part in self.parts:
            yield from part.rows.strings["paths"]

    @property
    def text_sizes(self) -> np.ndarray:
        """Bytes of the texts (N)."""
        return np.concatenate([part.rows.strings["texts"].sizes for part in self.parts])

    def blank(self) -> np.ndarray:
        """Numbers of the utterances without a word that are not marked as non-speech, in order."""
        found = []
        for start, part in zip(self.starts, self.parts, strict=False):
            rows = part.rows.numbers["blank_rows"]
            fields = part.rows.numbers["extra_ids"][rows]
            extras = part.rows.strings["extras"]
            marked = [
                one
                for one in np.unique(fields)
                if one >= 0 and json.loads(extras[one]).get("non_speech")
            ]
            found.append(start + rows[~np.isin(fields, marked)])
        return np.concatenate(found)

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
    def kept(self) -> bool:
        """Whether it is so large that it is kept in the cache, and what is found of it may be."""
        return any(part.folder for part in self.parts)

    @property
    def key(self) -> str:
        """The identity of the content and weights."""
        return json_hash([(part.key, part.weight) for part in self.parts])[:32]


def as_corpus(utterances: Sequence[Utterance]) -> Corpus:
    """Utterances as a corpus, if they are none yet."""
    return utterances if isinstance(utterances, Corpus) else Corpus.of(utterances)


def durations_of(utterances: Sequence[Utterance]) -> np.ndarray:
    """Seconds (N), float64."""
    if isinstance(utterances, Corpus):
        return utterances.durations
    return np.array([u.duration for u in utterances], dtype=np.float64)


def most_characters_of(utterances: Sequence[Utterance]) -> int:
    """Characters of the longest text."""
    if isinstance(utterances, Corpus):
        return utterances.most_characters
    return max(len(u.text) for u in utterances)


def _open_part(name: str, *, weight: float, thorough: bool) -> Part:
    found = sources.expand(name)
    if _is_small(found):
        rows = columns.in_memory(blocks_of(found, in_parallel=False))
        return Part(_not_empty(rows, name), name=name, weight=weight)
    prints = [(one.manifest, one.tar, sources.fingerprint(one)) for one in found]
    folder = cache.kept_folder(
        f"corpus-{json_hash([columns.FORMAT, prints])[:32]}",
        lambda folder: _build(folder, found, name),
        # Ranks map what the first process of their node has compared.
        lambda folder: columns.problem(folder, thorough=thorough),
    )
    rows = columns.read(folder)
    return Part(_not_empty(rows, name), name=name, weight=weight, folder=folder)


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
