"""Files that appear whole or not at all, and where the project's own are."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import filelock

PACKAGE = Path(__file__).resolve().parent
DEMO = PACKAGE / "demo"


def project_folder(name: str) -> Path:
    """conf/, recipes/ or data_prep/: inside an installed wheel's package, or in the clone around
    it.
    """
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, fsynced and renamed to it on success, removed on failure: a
    file that exists is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hold(path: Path) -> filelock.BaseFileLock | None:
    """A lock file, held until it is released or this process ends, however it ends; None if another
    has it. Raises OSError if it cannot be written.
    """
    import filelock

    path.open("a").close()  # filelock takes a file that it may not write for one that is held
    # A soft lock would outlive a killed process.
    lock = filelock.FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    return lock


WORKSPACE = ".unfinished-"


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, removed at the end; those that killed processes left there are
    removed first.

    Each holds a locked file, and a lock ends with its process, whatever ended that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{WORKSPACE}*"):
        _remove_abandoned(left)
    own = Path(tempfile.mkdtemp(prefix=WORKSPACE, dir=folder))
    lock = hold(own / "lock")
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        if lock:
            lock.release()


def _remove_abandoned(left: Path) -> None:
    """Remove a workspace that no process holds any more."""
    with contextlib.suppress(OSError):
        if lock := hold(left / "lock"):
            shutil.rmtree(left, ignore_errors=True)
            lock.release()


def plain_modes(path: Path) -> None:
    """Give a file, or all in a folder, the modes that new ones get here; some libraries write
    files that only their owner may read.
    """
    mask = os.umask(0)
    os.umask(mask)
    for one in [path, *path.rglob("*")]:
        one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
        )
