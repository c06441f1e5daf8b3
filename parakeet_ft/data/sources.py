"""What a name in the settings stands for: manifests, shards, folders of shards -> utterances.

a.jsonl                                               a manifest of single files
shards/sharded_manifests/manifest__OP_0..7_CL_.json   NeMo's shards, with audio_0.tar ... beside
shards/                                               a folder of NeMo's or Lhotse's (Shar)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from parakeet_ft.data import cache, storage, tars
from parakeet_ft.data.manifest import (
    ManifestError,
    Utterance,
    parse_line,
    stream_manifest,
)
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO, file_hash
from parakeet_ft.settings.finetune import WeightedManifest, as_given

# A range of shards as NeMo writes it, where shells leave it alone, or in braces.
RANGE = re.compile(r"(?:_OP_|\{)(\d+)\.\.(\d+)(?:_CL_|\})")
# How NeMo 3.0.0 finds the number of a shard (nemo_adapters.py, LazyNeMoTarredIterator).
MANIFEST_NUMBER = re.compile(r"manifest[^/]*_(\d+)[^/]*\.json")
TAR_NUMBER = re.compile(r"audio[^/]*_(\d+)[^/]*\.tar$")
# Bytes of a file whose hash takes longer than to look whether it was made before.
LARGE = 6_000_000
# A second line of the same audio (same place).
PART = re.compile(r"^(.+)-sub\d+(\.\w+)?$")


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of lines, and the tar that holds their audio; kind: whose layout it is."""

    manifest: str
    tar: str | None = None
    kind: Literal["manifest", "nemo", "shar"] = "manifest"


def expand(name: str) -> list[Source]:
    """The files that a name stands for, in the order of their numbers. Raises UserError if there
    are none, or a part of them is missing.
    """
    if name.startswith("bundled:"):
        name = str(DEMO / name.removeprefix("bundled:"))
    if not storage.is_remote(name):
        name = os.path.abspath(name)
    if storage.is_folder(name):
        return _of_folder(name)
    return [_with_tar(path) for path in expand_range(name)]


def expand_range(name: str) -> list[str]:
    """`x__OP_0..2_CL_.json` -> x_0.json, x_1.json, x_2.json; a name without a range as it is."""
    found = RANGE.search(name)
    if not found:
        return [name]
    first, last = found[1], found[2]
    if int(first) > int(last):
        raise UserError(f"{name}: the range {first}..{last} holds nothing.")
    width = len(first) if first.startswith("0") else 0
    names = [
        name[: found.start()] + f"{number:0{width}d}" + name[found.end() :]
        for number in range(int(first), int(last) + 1)
    ]
    return [one for part in names for one in expand_range(part)]


def _of_folder(folder: str) -> list[Source]:
    """The shards in a folder."""
    inner = storage.join(folder, "sharded_manifests")
    manifests = [
        storage.join(place, file)
        for place in (inner, folder)
        for file in storage.listing(place)
        if MANIFEST_NUMBER.fullmatch(file)
    ]
    if not manifests:
        # Says that it is a folder, and names the manifests in it.
        return [Source(folder)]
    manifests.sort(key=_number)
    return [_with_tar(path) for path in manifests]


def _number(manifest: str) -> int:
    """The number of a shard whose manifest was found by it."""
    found = MANIFEST_NUMBER.search(manifest)
    assert found
    return int(found[1])


def _with_tar(manifest: str) -> Source:
    """A manifest with the tar that NeMo's layout puts beside it, if there is one."""
    found = MANIFEST_NUMBER.search(os.path.basename(manifest))
    if found:
        folder = storage.folder_of(manifest)
        for place in (folder, storage.folder_of(folder)):
            for file in storage.listing(place):
                number = TAR_NUMBER.search(file)
                if number and int(number[1]) == int(found[1]):
                    return Source(manifest, storage.join(place, file), "nemo")
    return Source(manifest)


def stream(source: Source, *, needs_text: bool = True) -> Iterator[Utterance]:
    """The utterances of a source: members located in their tars, paths absolute. Raises UserError
    with the line that cannot be used.
    """
    if source.kind == "manifest":
        yield from stream_manifest(source.manifest, needs_text=needs_text)
        return
    assert source.tar is not None
    members = {m.name: m for m in tars.members(source.tar, tars.index_of(source.tar))}
    with open(source.manifest, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{source.manifest} line {number}"
            utterance = parse_line(line, where, needs_text=needs_text)
            name = PART.sub(r"\1\2", utterance.audio_filepath)
            member = members.get(utterance.audio_filepath) or members.get(name)
            if member is None:
                raise ManifestError(f"{where}: {source.tar} holds no {name}.")
            yield dataclasses.replace(utterance, audio_filepath=member.path, member=member)


def fingerprint(source: Source) -> str:
    """The identity of what a source holds: SHA-256 of the lines, and for a tar also of its size and
    some of its bytes.
    """
    lines = _hash(source.manifest)
    if source.tar is None:
        return lines
    return hashlib.sha256(f"{lines} {storage.size(source.tar)}".encode()).hexdigest()


def _hash(path: str) -> str:
    status = os.stat(path)
    return _hash_once(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _hash_once(path: str, size: int, modified_ns: int) -> str:
    """SHA-256 of a file as long as it is not touched; of a large one kept between runs."""
    if size <= LARGE:
        return file_hash(Path(path))
    key = hashlib.sha256(f"{path} {size} {modified_ns}".encode()).hexdigest()
    return cache.kept_facts(f"hash-{key[:32]}", lambda: {"sha256": file_hash(Path(path))})["sha256"]


def read_all(named: Sequence[WeightedManifest]) -> list[Utterance]:
    """All utterances of several names, in their order. Raises UserError if there are none."""
    found = [u for one in named for source in expand(one.manifest) for u in stream(source)]
    if not found:
        raise ManifestError(
            f"{describe(named)} holds no utterance. Expected at least one JSON line with "
            "audio_filepath, duration and text."
        )
    return found


def describe(named: Sequence[WeightedManifest]) -> str:
    """The names as messages call them."""
    return ", ".join(one.manifest for one in named)


def facts(named: Sequence[WeightedManifest]) -> dict[str, Any]:
    """What run.json holds of a set: its names as they were given, and its identity."""
    return {"path": as_given(tuple(named)), "sha256": identity(named)}


def identity(named: Sequence[WeightedManifest]) -> str:
    """One SHA-256 of all that several names stand for and of their weights; that of its bytes for a
    single manifest.
    """
    parts = [(fingerprint(source), one.weight) for one in named for source in expand(one.manifest)]
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
