"""Whether the audio files of a corpus are there: all of them once, later a sample."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parakeet_ft.data import cache, storage
from parakeet_ft.data.corpus import Part, as_corpus
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.parallel import chunked

# A disk on the network answers after a millisecond, and answers many at once.
THREADS = 32
CHUNK = 1000
# Files after which it is noted how far the search has come.
NOTED = 100_000
SAMPLE = 1000


def missing_files(utterances: Sequence[Utterance]) -> tuple[list[str], list[str]]:
    """Paths of audio files that do not exist, each once, in order; and a line for each part whose
    files were all found by an earlier run, of which a sample is looked for again.
    """
    gone: dict[str, None] = {}
    lines = []
    for part in as_corpus(utterances).parts:
        found, line = _missing_of_part(part)
        gone |= dict.fromkeys(found)
        lines += [line] if line else []
    return list(gone), lines


def _missing_of_part(part: Part) -> tuple[list[str], str | None]:
    files = _files(part)
    done = _done(part)
    if files and done >= len(files):
        chosen = random.Random().sample(range(len(files)), min(SAMPLE, len(files)))
        line = (
            f"{part.name}: all {len(files)} audio files were found by an earlier run; "
            f"{len(chosen)} of them, drawn anew, are looked for again"
        )
        return list(_missing(map(files.__getitem__, sorted(chosen)))), line
    gone: list[str] = []
    for first in range(done, len(files), NOTED):
        last = min(first + NOTED, len(files))
        gone += _missing(map(files.__getitem__, range(first, last)))
        if part.folder and not gone:
            cache.write_facts(f"files-{part.key}", {"found": last})
    return gone, None


def _done(part: Part) -> int:
    """How many of its files were found by earlier runs, from the first on."""
    known = cache.read_facts(f"files-{part.key}") if part.folder else None
    return int(known["found"]) if known else 0


def _files(part: Part) -> Sequence[str]:
    """The paths of a part that are files of their own: members were found in their tars."""
    numbers, paths = part.rows.numbers, part.rows.strings["paths"]
    members = numbers["file_ids"] >= 0
    if not members.any():
        return paths
    own = np.ones(len(paths), bool)
    own[numbers["path_ids"][members]] = False
    return [paths[index] for index in np.flatnonzero(own)]


def _missing(paths: Iterable[str]) -> Iterator[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in pool.map(_missing_of, chunked(paths, CHUNK)):
            yield from chunk


def _missing_of(paths: list[str]) -> list[str]:
    return [path for path in paths if not (storage.is_remote(path) or os.path.isfile(path))]
