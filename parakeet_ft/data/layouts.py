"""What a name in the settings stands for: manifests, shards, folders of shards.

    a.jsonl                                               a manifest of single files
    shards/                                               a folder of NeMo's or Lhotse's (Shar)
    shards/sharded_manifests/manifest__OP_0..7_CL_.json   NeMo's shards, with audio_0.tar ... beside
    shards/tarred_audio_manifest.json                     all of them in one file of lines
    pair.json                                             lines of the files in pair.tar
    shar/cuts.000000.jsonl.gz                             a shard of a Shar

Each may be a URL (http, https, s3, gs). A manifest that lies elsewhere names audio that lies
beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from parakeet_ft.data import shar, storage
from parakeet_ft.data.manifest import ManifestError, parse_json, stream_manifest
from parakeet_ft.data.shard_notes import notes_of
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.urls import without_secrets

# A range of shards, in NeMo's brackets that shells leave alone, or in braces.
RANGE = re.compile(r"(?:_OP_|\{)(\d+)\.\.(\d+)(?:_CL_|\})")
MOST_SHARDS = 1_000_000
# How NeMo 3.0.0 finds the number of a shard (nemo_adapters.py, LazyNeMoTarredIterator).
MANIFEST_NUMBER = re.compile(r"manifest[^/]*_(\d+)[^/]*\.json")
TAR_NUMBER = re.compile(r"(audio[^/]*_)(\d+)([^/]*\.tar)")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
# Bytes that are looked at to see whose layout a file of lines is.
FIRST_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of lines, and the tar that holds their audio; kind: whose layout it is. `tar` is a
    range, as above, where the lines are of several.
    """

    manifest: str
    tar: str | None = None
    kind: Literal["manifest", "nemo", "shar"] = "manifest"


def expand(name: str) -> list[Source]:
    """The files that a name stands for, in the order of their numbers. Raises UserError if there
    are none, or a part of them is missing.
    """
    name = without_secrets(name)
    if name.startswith("bundled:"):
        name = str(DEMO / name.removeprefix("bundled:"))
    if not storage.is_remote(name):
        if not (os.path.exists(name) or RANGE.search(name)):
            _no_manifest(name)
        name = os.path.abspath(name)
    if storage.is_folder(name):
        return _of_folder(name)
    paths = expand_range(name)
    if RANGE.search(name) and not any(map(storage.is_file, (paths[0], paths[-1]))):
        raise UserError(
            f"{name} stands for {len(paths)} files, of which neither {paths[0]} nor {paths[-1]} "
            "exists."
        )
    return _sources(paths)


def expand_range(name: str) -> list[str]:
    """`x__OP_0..2_CL_.json` -> x_0.json, x_1.json, x_2.json; a name without a range as it is.
    Raises UserError for a range that holds nothing.
    """
    found = RANGE.search(name)
    if not found:
        return [name]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST_SHARDS:
        raise UserError(f"{name}: {first}..{last} is no range from a lower to a higher number.")
    width = len(found[1]) if found[1].startswith("0") else 0
    names = [
        f"{name[: found.start()]}{number:0{width}d}{name[found.end() :]}"
        for number in range(first, last + 1)
    ]
    return [one for part in names for one in expand_range(part)]


def holds_shards(folder: str) -> bool:
    """Whether a folder is one of shards, and not of single files."""
    files = storage.listing(folder)
    layouts = {"sharded_manifests", "tarred_audio_manifest.json"}
    return bool(layouts & set(files)) or any(shar.CUTS.fullmatch(file) for file in files)


def names_lines(name: str) -> bool:
    """Whether a name stands for lines that describe audio, and not for audio."""
    name = without_secrets(name)
    if name.startswith("bundled:") or name.endswith((".jsonl", ".json")):
        return storage.is_remote(name) or not os.path.isdir(name)
    if shar.CUTS.fullmatch(os.path.basename(name)):
        return True
    return storage.is_folder(name) and holds_shards(name)


def _of_folder(folder: str) -> list[Source]:
    """The shards in a folder. Raises UserError if it holds none."""
    files = storage.listing(folder)
    inner = storage.join(folder, "sharded_manifests")
    numbered = [storage.join(inner, file) for file in _numbered(storage.listing(inner))]
    numbered = numbered or [storage.join(folder, file) for file in _numbered(files)]
    is_shar = any(shar.CUTS.fullmatch(file) or shar.RECORDINGS.fullmatch(file) for file in files)
    if is_shar and (numbered or "tarred_audio_manifest.json" in files):
        raise UserError(
            f"{folder} holds shards of two layouts, NeMo's (manifest_0.json ...) and a Lhotse Shar "
            "(cuts.*, recording.*): expected one. Move one of them to a folder of its own."
        )
    if numbered:
        _check_complete(folder, folder, len(numbered))
        return _sources(numbered)
    if is_shar:
        return _of_shar(folder, files)
    if "tarred_audio_manifest.json" in files:
        return _sources([storage.join(folder, "tarred_audio_manifest.json")])
    manifests = ", ".join(file for file in files if file.endswith(".jsonl"))
    raise UserError(
        f"{folder} is a folder without shards. Expected sharded_manifests/ and audio_0.tar ... "
        "(NeMo), cuts.*.jsonl.gz and recording.*.tar (Lhotse Shar), or a file of JSON lines"
        f"{f'; it holds {manifests}' if manifests else ''}."
    )


def _numbered(files: Sequence[str]) -> list[str]:
    """Those of NeMo's shards, by number."""
    found = [(match, file) for file in files if (match := MANIFEST_NUMBER.fullmatch(file))]
    return [file for _, file in sorted((int(match[1]), file) for match, file in found)]


def _check_complete(folder: str, notes: str, found: int) -> None:
    """Raise UserError if a folder lacks some of the shards that data_prep/shard.py noted, in
    shards.json in the folder `notes`.
    """
    described = storage.join(notes, "shards.json")
    if "shards.json" not in storage.listing(notes):
        return
    try:
        expected = len(json.loads(storage.read(described))["shards"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{described} is not as data_prep/shard.py writes it: expected a JSON object with a "
            "list of `shards`. Copy it again."
        ) from None
    if found != expected:
        raise UserError(
            f"{folder} holds {found} of the {expected} shards that {described} names. Copy the "
            "others, or name those that are to be used by a range."
        )


def _of_shar(folder: str, files: Sequence[str]) -> list[Source]:
    """The shards of a Shar. Raises UserError if a part of it is missing."""
    cuts = {found[1] or "": found[0] for file in files if (found := shar.CUTS.fullmatch(file))}
    for file in files:
        found = shar.RECORDINGS.fullmatch(file)
        if found and (found[1] or "") not in cuts:
            raise UserError(
                f"{folder} holds {file} and no cuts{found[1] or ''}.jsonl.gz: expected both. Copy "
                "it, or name the cuts that are to be used by a range."
            )
    # As Lhotse 1.33 numbers them.
    numbers = [int(suffix[1:]) for suffix in cuts if re.fullmatch(r"\.\d{6}", suffix)]
    lacking = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    if lacking:
        raise UserError(
            f"{folder} lacks cuts.{lacking[0]:06d}.jsonl.gz and its recordings, and goes on to "
            f"number {max(numbers)}. Copy them, or name the cuts that are to be used by a range."
        )
    if not storage.is_remote(folder):
        _check_complete(folder, str(notes_of(Path(folder))), len(cuts))
    return [_shar_source(storage.join(folder, file), files) for file in cuts.values()]


def _sources(paths: Sequence[str]) -> list[Source]:
    """Files of lines, each with its tar, if they are of shards; whose layout they have is seen from
    the first. Raises UserError for a tar that is missing.
    """
    first = paths[0]
    if shar.CUTS.fullmatch(os.path.basename(first)):
        return [_shar_source(path) for path in paths]
    if not storage.is_file(first):
        _no_manifest(first)
    if first.endswith(ARCHIVES):
        folder = storage.folder_of(first)
        raise UserError(
            f"{first} is an archive, which holds audio: expected the lines that describe it. Give "
            f"the folder of the shards, {folder}, or the manifest, such as {folder}/"
            "sharded_manifests/manifest_0.json."
        )
    line = _first_line(first)
    audio = line.get("audio_filepath")
    folder = storage.folder_of(first)
    if isinstance(audio, str) and storage.is_file(audio_beside(folder, audio)):
        return [Source(path) for path in paths]
    found = _tars_of(paths)
    if None not in found:
        return [Source(path, tar, "nemo") for path, tar in zip(paths, found, strict=True)]
    if "shard_id" not in line and not any(found):
        return [Source(path) for path in paths]
    lacking = paths[found.index(None)]
    raise UserError(
        f"{lacking} is the manifest of a shard whose tar is missing: expected audio_N.tar, N its "
        f"number, in {storage.folder_of(lacking)} or the folder above, or a tar of the same name "
        "beside it."
    )


def _shar_source(cuts: str, listed: Sequence[str] = ()) -> Source:
    """A shard of a Shar; `listed`: what is known to be there. Raises UserError if a part of it is
    missing.
    """
    tar = shar.tar_of(cuts)
    for path in (cuts, tar):
        if os.path.basename(path) not in listed and not storage.is_file(path):
            raise UserError(
                f"{path} is missing: a Shar is cuts.N.jsonl.gz with recording.N.tar beside it. Of "
                "other Lhotse cuts, `python data_prep/lhotse_cuts.py CUTS` makes a manifest."
            )
    return Source(cuts, tar, "shar")


def _no_manifest(name: str) -> None:
    """Raise the ManifestError for a manifest that is not there."""
    if storage.is_remote(name):
        raise ManifestError(
            f"No manifest at {name}. Expected a file of JSON lines, or a folder that its server "
            "lists; shards can also be named by a range, such as manifest__OP_0..7_CL_.json."
        )
    next(stream_manifest(name))


def _first_line(name: str) -> dict[str, Any]:
    """The object in the first line; empty if there is none, which reading it will tell."""
    try:
        lines = storage.read(name, 0, FIRST_BYTES).splitlines()
        found = parse_json(lines[0].decode())
    except (OSError, ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def _tars_of(manifests: Sequence[str]) -> list[str | None]:
    """The tar of each manifest by NeMo's layout, or of the same name; None where there is none."""
    listed: dict[str, dict[int, str]] = {}

    def tars_in(folder: str) -> dict[int, str]:
        if folder not in listed:
            listed[folder] = _numbered_tars(folder)
        return listed[folder]

    found: list[str | None] = []
    for manifest in manifests:
        folder, name = storage.folder_of(manifest), os.path.basename(manifest)
        above = storage.folder_of(folder)
        number = MANIFEST_NUMBER.search(name)
        same_name = f"{os.path.splitext(manifest)[0]}.tar"
        tar = None
        if number:
            guess = storage.join(above, f"audio_{int(number[1])}.tar")
            tar = tars_in(folder).get(int(number[1])) or tars_in(above).get(int(number[1]))
            # Some web servers list nothing.
            tar = tar or (guess if storage.is_remote(guess) and storage.is_file(guess) else None)
        elif name == "tarred_audio_manifest.json":
            tar = _range_of(tars_in(folder))
        found.append(tar or (same_name if storage.is_file(same_name) else None))
    return found


def _numbered_tars(folder: str) -> dict[int, str]:
    """The tars of a folder by number; of several with the same numbers, those of the plainest
    name.
    """
    found = [match for file in storage.listing(folder) if (match := TAR_NUMBER.fullmatch(file))]
    kinds = Counter((match[1], match[3]) for match in found)
    plainest = min(kinds, key=lambda kind: (-kinds[kind], len("".join(kind))), default=None)
    return {
        int(match[2]): storage.join(folder, match[0])
        for match in found
        if (match[1], match[3]) == plainest
    }


def _range_of(numbered: dict[int, str]) -> str | None:
    """One name for tars with numbers from the lowest to the highest."""
    if not numbered:
        return None
    first, last = min(numbered), max(numbered)
    found = TAR_NUMBER.fullmatch(os.path.basename(numbered[first]))
    assert found
    low = found[2]
    high = str(last).zfill(len(low)) if low.startswith("0") else str(last)
    name = f"{found[1]}_OP_{low}..{high}_CL_{found[3]}"
    return storage.join(storage.folder_of(numbered[first]), name)


def audio_beside(folder: str, path: str) -> str:
    """The audio that a manifest in `folder` names; "" for what lies on another machine than it."""
    if not storage.is_remote(folder):
        return os.path.normpath(os.path.join(folder, path))
    machine = "/".join(folder.split("/")[:3])  # scheme and host, or bucket
    if storage.is_remote(path):
        return path if path.startswith(f"{machine}/") else ""
    if path.startswith("/"):
        return ""
    place = posixpath.normpath(posixpath.join(folder[len(machine) :] or "/", path))
    return f"{machine}/{place.lstrip('/')}"
