"""The bytes of members: stretches of the shards that hold them, those of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence

from parakeet_ft.data import storage
from parakeet_ft.data.audio_file import AudioError, InMemory, Member
from parakeet_ft.data.remote import Stretch
from parakeet_ft.data.tars import HEADER, header, plain
from parakeet_ft.errors import UserError

# Names up to this length stand whole in their header.
SHORT_NAME = 100


def read(wanted: Sequence[Member]) -> list[InMemory]:
    """The audio files that members are, in their order. Raises AudioError."""
    try:
        found = storage.read_stretches([_stretch(member) for member in wanted])
    except OSError as error:
        raise AudioError("missing", f"Cannot read {error.filename}: {error.strerror}.") from None
    except UserError as error:
        raise AudioError("unreachable", str(error)) from None
    return [_checked(member, data) for member, data in zip(wanted, found, strict=True)]


def _stretch(member: Member) -> Stretch:
    """What is read of a tar: the header, too. Of a file that is no tar, all of it."""
    if not member.name:
        return member.file, 0, -1
    return member.file, member.start - HEADER, member.size + HEADER


def _checked(member: Member, data: bytes) -> InMemory:
    """The audio, if the header before it is that of the member. Raises AudioError."""
    if not member.name:
        return InMemory(member.path, data)
    found = header(data)
    if found is None:
        raise _changed(member, "nothing")
    if plain(found.name) != plain(member.name) and len(member.name) <= SHORT_NAME:
        raise _changed(member, found.name)
    if len(data) < HEADER + found.size:
        raise _changed(member, "the beginning of it")
    return InMemory(member.path, data[HEADER : HEADER + found.size])


def _changed(member: Member, found: str) -> AudioError:
    """The error to raise for a shard that is not as its index, or the plan, says."""
    return AudioError(
        "missing",
        f"{member.file} holds {found} at byte {member.start - HEADER}, expected {member.name}. The "
        f"tar was changed, or its lines are in another order than its files: remove "
        f"{member.file}.idx if there is one, and start again.",
    )
