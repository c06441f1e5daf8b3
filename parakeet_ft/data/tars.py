"""Where the members of a tar lie: its index of offsets, as NeMo writes it, and their headers."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from parakeet_ft.data import storage
from parakeet_ft.data.audio_file import Member
from parakeet_ft.errors import UserError

HEADER = 512


def index_of(tar: str) -> np.ndarray:
    """Offsets of the samples' first headers in a tar, and its size, as NeMo 3.0.0 keeps them
    (nemo/collections/common/data/lhotse/indexed_adapters.py, create_tar_index).
    """
    kept = _kept(tar)
    return kept if kept is not None else _make(tar)


def _kept(tar: str) -> np.ndarray | None:
    """The index beside a tar if it is there and fits, else None."""
    if not storage.is_file(f"{tar}.idx"):
        return None
    offsets = np.frombuffer(storage.read(f"{tar}.idx"), dtype="<u8").astype(np.int64)
    end = storage.size(tar)
    fits = len(offsets) > 0 and offsets[-1] == end and (np.diff(offsets) > 0).all()
    if not fits or header(tar, int(offsets[0])) is None:
        print(f"{tar}.idx does not fit its tar: made anew", file=sys.stderr)
        return None
    return offsets


def _make(tar: str) -> np.ndarray:
    offsets = []
    stem = None
    try:
        with tarfile.open(tar, "r:") as members:
            for member in members:
                if member.isreg() and PurePosixPath(member.name).stem != stem:
                    stem = PurePosixPath(member.name).stem
                    offsets.append(member.offset)
    except tarfile.TarError as error:
        raise UserError(f"{tar} is no whole tar: {error}.") from None
    return np.array([*offsets, storage.size(tar)], dtype=np.int64)


def header(tar: str, offset: int) -> tarfile.TarInfo | None:
    """The header at an offset; None if there is none."""
    try:
        return tarfile.TarInfo.frombuf(
            storage.read(tar, offset, HEADER), tarfile.ENCODING, "surrogateescape"
        )
    except tarfile.TarError:
        return None


def members(tar: str, offsets: np.ndarray) -> Iterator[Member]:
    """The first member of each sample."""
    for offset in offsets[:-1]:
        if (found := header(tar, int(offset))) is None:
            raise UserError(f"{tar} has no member at byte {offset}.")
        yield Member(tar, found.name, int(offset) + HEADER, found.size)
