"""Utterances as columns of numbers and blobs of text: a dozen files that every process of a machine
maps instead of holding ten million Python objects.

A column of strings is a blob and where each string ends in it. Few distinct strings (paths,
speakers, other fields) are numbered, and rows hold their numbers.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import mmap
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.files import broken_seal, misfit, read_json, sealed, write_json

FORMAT = 1
META = "meta.json"
NUMBERS = {
    "durations": "<f8",
    "offsets": "<f8",
    "path_ids": "<i4",
    "speaker_ids": "<i4",  # -1: none
    "extra_ids": "<i4",  # -1: no other field
    "text_crcs": "<u4",
    "blank_rows": "<i8",  # rows without a word
    # Of a member of a tar (or -1): its file, and where in it its bytes are.
    "file_ids": "<i4",
    "starts": "<i8",
    "sizes": "<i8",
    "path_crcs": "<u4",
    "word_counts": "<i8",
    "word_rows": "<i8",  # the first row of the block in which a word is met first
}
# Numbers of strings, and the strings.
COLUMNS = {
    "path_ids": "paths",
    "speaker_ids": "speakers",
    "extra_ids": "extras",
    "file_ids": "files",
}
STRINGS = ("texts", "paths", "speakers", "extras", "files", "words")
FILES = (*NUMBERS, *STRINGS, *(f"{name}.ends" for name in STRINGS))
# Beyond so many different strings (or words) they are not compared with those of earlier blocks.
MOST_COMPARED = 1_000_000
MOST_WORDS = 4_000_000

# path, duration, text, offset, speaker, the other fields as JSON (or None), member
Row = tuple[str, float, str, float, "str | None", "str | None", "Member | None"]


@dataclasses.dataclass
class Block:
    """Some rows of a source, as a process hands them over. Numbers of strings are of this block."""

    numbers: dict[str, np.ndarray]
    text: bytes
    text_sizes: np.ndarray
    paths: list[str]
    speakers: list[str]
    extras: list[str]
    files: list[str]
    words: dict[str, int]
    spaces: str  # all but " " between words, and those too many
    uneven: int  # texts with other spaces than one between words
    most_characters: int
    num_lines: int = 0  # of the file, blank ones too
    bad: tuple[int, str | None] | None = None  # the first line that cannot be used; None: not UTF-8


def row_of(utterance: Utterance) -> Row:
    """An utterance as a row."""
    return (
        utterance.audio_filepath,
        utterance.duration,
        utterance.text,
        utterance.offset,
        utterance.speaker,
        json.dumps(utterance.extra) if utterance.extra else None,
        utterance.member,
    )


def block_of(rows: Iterable[Row], locate: Callable[[str], str] = str) -> Block:
    """Rows as a block; `locate` gives a path its absolute form, once for each."""
    durations: list[float] = []
    offsets: list[float] = []
    path_ids: list[int] = []
    speaker_ids: list[int] = []
    extra_ids: list[int] = []
    members: list[tuple[int, int, int]] = []
    paths: dict[str, int] = {}
    speakers: dict[str, int] = {}
    extras: dict[str, int] = {}
    files: dict[str, int] = {}
    texts: list[bytes] = []
    words: list[str] = []
    blank: list[int] = []
    spaces: set[str] = set()
    uneven = most = 0
    for row, (path, duration, text, offset, speaker, extra, member) in enumerate(rows):
        durations.append(duration)
        offsets.append(offset)
        texts.append(text.encode("utf-8", "surrogatepass"))
        spoken = text.split()
        words += spoken
        if " ".join(spoken) != text:
            uneven += 1
            spaces.update(filter(str.isspace, text))
        if not spoken:
            blank.append(row)
        if len(text) > most:
            most = len(text)
        path_ids.append(paths.setdefault(path, len(paths)))
        speaker_ids.append(-1 if speaker is None else speakers.setdefault(speaker, len(speakers)))
        extra_ids.append(-1 if extra is None else extras.setdefault(extra, len(extras)))
        if member is None:
            members.append((-1, -1, -1))
        else:
            # Its name is not kept beside its path.
            assert path == member.path, f"{path} is not {member}"
            file = files.setdefault(member.file, len(files))
            members.append((file, member.start, member.size))
    return Block(
        numbers={
            "durations": np.array(durations, "<f8"),
            "offsets": np.array(offsets, "<f8"),
            "path_ids": np.array(path_ids, "<i4"),
            "speaker_ids": np.array(speaker_ids, "<i4"),
            "extra_ids": np.array(extra_ids, "<i4"),
            "blank_rows": np.array(blank, "<i8"),
            "file_ids": np.array([file for file, _, _ in members], "<i4"),
            "starts": np.array([start for _, start, _ in members], "<i8"),
            "sizes": np.array([size for _, _, size in members], "<i8"),
            "text_crcs": np.array([zlib.crc32(text) for text in texts], "<u4"),
        },
        text=b"".join(texts),
        text_sizes=np.array([len(text) for text in texts], "<i8"),
        paths=[locate(path) for path in paths],
        speakers=list(speakers),
        extras=list(extras),
        files=list(files),
        words=dict(Counter(words)),
        spaces="".join(sorted(spaces)),
        uneven=uneven,
        most_characters=most,
    )


class Builder:
    """Blocks, in the order of their rows, to files that `sink` opens by name."""

    def __init__(self, sink: Callable[[str], IO[bytes]]) -> None:
        self.files = {name: sink(name) for name in FILES}
        self.crcs = dict.fromkeys(FILES, 0)
        self.sizes = dict.fromkeys(FILES, 0)
        self.known: dict[str, dict[str, int]] = {name: {} for name in COLUMNS.values()}
        self.counts = dict.fromkeys(STRINGS, 0)
        self.words: dict[str, int] = {}
        self.word_rows: list[int] = []
        self.spaces: set[str] = set()
        self.uneven = self.most_characters = self.num_words = 0
        for name in STRINGS:
            self._write(f"{name}.ends", np.zeros(1, "<i8").tobytes())

    def add(self, block: Block) -> None:
        """The next rows."""
        self._add_words(block)
        numbers = dict(block.numbers)
        numbers["blank_rows"] = numbers["blank_rows"] + self.counts["texts"]
        for column, name in COLUMNS.items():
            # One more at the end: -1, for rows without one, stays -1.
            own = np.append(self._number(name, getattr(block, name)), -1)
            numbers[column] = own[numbers[column]]
        self._write_strings("texts", block.text, block.text_sizes)
        for name, values in numbers.items():
            self._write(name, np.ascontiguousarray(values, NUMBERS[name]).tobytes())
        self.uneven += block.uneven
        self.spaces |= set(block.spaces)
        self.most_characters = max(self.most_characters, block.most_characters)

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Write what was gathered; returns what describes the files."""
        whole = len(self.words) <= MOST_WORDS
        found = [word.encode("utf-8", "surrogatepass") for word in self.words] if whole else []
        self._write_strings("words", b"".join(found), np.array([*map(len, found)], "<i8"))
        counts = np.fromiter(self.words.values(), "<i8", len(self.words))
        self._write("word_counts", counts[: len(found)].tobytes())
        self._write("word_rows", np.array(self.word_rows[: len(found)], "<i8").tobytes())
        return {
            "format": FORMAT,
            "rows": self.counts["texts"],
            "all_words": whole,
            "num_words": self.num_words,
            "uneven": self.uneven,
            "spaces": "".join(sorted(self.spaces)),
            "most_characters": self.most_characters,
            "sizes": self.sizes,
            "crcs": self.crcs,
            **facts,
        }

    def _add_words(self, block: Block) -> None:
        """Count the block's words, until there are too many different ones to be worth it."""
        self.num_words += sum(block.words.values())
        if len(self.words) > MOST_WORDS:
            return
        row, counts = self.counts["texts"], self.words
        for word, count in block.words.items():
            if word in counts:
                counts[word] += count
            else:
                counts[word] = count
                self.word_rows.append(row)

    def _number(self, name: str, strings: list[str]) -> np.ndarray:
        """The numbers of strings; those that are new are written."""
        known = self.known[name]
        if len(known) > MOST_COMPARED:
            known.clear()
        new = [string for string in strings if string not in known]
        known.update(zip(new, itertools.count(self.counts[name]), strict=False))
        data = [string.encode("utf-8", "surrogatepass") for string in new]
        self._write_strings(name, b"".join(data), np.array([*map(len, data)], "<i8"))
        if name == "paths":
            self._write("path_crcs", np.array([*map(zlib.crc32, data)], "<u4").tobytes())
        return np.array([known[string] for string in strings], "<i4")

    def _write_strings(self, name: str, data: bytes, sizes: np.ndarray) -> None:
        ends = self.sizes[name] + np.cumsum(sizes)
        self._write(name, data)
        self._write(f"{name}.ends", ends.astype("<i8").tobytes())
        self.counts[name] += len(sizes)

    def _write(self, name: str, data: bytes) -> None:
        self.files[name].write(data)
        self.crcs[name] = zlib.crc32(data, self.crcs[name])
        self.sizes[name] += len(data)


class Strings(Sequence[str]):
    """A column of strings."""

    def __init__(self, data: Any, ends: np.ndarray) -> None:
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: Any) -> str:  # type: ignore[override]
        return self.data[self.ends[index] : self.ends[index + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return self.between(0, len(self))

    def between(self, start: int, stop: int, *, step: int = 10_000) -> Iterator[str]:
        """Those from `start` to before `stop`, a slice of the blob at a time."""
        for first in range(start, stop, step):
            ends = self.ends[first : min(first + step, stop) + 1].tolist()
            data = self.data[ends[0] : ends[-1]]
            for a, b in itertools.pairwise(ends):
                yield data[a - ends[0] : b - ends[0]].decode("utf-8", "surrogatepass")

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each."""
        return np.diff(self.ends)


class Columns:
    """The rows of one corpus, out of its files or out of memory."""

    def __init__(self, meta: Mapping[str, Any], buffers: Mapping[str, Any]) -> None:
        self.meta = meta
        self.numbers = {name: np.frombuffer(buffers[name], kind) for name, kind in NUMBERS.items()}
        self.strings = {
            name: Strings(buffers[name], np.frombuffer(buffers[f"{name}.ends"], "<i8"))
            for name in STRINGS
        }

    def __len__(self) -> int:
        return self.meta["rows"]

    def utterance(self, index: int) -> Utterance:
        """One row."""
        numbers, strings = self.numbers, self.strings
        speaker = numbers["speaker_ids"][index]
        extra = numbers["extra_ids"][index]
        path = strings["paths"][numbers["path_ids"][index]]
        return Utterance(
            audio_filepath=path,
            duration=float(numbers["durations"][index]),
            text=strings["texts"][index],
            offset=float(numbers["offsets"][index]),
            speaker=None if speaker < 0 else strings["speakers"][speaker],
            extra={} if extra < 0 else json.loads(strings["extras"][extra]),
            member=self._member(index, path) if numbers["file_ids"][index] >= 0 else None,
        )

    def _member(self, index: int, path: str) -> Member:
        """The bytes that a row's audio is; its path is that of its file and its name in it."""
        file = self.strings["files"][self.numbers["file_ids"][index]]
        return Member(
            file=file,
            name=path[len(file) + 1 :],
            start=int(self.numbers["starts"][index]),
            size=int(self.numbers["sizes"][index]),
        )


def in_memory(blocks: Iterable[Block]) -> Columns:
    """Blocks as columns in this process."""
    buffers: dict[str, io.BytesIO] = {name: io.BytesIO() for name in FILES}
    builder = Builder(buffers.__getitem__)
    for block in blocks:
        builder.add(block)
    meta = builder.finish()
    return Columns(meta, {name: buffer.getvalue() for name, buffer in buffers.items()})


def write(folder: Path, blocks: Iterable[Block], **facts: Any) -> None:
    """Blocks as files in a folder; what describes them comes last."""
    files = {name: (folder / name).open("wb") for name in FILES}
    try:
        builder = Builder(files.__getitem__)
        for block in blocks:
            builder.add(block)
        meta = builder.finish(**facts)
    finally:
        for file in files.values():
            file.close()
    write_json(folder / META, sealed(meta))


def read(folder: Path) -> Columns:
    """Map what `write` wrote."""
    meta = read_json(folder / META)
    return Columns(meta, {name: _mapped(folder / name) for name in FILES})


def _mapped(path: Path) -> Any:
    with path.open("rb") as file:
        # An empty file cannot be mapped.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


SHAPE = {"format": int, "rows": int, "sizes": {"*": int}, "crcs": {"*": int}}


def problem(folder: Path, *, thorough: bool) -> str | None:
    """What is wrong with a folder of columns, None if nothing is: each file of its size and,
    `thorough`, with its checksum.
    """
    try:
        meta = read_json(folder / META)
        if wrong := misfit(meta, SHAPE) or broken_seal(meta):
            return f"{META}: {wrong}"
        for name in FILES:
            size = (folder / name).stat().st_size
            if size != meta["sizes"].get(name):
                return f"{name} has {size} bytes, expected {meta['sizes'].get(name)}"
        if thorough:
            with ThreadPoolExecutor() as pool:
                found = pool.map(lambda name: _crc(folder / name), FILES)
            for name, crc in zip(FILES, found, strict=True):
                if crc != meta["crcs"].get(name):
                    return f"{name} was changed after it was written (its checksum differs)"
    except ValueError as error:
        return f"{META}: {error}"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return None


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc
