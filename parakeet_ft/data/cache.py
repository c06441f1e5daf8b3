"""What is found once and read by every process of a node, kept between runs: folders that are whole
or not there, and small JSON files.

It lies in $PARAKEET_FT_CACHE, else in $XDG_CACHE_HOME/parakeet_ft, else in ~/.cache/parakeet_ft;
where that last cannot be written, in the temporary folder of the machine, which is said. What
nobody used for 30 days is removed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.errors import REFUSED, UserError
from parakeet_ft.files import WORKSPACE, broken_seal, read_json, sealed, workspace, write_json

VARIABLE = "PARAKEET_FT_CACHE"
UNUSED_SECONDS = 30 * 24 * 3600
LOCKS = "locks"


def folder() -> Path:
    """Where the cache is; made if it is not there. Raises UserError if it cannot be written."""
    if given := os.environ.get(VARIABLE):
        if (problem := _problem(Path(given))) is None:
            return Path(given)
        raise UserError(
            f"{VARIABLE}={given} cannot be written ({problem}). Expected a folder for what is read "
            "of large manifests and of other machines: give another one, or mend it."
        )
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    usual = Path(own) / "parakeet_ft"
    problem = _problem(usual)
    if problem is None:
        return usual
    # The same name for all ranks of the node; another user's folder of that name is not writable.
    instead = Path(tempfile.gettempdir()) / f"parakeet_ft-{os.getuid()}"
    if _problem(instead) is None:
        _say_instead(usual, problem, instead)
        return instead
    raise UserError(
        f"Neither {usual} ({problem}) nor {instead} can be written. Expected a folder for what is "
        f"read of large manifests and of other machines: set {VARIABLE} to one."
    )


def _problem(found: Path) -> str | None:
    """Why a folder cannot be the cache, None if it can; made if it is not there."""
    try:
        (found / LOCKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return REFUSED.get(error.errno or 0, error.strerror or str(error))
    writable = os.access(found, os.W_OK) and os.access(found / LOCKS, os.W_OK)
    return None if writable else REFUSED[errno.EACCES]


@functools.cache
def _say_instead(usual: Path, problem: str, instead: Path) -> None:
    """Say once a run which folder serves, and how to name another."""
    if multiprocessing.parent_process() is None:
        print(
            f"{usual} cannot be written ({problem}): {instead} is used instead, for what is read "
            f"of large manifests and of other machines. {VARIABLE} names another folder.",
            file=sys.stderr,
        )


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """The cache's folder, while no other process of this machine is inside for the same name."""
    import filelock

    root = folder()
    with filelock.FileLock(root / LOCKS / f"{name}.lock"):
        yield root


def kept_folder(
    name: str, build: Callable[[Path], None], problem: Callable[[Path], str | None]
) -> Path:
    """The folder of a name, made by build(new folder) where there is none, or where problem(it)
    says what is wrong with it.
    """
    target = folder() / name
    if not target.is_dir() or problem(target):
        with locked(name) as root:
            # Another process may have built it meanwhile.
            wrong = problem(target) if target.is_dir() else None
            if wrong:
                print(f"{target} is damaged ({wrong}): it is made again", flush=True)
            if wrong or not target.is_dir():
                _build(root, target, build)
    with contextlib.suppress(OSError):
        os.utime(target)
    return target


def _build(root: Path, target: Path, build: Callable[[Path], None]) -> None:
    """Make `target` whole or not at all. Raises UserError where there is no room for it."""
    prune(root)
    try:
        with workspace(root) as own:
            whole = own / "whole"
            whole.mkdir()
            build(whole)
            shutil.rmtree(target, ignore_errors=True)
            whole.rename(target)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror or error}. Make room, or set "
            "PARAKEET_FT_CACHE to a folder on a larger disk."
        ) from None


def kept_facts(name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What find() found, now or earlier, for a name that holds all that it depends on."""
    path = folder() / f"{name}.json"
    found = read_facts(name)
    if found is None:
        with locked(name):
            found = read_facts(name)
            if found is None:
                found = find()
                write_json(path, sealed(found))
    return found


def read_facts(name: str) -> dict[str, Any] | None:
    """The facts of a name, None where there are none, or none that are as they were written."""
    path = folder() / f"{name}.json"
    try:
        content = read_json(path)
        os.utime(path)
    except (ValueError, OSError):
        return None
    if broken_seal(content):
        return None
    return {key: value for key, value in content.items() if key != "sha256"}


def write_facts(name: str, content: dict[str, Any]) -> None:
    """Keep facts; a full disk is no error, as they can be found again."""
    with contextlib.suppress(OSError):
        write_json(folder() / f"{name}.json", sealed(content))


def prune(root: Path) -> None:
    """Remove what nobody used for 30 days."""
    oldest = time.time() - UNUSED_SECONDS
    for path in root.iterdir():
        with contextlib.suppress(OSError):
            if path.name == LOCKS or path.name.startswith(WORKSPACE):
                continue
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
