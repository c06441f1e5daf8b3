"""Files that appear whole or not at all, what is read back from them, and where the project's own
are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from parakeet_ft.errors import UserError

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


# Those that this process has begun and not finished.
_temporary: set[Path] = set()


def drop_unfinished() -> None:
    """Remove what this process has begun to write by `atomic_path`, before it ends at once."""
    for path in list(_temporary):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, fsynced and renamed to it on success, removed on failure: a
    file that exists is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _temporary.add(temporary)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _temporary.discard(temporary)


def refuse_pipe(path: Path) -> None:
    """Raise UserError for what can be read only once, or has no end: a pipe, a device."""
    # Unlike Path.exists, for names that are too long or hold a NUL, too.
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(
            f"{path} is a pipe or a device: expected a file, which is read several times. `cat "
            f"{path} > FILE` makes one."
        )


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
    own, lock = _new_workspace(folder)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        lock.release()


def _new_workspace(folder: Path) -> tuple[Path, filelock.BaseFileLock]:
    """A workspace and its lock."""
    while True:
        own = Path(tempfile.mkdtemp(prefix=WORKSPACE, dir=folder))
        # Before it was locked, another process may have taken it for abandoned.
        with contextlib.suppress(FileNotFoundError):
            lock = hold(own / "lock")
            if lock and (own / "lock").exists():
                return own, lock


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


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ValueError, saying what was found instead, if there is
    none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a JSON object")
    return content


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def json_hash(content: Any) -> str:
    """SHA-256 of a JSON value, the same before it is written and after it is read."""
    plain = json.loads(json.dumps(content, default=str))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """With a checksum of all the rest, which `broken_seal` compares when it is read back."""
    return content | {"sha256": json_hash(content)}


def broken_seal(content: dict[str, Any]) -> str | None:
    """That a sealed mapping is not as it was written; None if it is, or was written unsealed."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256", json_hash(rest)) == json_hash(rest):
        return None
    return "it was changed after it was written (its checksum differs)"


def misfit(content: Any, shape: Any, name: str = "") -> str | None:
    """Where a JSON value is not of a shape, in words; None if it is. A shape is a type, several of
    them, or a dict of shapes by key, in which "*" stands for every key.
    """
    if isinstance(shape, dict):
        return _misfit_of_object(content, shape, name)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    truth_as_number = isinstance(content, bool) and not {bool, object} & set(kinds)
    if isinstance(content, kinds) and not truth_as_number:
        return None
    expected = " or ".join(kind.__name__ for kind in kinds)
    return f"{name or 'it'} is {type(content).__name__}, expected {expected}"


def _misfit_of_object(content: Any, shape: dict[str, Any], name: str) -> str | None:
    """`misfit` for a shape that is a dict."""
    if not isinstance(content, dict):
        return f"{name or 'it'} is {type(content).__name__}, expected an object"
    missing = [key for key in shape if key not in {"*", *content}]
    if missing:
        return f"{name or 'it'} lacks {', '.join(missing)}"
    every = shape.get("*")
    problems = (
        misfit(content[key], shape.get(key, every), f"{name}.{key}".lstrip("."))
        for key in (content if "*" in shape else shape)
    )
    return next(filter(None, problems), None)


def damaged_member(archive: Path | IO[bytes]) -> str | None:
    """The first member of a zip file that does not read back as it was written, `the directory of
    its contents` if that does not; None if every byte does. All that torch.save writes is a zip
    file with a checksum for each tensor, which torch.load does not look at.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            return members.testzip()
    # What zipfile lets through for headers that make no sense: other compressions, encryption.
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
    ):
        return "the directory of its contents"
