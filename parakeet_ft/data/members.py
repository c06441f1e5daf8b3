"""The bytes of members: ranged reads of the shards that hold them, a batch at once."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

from parakeet_ft.data import storage
from parakeet_ft.data.audio_file import AudioError, InMemory, Member
from parakeet_ft.data.tars import HEADER


def read(wanted: Sequence[Member]) -> list[InMemory]:
    """The audio files that members are, in their order. Raises AudioError."""
    return [_checked(member, _bytes(member)) for member in wanted]


def _bytes(member: Member) -> bytes:
    """The header and the audio; of a file that is no tar, all of it."""
    if not member.name:
        return storage.read(member.file)
    return storage.read(member.file, member.start - HEADER, member.size + HEADER)


def _checked(member: Member, data: bytes) -> InMemory:
    """The audio, if the header before it is that of the member."""
    if not member.name:
        return InMemory(member.file, data)
    try:
        found = tarfile.TarInfo.frombuf(data[:HEADER], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        found = None
    if found is None or found.name != member.name or found.size > len(data) - HEADER:
        raise AudioError(
            "missing",
            f"{member.file} has no whole member {member.name} at byte {member.start - HEADER}: was "
            "it changed since it was planned?",
        )
    return InMemory(member.path, data[HEADER : HEADER + found.size])
