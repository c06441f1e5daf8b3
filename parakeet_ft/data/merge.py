"""Corpora -> one: manifests of all that are files, the names of all that are shards, and what the
corpora have in common.

What is compared lies in a database on disk that nobody sees: memory stays flat.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import sources, storage
from parakeet_ft.data.corpora.nemo_manifest import SPLIT_WORDS
from parakeet_ft.data.layouts import Source, expand, holds_shards
from parakeet_ft.data.ledger import ledger_errors
from parakeet_ft.data.manifest import LineFiles, Utterance
from parakeet_ft.data.splits import SPLITS, path_from
from parakeet_ft.data.text import is_short, text_key
from parakeet_ft.errors import UserError
from parakeet_ft.files import read_json, write_json
from parakeet_ft.urls import without_secrets

MERGED = "merge.json"
SCHEMA = """
CREATE TABLE utterances (input INTEGER, split TEXT, text BLOB, same BLOB, speaker TEXT,
    short INTEGER, samples TEXT);
CREATE TABLE known (input INTEGER, same BLOB, samples TEXT);
"""
INDICES = """
CREATE INDEX by_known ON known (input, same);
UPDATE utterances SET samples = (SELECT known.samples FROM known WHERE
    known.input = utterances.input AND known.same = utterances.same);
CREATE INDEX by_text ON utterances (text);
CREATE INDEX by_same ON utterances (same);
CREATE INDEX by_speaker ON utterances (speaker);
CREATE INDEX by_samples ON utterances (samples);
"""
# Short texts that others say are no reason to think that they are the same audio.
MAY_BE_THE_SAME = (
    " AND NOT (held.short AND held.speaker IS NOT NULL AND other.speaker IS NOT NULL "
    "AND held.speaker != other.speaker)"
)
# What two utterances can have in common: column, and its name in messages.
SHARED = {
    "samples": "the samples",
    "same": "text, speaker and length",
    "text": "the text",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One split of an input, in the order in which inputs were named."""

    number: int
    split: str
    name: str
    sources: tuple[Source, ...]

    @property
    def is_files(self) -> bool:
        """Whether its lines name single files of this machine, and a manifest can hold them."""
        return all(s.kind == "manifest" and not storage.is_remote(s.manifest) for s in self.sources)


@dataclasses.dataclass
class Merged:
    """What a merge found. Seconds and counts by (input, split); `names` of inputs, `data` what a
    run reads, by split.
    """

    names: list[str]
    data: dict[str, list[str]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    seconds: dict[tuple[int, str], float] = dataclasses.field(
        default_factory=lambda: defaultdict(float)
    )
    count: dict[tuple[int, str], int] = dataclasses.field(default_factory=lambda: defaultdict(int))
    copies: list[str] = dataclasses.field(default_factory=list)
    overlap: list[str] = dataclasses.field(default_factory=list)


def merge(inputs: Sequence[str], *, out: Path, allow_overlap: bool = False) -> Merged:
    """Write OUT/{train,dev,test}.jsonl of all that are files, and OUT/merge.json, which names what
    a run reads for each split: those, and folders of shards where they lie.

    Raises UserError for inputs that cannot be used, and, unless `allow_overlap`, if dev or test of
    one shares speakers, texts or audio with train of another; then nothing is written.
    """
    out = Path(os.path.abspath(out))
    parts = [part for number, given in enumerate(inputs) for part in parts_of(number, given)]
    _check(inputs, parts, out)
    found = Merged(list(inputs))
    with (
        ledger_errors(Path(tempfile.gettempdir())),
        contextlib.closing(sqlite3.connect("")) as facts,
        contextlib.ExitStack() as written,
    ):
        facts.executescript(SCHEMA)
        files = LineFiles(out, written)
        for part in parts:
            facts.executemany(
                "INSERT INTO utterances VALUES (?, ?, ?, ?, ?, ?, NULL)",
                _copied(part, files, found),
            )
        for number, given in enumerate(inputs):
            facts.executemany("INSERT INTO known VALUES (?, ?, ?)", _measured(number, given))
        facts.executescript(INDICES)
        found.copies = list(_copies(facts, found.names))
        found.overlap = list(_overlap(facts, found.names))
        if found.overlap and not allow_overlap:
            raise UserError(
                f"{'; '.join(found.overlap)}: what is scored must not be trained on. Leave the one "
                "or the other out, or split all anew by `python data_prep/split.py`; "
                "--allow-overlap lets it pass."
            )
    _describe(parts, found, out)
    return found


def parts_of(number: int, given: str) -> list[Part]:
    """The splits of an input: SPLIT=NAME, a folder that a script wrote, a manifest or folder of
    shards that is called after its split. Raises UserError.
    """
    split, is_named, name = given.partition("=")
    if is_named and split in SPLITS:
        return [_part(number, split, name)]
    if not storage.is_remote(given) and os.path.isdir(given):
        if os.path.isfile(os.path.join(given, MERGED)):
            data = _merged_before(Path(given) / MERGED)
            return [_part(number, split, name) for split in SPLITS for name in data.get(split, ())]
        places = [(s, os.path.join(given, s)) for s in SPLITS]
        inside = [(s, f"{path}.jsonl") for s, path in places if os.path.isfile(f"{path}.jsonl")]
        inside += [(s, path) for s, path in places if os.path.isdir(path) and holds_shards(path)]
        if inside:
            return [_part(number, split, name) for split, name in inside]
    stem = os.path.basename(given.rstrip("/")).partition(".")[0]
    if stem not in SPLIT_WORDS:
        expand(given)  # what is not there is told first
        raise UserError(
            f"{given}: its name does not say which split it is. Expected train, dev or test before "
            f"it, as in train={given}."
        )
    return [_part(number, SPLIT_WORDS[stem], given)]


def _part(number: int, split: str, name: str) -> Part:
    """A split, with its files found. Raises UserError if they are not there."""
    name = without_secrets(name)
    place = (
        name if storage.is_remote(name) or name.startswith("bundled:") else os.path.abspath(name)
    )
    return Part(number, split, place, tuple(expand(place)))


def _merged_before(path: Path) -> dict[str, list[str]]:
    """What an earlier merge names. Raises UserError for a file that is none of ours."""
    try:
        data = read_json(path)["data"]
        assert all(isinstance(name, str) for names in data.values() for name in names)
    except (ValueError, KeyError, AttributeError, TypeError, AssertionError):
        raise UserError(f"{path} is not as merge.py writes it: make it again.") from None
    return data


def _check(inputs: Sequence[str], parts: Sequence[Part], out: Path) -> None:
    """Raise UserError for what is named twice, and for an --out that is or holds an input, or whose
    manifests are of others.
    """
    names = [part.name for part in parts]
    read = {*names, *map(os.path.abspath, inputs)}
    read |= {os.path.dirname(part.name) for part in parts if not part.is_files}
    if str(out) in read:
        raise UserError(
            f"{out} is, or holds, what is to be read, and would be both: give another --out."
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{twice} is named twice: expected each corpus once.")
    for split in SPLITS:
        path = out / f"{split}.jsonl"
        if str(path) in names or (path.exists() and not (out / MERGED).exists()):
            raise UserError(
                f"{path} is there, and not of a merge, or is to be read: give another --out."
            )


def _copied(part: Part, files: LineFiles, found: Merged) -> Iterator[tuple]:
    """Write the lines of a part that is files; yield what is compared of each utterance."""
    at, before = (part.number, part.split), found.count[part.number, part.split]
    for source in part.sources:
        for utterance in sources.stream(source):
            if part.is_files:
                path = path_from(files.out, utterance.audio_filepath)
                line = dataclasses.replace(utterance, audio_filepath=path).to_json()
                files.write(part.split, line)
            found.count[at] += 1
            found.seconds[at] += utterance.duration
            words = text_key(utterance.text)
            key = _hash(words) if words else None
            yield *at, key, _same(utterance), utterance.speaker, is_short(words)
    if found.count[at] == before:
        raise UserError(f"{part.name} holds no utterance: leave it out.")


def _hash(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _same(utterance: Utterance) -> bytes:
    """What copies of an utterance have in common, whatever became of their files."""
    # A manifest has four decimals, the ledger all.
    seconds = round(round(utterance.duration, 4), 3)
    return _hash(f"{seconds} {utterance.speaker} {utterance.text}")


def _measured(number: int, given: str) -> Iterator[tuple[int, bytes, str]]:
    """(input, what copies have in common, hash of the samples) of the utterances that a script
    kept, from the ledger in its folder; none where there is no ledger that can be read.
    """
    ledger = Path(given) / ".ledger.sqlite"
    if storage.is_remote(given) or not ledger.is_file():
        return
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(
            sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)
        ) as rows,
    ):
        query = "SELECT record, samples_hash FROM rows WHERE reason IS NULL AND samples_hash != ''"
        for record, samples_hash in rows.execute(query):
            yield number, _same(Utterance(*json.loads(record))), samples_hash


def _copies(facts: sqlite3.Connection, names: Sequence[str]) -> Iterator[str]:
    """A line for each pair of inputs that hold the same audio."""
    for first, second in _pairs(len(names)):
        for column in ("samples", "same"):
            query = (
                f"SELECT COUNT(*) FROM utterances WHERE input = ? AND {column} IN "
                f"(SELECT {column} FROM utterances WHERE input = ?)"
            )
            (count,) = facts.execute(query, (second, first)).fetchone()
            if count:
                yield (
                    f"{count} utterances of {names[second]} have {SHARED[column]} of one in "
                    f"{names[first]}"
                )
                break


def _pairs(count: int) -> Iterable[tuple[int, int]]:
    return ((first, second) for second in range(count) for first in range(second))


def _overlap(facts: sqlite3.Connection, names: Sequence[str]) -> Iterator[str]:
    """A line for each split of an input that is scored and shares what train of another has."""
    where = "input = ? AND split = ?"
    for held, other in ((a, b) for a in range(len(names)) for b in range(len(names)) if a != b):
        for split in ("test", "dev"):
            told = []
            for column, what in SHARED.items():
                query = (
                    f"SELECT COUNT(*) FROM utterances AS held WHERE {where} AND EXISTS (SELECT 1 "
                    f"FROM utterances AS other WHERE {where} AND other.{column} = held.{column}"
                    f"{MAY_BE_THE_SAME if column == 'text' else ''})"
                )
                (count,) = facts.execute(query, (held, split, other, "train")).fetchone()
                told += [f"{what} of {count} utterances"] if count else []
            query = (
                f"SELECT DISTINCT speaker FROM utterances WHERE {where} AND speaker IN "
                f"(SELECT speaker FROM utterances WHERE {where}) ORDER BY speaker"
            )
            speakers = [name for (name,) in facts.execute(query, (held, split, other, "train"))]
            if speakers:
                some = ", ".join(speakers[:5]) + (" ..." if len(speakers) > 5 else "")
                told.append(f"{len(speakers)} speakers ({some})")
            if told:
                yield f"{split} of {names[held]} shares with train of {names[other]} " + ", ".join(
                    told
                )


def _describe(parts: Sequence[Part], found: Merged, out: Path) -> None:
    """Write merge.json; manifests of an earlier merge that this one has not are removed."""
    for split in SPLITS:
        path = out / f"{split}.jsonl"
        of_split = [part for part in parts if part.split == split]
        if any(part.is_files for part in of_split):
            found.data[split].append(str(path))
        else:
            path.unlink(missing_ok=True)
        found.data[split] += [part.name for part in of_split if not part.is_files]
    inputs: list[dict[str, Any]] = [
        {
            "name": name,
            "hours": {s: found.seconds[number, s] / 3600 for s in SPLITS if found.count[number, s]},
            "utterances": {s: found.count[number, s] for s in SPLITS if found.count[number, s]},
        }
        for number, name in enumerate(found.names)
    ]
    data = {split: names for split, names in found.data.items() if names}
    told = {"copies": found.copies, "overlap": found.overlap}
    write_json(out / MERGED, {"data": data, "inputs": inputs} | told)
