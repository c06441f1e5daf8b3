"""Where the members of a tar lie: by an index of offsets, as NeMo keeps it beside a tar, and by the
members' own headers.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from parakeet_ft.data import cache, storage
from parakeet_ft.data.audio_file import Member
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path

# Bytes of a header, and of what members are padded to.
HEADER = 512
# Headers that are looked at before an index is taken for that of its tar, and the order of lines
# for that of the members; reading a member compares its own.
LOOKED_AT = 16
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


def locate(tar: str, names: Sequence[str], *, write_beside: bool = True) -> list[Member | None]:
    """The members of these names, in their order; None for one that the tar lacks. "./a" is "a":
    `tar cf x.tar ./a` calls it so.

    If the names are as many as the tar's samples and in their order, as far as LOOKED_AT headers
    tell, no other header is read, and sizes are what is there up to the next sample.
    """
    offsets = index_of(tar, write_beside=write_beside)
    if len(names) == len(offsets) - 1 and len(set(names)) == len(names):
        chosen = sorted(set(np.linspace(0, len(names) - 1, LOOKED_AT).astype(int).tolist()))
        looked_at = zip(chosen, _headers(tar, offsets, chosen), strict=True)
        if all(found and plain(found.name) == plain(names[number]) for number, found in looked_at):
            starts = offsets[:-1] + HEADER
            sizes = (offsets[1:] - starts).tolist()
            places = zip(names, starts.tolist(), sizes, strict=True)
            return [Member(tar, name, start, size) for name, start, size in places]
    by_name = {plain(member.name): member for member in members(tar, offsets)}
    return [by_name.get(plain(name)) for name in names]


def plain(name: str) -> str:
    """A member's name without the folder that it lies in being said to be this one."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def first_member(tar: str, *, write_beside: bool = True) -> Member | None:
    """The first member of a tar, None if it holds none."""
    offsets = index_of(tar, write_beside=write_beside)
    return next(members(tar, offsets[:2]), None) if len(offsets) > 1 else None


def members(tar: str, offsets: np.ndarray) -> Iterator[Member]:
    """The first member of each sample. Raises UserError if there is none where it should be."""
    for number, found in enumerate(_headers(tar, offsets, range(len(offsets) - 1))):
        offset = int(offsets[number])
        if found is not None:
            yield Member(tar, found.name, offset + HEADER, found.size)
        else:
            yield _behind_long_name(tar, offset)


def _behind_long_name(tar: str, offset: int) -> Member:
    """A member whose name is too long for its header: it stands in members before it."""
    window = storage.read(tar, offset, 64 * HEADER)
    try:
        with tarfile.open(fileobj=io.BytesIO(window), mode="r:") as start:
            found = start.next()
    except tarfile.TarError:
        found = None
    if found is None:
        raise UserError(f"{tar} has no member at byte {offset}, where its index says so.")
    return Member(tar, found.name, offset + found.offset_data, found.size)


def _headers(tar: str, offsets: np.ndarray, numbers: Sequence[int]) -> list[tarfile.TarInfo | None]:
    """Headers of samples; None where there is none, or one that is no file's."""
    return [header(data) for data in _blocks(tar, [int(offsets[number]) for number in numbers])]


def header(data: bytes) -> tarfile.TarInfo | None:
    """A file's header; None for anything else."""
    try:
        found = tarfile.TarInfo.frombuf(data[:HEADER], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return None
    return found if found.type in REGULAR else None


def index_of(tar: str, *, write_beside: bool = True) -> np.ndarray:
    """Offsets of the samples' first headers in a tar, and its size (as NeMo 3.0.0 has them:
    nemo/collections/common/data/lhotse/indexed_adapters.py, create_tar_index).

    From TAR.idx if that is there and fits (`_fits`); else made, and kept beside the tar or, where
    that cannot be or must not be, in the cache by the tar's size and time. Raises UserError for
    what is no whole tar.
    """
    end, version = _state(tar)
    key = hashlib.sha256(f"{tar} {version}".encode()).hexdigest()
    kept = cache.folder() / f"tar-{key[:32]}.idx"
    if kept.is_file():
        found = _parsed(kept.read_bytes(), tar, end)
        if found is not None and _fits(found, tar):
            os.utime(kept)
            return found
    beside = f"{tar}.idx"
    if storage.is_file(beside):
        found = _parsed(storage.read(beside), tar, end)
        older = _is_older(beside, tar)
        if found is not None and _fits(found, tar, all_of_them=older):
            if older:  # so that all are not looked at again
                _keep(found.tolist(), [], kept)
            return found
        print(f"{beside} does not fit {tar}: the index is made anew", file=sys.stderr)
    offsets = _walk(tar)
    _keep([*offsets, end], [beside] if write_beside and not storage.is_remote(tar) else [], kept)
    return np.array([*offsets, end], dtype=np.int64)


def _is_older(index: str, tar: str) -> bool:
    """Whether a tar of this machine was written after its index, as far as times of files tell."""
    return not storage.is_remote(tar) and os.stat(index).st_mtime_ns < os.stat(tar).st_mtime_ns


def _state(tar: str) -> tuple[int, str]:
    """Length and version of a tar. Raises UserError if it is not there."""
    try:
        return storage.state(tar)
    except OSError as error:
        raise UserError(f"Cannot read {tar}: {error.strerror}.") from None


def _parsed(data: bytes, tar: str, end: int) -> np.ndarray | None:
    """The offsets in an index, the tar's size last; None if they do not fit the tar."""
    if len(data) % 8 or not data:
        return None
    offsets = np.frombuffer(data, dtype="<u8").astype(np.int64)
    if offsets[-1] > end or offsets[0] or (np.diff(offsets) <= 0).any():
        return None
    # Some tools end with the offset of the empty blocks, or without any end.
    if offsets[-1] < end:
        closed = not storage.read(tar, int(offsets[-1]), HEADER).strip(b"\0")
        offsets = np.append(offsets[:-1] if closed else offsets, end)
    return offsets


def _fits(offsets: np.ndarray, tar: str, *, all_of_them: bool = False) -> bool:
    """Whether an index is that of its tar: at LOOKED_AT of its places, the first and the last among
    them, or at `all_of_them`, a header begins, and the file behind it ends before the next place,
    at that place or at another header. What is not looked at is told when it is read.
    """
    count = len(offsets) - 1
    if not count:
        return True
    places = range(count) if all_of_them else np.linspace(0, count - 1, LOOKED_AT)
    numbers = sorted(set(np.asarray(places).astype(int).tolist()))
    follow = []
    for number, data in zip(numbers, _blocks(tar, offsets[numbers].tolist()), strict=True):
        try:
            found = tarfile.TarInfo.frombuf(data, tarfile.ENCODING, "surrogateescape")
        except tarfile.TarError:
            return False
        size = HEADER * -(-found.size // HEADER)
        ends, bound = offsets[number] + HEADER + size, offsets[number + 1]
        if offsets[number] + HEADER + found.size > bound:
            return False
        if ends < bound and number < count - 1:
            follow.append(int(ends))
    return all(map(_is_header, _blocks(tar, follow)))


def _blocks(tar: str, places: Sequence[int]) -> list[bytes]:
    """The blocks of a header's length at some places."""
    return storage.read_stretches([(tar, place, HEADER) for place in places])


def _is_header(data: bytes) -> bool:
    """Whether a block is the header of anything."""
    try:
        tarfile.TarInfo.frombuf(data, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _walk(tar: str) -> list[int]:
    """Offsets of the samples, by going through a tar. Raises UserError if it is not whole."""
    offsets: list[int] = []
    previous = None
    try:
        with (
            storage.open_binary(tar) as file,
            tarfile.open(fileobj=file, mode="r|" if storage.is_remote(tar) else "r:") as archive,
        ):
            for member in archive:
                if not member.isreg():
                    continue  # "./", for one, which has no name
                sample = PurePosixPath(member.name).with_suffix("")
                if sample != previous:
                    previous = sample
                    offsets.append(member.offset)
            closed = archive.offset
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{tar} is not a whole, uncompressed tar ({error}) after {len(offsets)} samples. Was "
            "it cut off when it was copied?"
        ) from None
    # The library takes whatever it does not understand for the end.
    end = storage.read(tar, closed, HEADER)
    if len(end) < HEADER or end.strip(b"\0"):
        raise UserError(
            f"{tar} was cut off, or is damaged, after {len(offsets)} samples at byte {closed}: "
            "expected more files or the empty blocks that end a tar. Copy it again."
        )
    return offsets


def _keep(offsets: list[int], beside: list[str], kept: Path) -> None:
    """Write an index beside its tar or else into the cache; a full disk is no error here."""
    data = struct.pack(f"<{len(offsets)}Q", *offsets)
    for place in [*map(Path, beside), kept]:
        try:
            with atomic_path(place) as temporary:
                temporary.write_bytes(data)
            return
        except OSError:
            continue
