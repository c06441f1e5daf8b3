"""The utterances of what a name in the settings stands for (`layouts`), and its identity."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import cache, shar, storage, tars
from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.layouts import TAR_NUMBER, Source, audio_beside, expand, expand_range
from parakeet_ft.data.manifest import ManifestError, Utterance, parse_line, stream_manifest
from parakeet_ft.files import file_hash
from parakeet_ft.settings.manifests import WeightedManifest, as_given

# Further lines of the same audio, as NeMo 3.0.0 names them (nemo_adapters.py,
# LazyNeMoTarredIterator).
PART = re.compile(r"^(.+)-sub\d+(\.\w+)?$")

# Bytes of a file whose hash takes longer than to look whether it was made before.
LARGE = 6_000_000
# Places at which a tar is looked at for its identity.
LOOKED_AT = 16


def stream(source: Source, *, needs_text: bool = True) -> Iterator[Utterance]:
    """The utterances of a source: members located in their tars, paths absolute. Raises UserError
    with the line that cannot be used.
    """
    if source.kind == "shar":
        assert source.tar is not None
        yield from shar.stream(source.manifest, source.tar, needs_text=needs_text)
    elif source.kind == "nemo":
        yield from _of_tars(source, needs_text=needs_text)
    elif storage.is_remote(source.manifest):
        yield from _of_elsewhere(source.manifest, needs_text=needs_text)
    else:
        yield from stream_manifest(source.manifest, needs_text=needs_text)


def _lines(manifest: str, *, needs_text: bool) -> Iterator[tuple[str, Utterance]]:
    """(where, utterance) of each line, paths as written. Raises ManifestError."""
    where = manifest
    try:
        with storage.open_binary(manifest) as file:
            for number, line in enumerate(io.TextIOWrapper(file, "utf-8"), 1):
                where = f"{manifest} line {number}"
                if line.strip():
                    yield where, parse_line(line, where, needs_text=needs_text)
    except UnicodeDecodeError:
        raise ManifestError(f"{where} is followed by what is not UTF-8 text.") from None


def _of_elsewhere(manifest: str, *, needs_text: bool) -> Iterator[Utterance]:
    """The utterances of a manifest on another machine."""
    folder = storage.folder_of(manifest)
    for where, utterance in _lines(manifest, needs_text=needs_text):
        path = audio_beside(folder, utterance.audio_filepath)
        if not path:
            raise ManifestError(
                f"{where}: the audio is {utterance.audio_filepath}, expected a path relative to "
                f"the manifest, or a URL that begins as {manifest} does."
            )
        yield dataclasses.replace(utterance, audio_filepath=path, member=Member(path, "", 0, -1))


def _of_tars(source: Source, *, needs_text: bool) -> Iterator[Utterance]:
    """The utterances of a file of lines whose audio lies in one tar or, by shard_id, in several."""
    assert source.tar is not None
    by_number = {int(_number_in(tar)): tar for tar in expand_range(source.tar)}

    def tar_of(row: tuple[str, Utterance]) -> str:
        where, utterance = row
        if len(by_number) == 1:
            return next(iter(by_number.values()))
        number = utterance.extra.get("shard_id")
        if number not in by_number:
            raise ManifestError(f"{where}: shard_id is {number!r}; there is no such {source.tar}.")
        return by_number[number]

    rows = _lines(source.manifest, needs_text=needs_text)
    for tar, same in itertools.groupby(rows, key=tar_of):
        yield from _located(tar, list(same))


def _number_in(tar: str) -> str:
    """The number of a tar, 0 if it has none."""
    found = TAR_NUMBER.fullmatch(os.path.basename(tar))
    return found[2] if found else "0"


def _located(tar: str, rows: Sequence[tuple[str, Utterance]]) -> Iterator[Utterance]:
    """Utterances with their members. Raises ManifestError for one that the tar lacks."""
    names = [PART.sub(r"\1\2", utterance.audio_filepath) for _, utterance in rows]
    for (where, utterance), name, member in zip(rows, names, tars.locate(tar, names), strict=True):
        if member is None:
            raise ManifestError(
                f"{where}: {tar} holds no file {name}. Lines and tar of a shard belong together: "
                "`python data_prep/shard.py MANIFEST --out DIR` writes both."
            )
        yield dataclasses.replace(utterance, audio_filepath=member.path, member=member)


def read_all(named: Sequence[WeightedManifest], *, needs_text: bool = True) -> list[Utterance]:
    """All utterances of several names, in their order. Raises UserError if there are none."""
    sources = [source for one in named for source in expand(one.manifest)]
    found = [u for source in sources for u in stream(source, needs_text=needs_text)]
    if not found:
        fields = "audio_filepath, duration and text" if needs_text else "audio_filepath, duration"
        raise ManifestError(
            f"{describe(named)} holds no utterance. Expected at least one JSON line with {fields}."
        )
    return found


def fingerprint(source: Source) -> str:
    """The identity of what a source holds: SHA-256 of its lines; for a tar also of its size and
    what its server says of it, or some of its bytes.
    """
    marks = [_lines_hash(source.manifest)]
    if source.tar is not None:
        marks += [_tar_mark(tar) for tar in expand_range(source.tar)]
    return marks[0] if len(marks) == 1 else hashlib.sha256("\n".join(marks).encode()).hexdigest()


def _lines_hash(name: str) -> str:
    """SHA-256 of a file, of a large one found once for each state of it; of one elsewhere, of what
    its server says.
    """
    state = storage.version(name)
    if storage.is_remote(name):
        return hashlib.sha256(f"{name} {state}".encode()).hexdigest()
    if os.path.getsize(name) <= LARGE:
        return file_hash(Path(name))
    key = hashlib.sha256(f"{os.path.realpath(name)} {state}".encode()).hexdigest()
    found = cache.kept_facts(f"hash-{key[:32]}", lambda: {"hash": file_hash(Path(name))})
    return found["hash"]


def _tar_mark(tar: str) -> str:
    """What tells a tar from another: its size, and 512 bytes at LOOKED_AT places; the same for a
    copy of it.
    """
    if storage.is_remote(tar):
        return f"{tar} {storage.version(tar)}"
    end, _ = storage.state(tar)
    places = [end * number // LOOKED_AT for number in range(LOOKED_AT)]
    stretches = [(tar, place, tars.HEADER) for place in places]
    parts = b"".join(storage.read_stretches(stretches))
    return f"{end} {hashlib.sha256(parts).hexdigest()}"


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
