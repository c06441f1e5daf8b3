"""Files that appear whole or not at all, what is read back from them, and where the project's own
are.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a JSON object")
    return content


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
