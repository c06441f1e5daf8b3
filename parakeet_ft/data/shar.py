"""Lhotse Shar: cuts.N.jsonl.gz and, in the same order, recording.N.tar -> utterances. Read as JSON
and tar: Lhotse itself would import torch.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

from parakeet_ft.data import storage, tars
from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.manifest import ManifestError, Utterance, check_length, parse_json
from parakeet_ft.data.seconds import parse_seconds

CUTS = re.compile(r"cuts(\..*)?\.jsonl(\.gz)?")
RECORDINGS = re.compile(r"recording(\..*)?\.tar")
# What Lhotse 1.33 writes where a cut has no recording, and for arrays (shar/writers/array.py).
NO_AUDIO = (".nodata", ".llc", ".npy", ".lilcom")


def tar_of(cuts: str) -> str:
    """The name of the tar with the recordings of a file of cuts."""
    found = CUTS.fullmatch(os.path.basename(cuts))
    assert found
    return storage.join(storage.folder_of(cuts), f"recording{found[1] or ''}.tar")


def stream(cuts: str, tar: str, *, needs_text: bool = True) -> Iterator[Utterance]:
    """The utterances of a shard (times of Lhotse 1.33). Raises ManifestError for a cut that is not
    of one recording with one supervision, and where cuts and tar are not of each other.
    """
    rows = list(_rows(cuts))
    # No index beside it: Lhotse takes every file in a Shar for a part of it.
    first = tars.first_member(tar, write_beside=False)
    suffix = os.path.splitext(first.name)[1] if first else ""
    if suffix in NO_AUDIO:
        raise ManifestError(
            f"{tar} holds {suffix} files, which are arrays or nothing, not audio. Expected a Shar "
            "written with fields={'recording': 'flac'} (or wav, mp3, opus, original)."
        )
    names = [f"{cut.get('id')}{suffix}" for _, cut in rows]
    found = tars.locate(tar, names, write_beside=False)
    for (where, cut), name, member in zip(rows, names, found, strict=True):
        if member is None:
            raise ManifestError(
                f"{where}: {tar} holds no {name}. Cuts and recordings of a Shar belong together: "
                "write both again."
            )
        yield _utterance(cut, member, where, needs_text=needs_text)


def _rows(cuts: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, cut) of each line. Raises ManifestError."""
    try:
        with storage.open_binary(cuts) as file, _plain(file, cuts) as lines:
            for number, line in enumerate(lines, 1):
                where = f"{cuts} line {number}"
                cut = parse_json(line.decode())
                if not isinstance(cut, dict) or not isinstance(cut.get("id"), str):
                    raise ValueError("is no cut with an id")
                yield where, cut
    except ValueError as error:
        raise ManifestError(
            f"{where} {error}. Expected cuts as Lhotse's SharWriter writes."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(
            f"{cuts} cannot be read to its end ({error}). Expected JSON lines, in gzip if it ends "
            "with .gz; was it cut off when it was copied?"
        ) from None


def _plain(file: IO[bytes], name: str) -> IO[bytes]:
    """The lines of a file, unpacked if its name says that they are packed."""
    return gzip.open(file) if name.endswith(".gz") else file  # type: ignore[return-value]


def _utterance(cut: dict[str, Any], member: Member, where: str, *, needs_text: bool) -> Utterance:
    """The utterance that a cut is. Raises ManifestError."""
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        raise ManifestError(f"{where} is a {cut['type']}, expected a cut of one recording.")
    spoken = cut.get("supervisions") or []
    if len(spoken) > 1 or (needs_text and not spoken):
        raise ManifestError(
            f"{where}: the cut {cut['id']} has {len(spoken)} supervisions, expected one, as an "
            "utterance has one text. Lhotse's `cuts.trim_to_supervisions()` makes a cut of each "
            "before a Shar is written."
        )
    try:
        said = spoken[0] if spoken else {}
        text, speaker = said.get("text") or "", said.get("speaker")
        duration = parse_seconds(cut["duration"], "duration")
        custom = dict(cut.get("custom") or {}) | dict(said.get("custom") or {})
        if not isinstance(text, str) or not isinstance(speaker, str | None) or not duration > 0:
            raise TypeError("text, speaker or duration is none")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{where} is not a cut as Lhotse writes it ({type(error).__name__}: {error})."
        ) from None
    check_length(duration, "duration", where)
    if said.get("language"):
        custom["lang"] = said["language"]
    return Utterance(
        member.path,
        duration,
        text,
        speaker=speaker,
        extra={"id": cut["id"]} | custom,
        member=member,
    )
