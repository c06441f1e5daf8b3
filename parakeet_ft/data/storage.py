"""Bytes of files here and, through fsspec, on other machines: http(s)://, s3:// and gs://.

Nothing but these four is ever looked up elsewhere: every other name is a file of this machine.
"""

from __future__ import annotations

import os
import posixpath
from typing import IO

SCHEMES = ("http://", "https://", "s3://", "gs://")


def is_remote(name: str) -> bool:
    """Whether a name is looked for on another machine."""
    return name.startswith(SCHEMES)


def folder_of(name: str) -> str:
    """The folder, or URL, that a file lies in."""
    return posixpath.dirname(name) if is_remote(name) else os.path.dirname(os.path.abspath(name))


def join(folder: str, *parts: str) -> str:
    """A name below a folder or URL."""
    return "/".join([folder.rstrip("/"), *parts])


def is_file(name: str) -> bool:
    """Whether there is a file, or object, of this name."""
    return os.path.isfile(name)


def is_folder(name: str) -> bool:
    """Whether there is a folder of this name."""
    return os.path.isdir(name)


def listing(folder: str) -> list[str]:
    """Names of what lies in a folder, sorted; none if there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def size(name: str) -> int:
    """Length of a file in bytes."""
    return os.path.getsize(name)


def read(name: str, start: int = 0, length: int = -1) -> bytes:
    """Bytes of a file from `start`; to its end for a length of -1."""
    with open(name, "rb") as file:
        file.seek(start)
        return file.read(length)


def open_binary(name: str) -> IO[bytes]:
    """A file to read from its beginning to its end."""
    return open(name, "rb")
