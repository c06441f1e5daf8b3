"""Bytes of files: of this machine, and of others (`remote`), by one name each.

Only http(s)://, s3:// and gs:// are ever looked up elsewhere: every other name is a file of this
machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import threading
from collections.abc import Sequence
from typing import IO, Any

from parakeet_ft.data import remote
from parakeet_ft.data.remote import Stretch

# Open files of a thread.
MOST_OPEN = 128
# Bytes of one request where a remote file is read from its beginning to its end.
BLOCK = 8 << 20


def is_remote(name: str) -> bool:
    """Whether a name is looked for on another machine."""
    return name.startswith(remote.SCHEMES)


def folder_of(name: str) -> str:
    """The folder, or URL, that a file lies in."""
    return posixpath.dirname(name) if is_remote(name) else os.path.dirname(os.path.abspath(name))


def join(folder: str, *parts: str) -> str:
    """A name below a folder or URL."""
    return "/".join([folder.rstrip("/"), *parts])


def is_file(name: str) -> bool:
    """Whether there is a file, or object, of this name. Raises UserError if nobody can tell."""
    if not is_remote(name):
        return os.path.isfile(name)
    found = remote.info(name)
    return found is not None and found.get("type") != "directory"


def is_folder(name: str) -> bool:
    """Whether there is a folder of this name."""
    return remote.is_folder(name) if is_remote(name) else os.path.isdir(name)


def listing(folder: str) -> list[str]:
    """Names of what lies in a folder, sorted; none if there is no such folder, or its server does
    not list it.
    """
    if is_remote(folder):
        return remote.listing(folder)
    with contextlib.suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def state(name: str) -> tuple[int, str]:
    """Length of a file in bytes, and what changes when its content does: size and time of change,
    or a server's ETag. Raises OSError, or UserError for other machines.
    """
    if is_remote(name):
        return remote.state(name)
    status = os.stat(name)
    return status.st_size, f"{status.st_size} {status.st_mtime_ns}"


def version(name: str) -> str:
    """The second part of `state`."""
    return state(name)[1]


def read(name: str, start: int = 0, length: int = -1) -> bytes:
    """Bytes of a file from `start`, to its end for a length of -1; fewer if it ends before. Raises
    OSError, or UserError for other machines.
    """
    return read_stretches([(name, start, length)])[0]


def read_stretches(stretches: Sequence[Stretch]) -> list[bytes]:
    """Many of `read`, in their order. What lies here is asked for at once, then read by file and
    place; what lies elsewhere is fetched in requests side by side.
    """
    found: list[bytes] = [b""] * len(stretches)
    # Of a server that gives no stretches, there may be a copy here.
    places = [
        (remote.copy_of(name) or name, start, length, number)
        for number, (name, start, length) in enumerate(stretches)
        if length
    ]
    here = sorted(place for place in places if not is_remote(place[0]))
    if len(here) > 1:
        for name, start, length, _ in here:
            _will_need(name, start, length)
    for name, start, length, number in here:
        found[number] = _read_here(name, start, length)
    elsewhere = [place for place in places if is_remote(place[0])]
    answers = remote.read([place[:3] for place in elsewhere]) if elsewhere else []
    for (*_, number), data in zip(elsewhere, answers, strict=True):
        found[number] = data
    return found


def open_binary(name: str) -> IO[bytes]:
    """A file to read from its beginning to its end."""
    return io.BufferedReader(_Remote(name), BLOCK) if is_remote(name) else open(name, "rb")


class _Remote(io.RawIOBase):
    """A file of another machine, read in order by stretches."""

    def __init__(self, name: str) -> None:
        self.name, self.at, self.size = name, 0, state(name)[0]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = read(self.name, self.at, min(len(buffer), self.size - self.at))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


class _OpenFiles(threading.local):
    """Descriptors of the files that a thread read last, the oldest first; closed with it."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[int, tuple[int, int]]] = {}

    def descriptor(self, name: str) -> int:
        """A descriptor to read any place of a file by. Raises OSError."""
        status = os.stat(name)
        found, identity = self.by_name.pop(name, (None, None))
        if found is not None and identity != (status.st_dev, status.st_ino):
            os.close(found)  # another file has the name now
            found = None
        if found is None:
            if len(self.by_name) >= MOST_OPEN:
                os.close(self.by_name.pop(next(iter(self.by_name)))[0])
            found = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        self.by_name[name] = found, (status.st_dev, status.st_ino)
        return found

    def __del__(self) -> None:
        for descriptor, _ in self.by_name.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)


_open_files = _OpenFiles()


def _will_need(name: str, start: int, length: int) -> None:
    """Have the system fetch a stretch while others are read."""
    with contextlib.suppress(OSError):
        place = _open_files.descriptor(name)
        os.posix_fadvise(place, start, max(0, length), os.POSIX_FADV_WILLNEED)


def _read_here(name: str, start: int, length: int) -> bytes:
    """Bytes of a file of this machine. Raises OSError."""
    if length < 0:
        with open(name, "rb") as file:
            file.seek(start)
            return file.read()
    return os.pread(_open_files.descriptor(name), length, start)
