"""Files on other machines through fsspec: http(s)://, s3:// and gs://.

What a network may do (a dropped connection, a server in trouble) is tried again, and then told in a
UserError.
"""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from parakeet_ft.data import cache
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, file_hash
from parakeet_ft.urls import masked, with_secrets

# A stretch of a file: name, first byte, number of bytes (-1: to its end).
Stretch = tuple[str, int, int]
Found = TypeVar("Found")

SCHEMES = ("http://", "https://", "s3://", "gs://")
# What each needs beside fsspec.
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
CREDENTIALS = {
    "s3": "the AWS_ variables or ~/.aws/credentials; for a public bucket set FSSPEC_S3_ANON=true",
    "gs": "`gcloud auth application-default login` or GOOGLE_APPLICATION_CREDENTIALS; for a public "
    "bucket set FSSPEC_GS_TOKEN=anon",
}
# With pauses of half a second, doubled each time, some 15 s in all.
TRIES = 6
PAUSE_SECONDS = 0.5
# A server in trouble is complained of once in that time, whatever the number of requests.
TOLD_SECONDS = 60.0
# How long a server may say nothing.
CONNECT_SECONDS, READ_SECONDS = 10, 30
# Files of servers that give nothing but whole files, and where they lie here.
_copies: dict[str, str] = {}


def is_folder(name: str) -> bool:
    """Whether there is a folder of this name. Web servers have none: there, a name without suffix
    is one if it lists files.
    """
    if name.startswith(("http://", "https://")):
        path = urlsplit(name).path.rstrip("/")
        return not posixpath.splitext(path)[1] and bool(listing(name))
    found = info(name)
    return found is not None and found.get("type") == "directory"


def listing(folder: str) -> list[str]:
    """Names of what lies in a folder, sorted; none if there is no such folder, or the server does
    not list it.
    """
    url = f"{folder.rstrip('/')}/"
    none: list[str] = []
    paths = _asked(url, lambda files: files.ls(with_secrets(url), detail=False), absent=none)
    return sorted({posixpath.basename(path.rstrip("/")) for path in paths} - {""})


def state(name: str) -> tuple[int, str]:
    """Length of a file in bytes, and what changes when its content does, as far as the server says.
    Raises UserError if there is none.
    """
    found = info(name)
    if found is None:
        raise UserError(f"Nothing at {name}.")
    length = found.get("size")
    if length is None:
        length = len(read([(name, 0, -1)])[0])
    keys = ("ETag", "etag", "md5Hash", "crc32c", "Content-MD5")
    marks = [str(found[key]) for key in keys if found.get(key)]
    times = ("Last-Modified", "LastModified", "updated")
    marks = marks or [str(found[key]) for key in times if found.get(key)]
    return int(length), " ".join([str(length), *marks])


def info(name: str) -> dict[str, Any] | None:
    """What a server says of a file, None if there is none."""
    return _asked(name, lambda files: files.info(with_secrets(name)), absent=None)


def copy_of(name: str) -> str | None:
    """The copy here of a file whose server gives no stretches, if there is one."""
    if not name.startswith(SCHEMES):
        return None  # a file of this machine has no server to ask about
    if name not in _copies and _gives_whole_files(_server(name)):
        place = _copy_place(name)
        if place.is_file() and _is_whole(place):
            _copies[name] = str(place)
    return _copies.get(name)


def _is_whole(copy: Path) -> bool:
    """Whether a copy is as it was written: its length and its SHA-256, which a process compares
    once; told if not, as it is then fetched again.
    """
    noted = cache.read_facts(copy.name)
    if noted and noted["bytes"] == copy.stat().st_size and noted["hash"] == file_hash(copy):
        os.utime(copy)
        return True
    print(f"{copy} is damaged: it is copied again", file=sys.stderr)
    return False


def _server(name: str) -> str:
    """Host and port, or bucket."""
    return name.split("/")[2]


@functools.cache
def _gives_whole_files(server: str) -> bool:
    """Whether a process of this machine has met a server that gives no stretches."""
    return cache.read_facts(_whole_files_mark(server)) is not None


def _whole_files_mark(server: str) -> str:
    """What that is called in the cache."""
    return f"whole-files-{hashlib.sha256(server.encode()).hexdigest()[:32]}"


def _copy_place(name: str) -> Path:
    """Where the copy of a file is, in its present state."""
    key = hashlib.sha256(f"{name} {state(name)[1]}".encode()).hexdigest()
    return cache.folder() / f"copy-{key[:32]}"


def read(stretches: Sequence[Stretch]) -> list[bytes]:
    """Bytes of files, in requests side by side; what failed is asked for again. Raises
    UserError.
    """
    found: dict[int, bytes] = {}
    for tries in range(TRIES):
        failed = False
        missing = [number for number in range(len(stretches)) if number not in found]
        for number, answer in _answers(stretches, missing):
            name, start, length = stretches[number]
            if not isinstance(answer, BaseException):
                found[number] = _stretch(name, answer, start, length)
            elif _is_beyond_end(answer):
                found[number] = b""
            elif _is_final(answer) or tries == TRIES - 1:
                raise _told(name, answer, tries + 1) from None
            else:
                failed = True
        if not failed:
            break
        _pause(tries, name)
    return [found[number] for number in range(len(stretches))]


def _answers(stretches: Sequence[Stretch], numbers: list[int]) -> Iterator[tuple[int, Any]]:
    """(number, bytes or exception) of each that is asked for, those of a scheme at once."""
    by_scheme: dict[str, list[int]] = {}
    for number in numbers:
        by_scheme.setdefault(stretches[number][0].partition("://")[0], []).append(number)
    for same in by_scheme.values():
        asked = [stretches[number] for number in same]
        files = _files(asked[0][0])
        try:
            answers = files.cat_ranges(
                [with_secrets(name) for name, _, _ in asked],
                [start if start or length >= 0 else None for _, start, length in asked],
                [start + length if length >= 0 else None for _, start, length in asked],
                on_error="return",
            )
        except Exception as error:  # each library has its own
            answers = [error] * len(same)
        yield from zip(same, answers, strict=True)


def _stretch(name: str, answer: bytes, start: int, length: int) -> bytes:
    """The stretch, where a server may have given all of the file instead, which is then kept."""
    if not 0 <= length < len(answer):
        return answer
    _complain_once(_server(name))
    copy = _copy_place(name)
    with atomic_path(copy) as temporary:
        temporary.write_bytes(answer)
    noted = {"bytes": len(answer), "hash": hashlib.sha256(answer).hexdigest()}
    cache.write_facts(copy.name, noted)
    _copies[name] = str(copy)
    return answer[start : start + length]


@functools.cache
def _complain_once(server: str) -> None:
    """Say that a server makes everything slow, and remember it for other processes."""
    cache.write_facts(_whole_files_mark(server), {"server": server})
    print(
        f"{server} gives whole files only (no HTTP ranges): what is read of it is copied to "
        f"{cache.folder()}",
        file=sys.stderr,
    )


def _files(name: str) -> Any:
    """The fsspec file system of a name; fsspec keeps one for each process and thread. Raises
    UserError if a package is missing.
    """
    import fsspec

    scheme = name.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if scheme.startswith("http"):
            import aiohttp

            waits = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
            )
            options["client_kwargs"] = {"timeout": waits}
        elif scheme == "s3":
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"max_attempts": 1},
            }
        return fsspec.filesystem(scheme, **options)
    except ImportError:
        raise UserError(
            f"{name}: reading {scheme}:// needs the package {PACKAGES[scheme]}, which is not "
            "installed. `pip install 'parakeet-ft[storage]'` adds it."
        ) from None


def _asked(name: str, ask: Callable[[Any], Found], *, absent: Found) -> Found:
    """What a file system says, asked again after what may pass; `absent` if nothing is there."""
    files = _files(name)
    for tries in range(TRIES):
        try:
            return ask(files)
        except Exception as error:  # each library has its own
            real = _real(error)
            if _is_absence(real):
                return absent
            if _is_final(real) or tries == TRIES - 1:
                raise _told(name, real, tries + 1) from None
        _pause(tries, name)
    raise AssertionError("the last try returns or raises")


def _real(error: BaseException) -> BaseException:
    """What happened: fsspec's http gives FileNotFoundError for whatever did (2025.12,
    implementations/http.py, HTTPFileSystem._info).
    """
    hides = isinstance(error, FileNotFoundError) and error.__cause__ is not None
    return error.__cause__ or error if hides else error


def _is_absence(error: BaseException) -> bool:
    """Whether a server said that there is nothing."""
    absent = isinstance(error, FileNotFoundError | NotADirectoryError)
    return absent or _code(error) in (404, 410, "NoSuchBucket", "NoSuchKey")


def _is_beyond_end(error: BaseException) -> bool:
    """Whether a stretch begins where its file has ended."""
    return _code(error) in (416, "InvalidRange") or "range is not satisfiable" in str(error)


def _code(error: BaseException) -> Any:
    """The status of HTTP, or the word that S3 has for what happened."""
    response = getattr(error, "response", None)
    said = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return getattr(error, "status", None) or said


def _is_refusal(error: BaseException) -> bool:
    """Whether a server wants to know who asks."""
    refused = isinstance(error, PermissionError) or "Credential" in type(error).__name__
    return refused or _code(error) in (401, 403, "AccessDenied")


def _is_final(error: BaseException) -> bool:
    """Whether it is no use to ask again."""
    status = _code(error)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    kinds = (IsADirectoryError, NotImplementedError, ValueError, UserError)
    return isinstance(error, kinds) or _is_absence(error) or _is_refusal(error)


def _told(name: str, error: BaseException, tries: int) -> UserError:
    """What went wrong with a name, in words."""
    words = masked(" ".join(str(error).split()))
    why = (words or type(error).__name__)[:200].rstrip(".")
    if isinstance(error, UserError):
        return error
    if _is_absence(error):
        return UserError(f"Nothing at {name}.")
    if _is_refusal(error):
        usual = CREDENTIALS.get(name.partition("://")[0])
        expected = f" Expected credentials in the usual places: {usual}." if usual else ""
        return UserError(f"No right to read {name} ({why}).{expected}")
    times = f" after {tries} tries" if tries > 1 else ""
    return UserError(f"Cannot read {name}{times}: {why}.")


def _told_lately(server: str) -> bool:
    """Whether a process of this machine has complained of a server within a minute; from now on
    one has.
    """
    mark = f"asked-again-{hashlib.sha256(server.encode()).hexdigest()[:32]}"
    now = time.time()
    found = cache.read_facts(mark)
    if found and 0 <= now - found["time"] < TOLD_SECONDS:
        return True
    cache.write_facts(mark, {"server": server, "time": now})
    return False


def _pause(tries: int, name: str) -> None:
    """Wait longer each time, and not all at the same moment; said from the second time on."""
    if tries and not _told_lately(_server(name)):
        print(f"{_server(name)} does not answer as it should; asked again", file=sys.stderr)
    # A generator of its own: the global one belongs to the run that is repeated to the bit.
    time.sleep(PAUSE_SECONDS * 2**tries * random.Random().uniform(0.5, 1))
