"""exports.json beside exported formats: of which model each is, and the files that were checked, so
that nobody publishes another's.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import file_hash, misfit, read_json, write_json

NAME = "exports.json"
SHAPE = {"source_sha256": str, "head": str, "files": {"*": str}}


@dataclasses.dataclass(frozen=True)
class Exported:
    """A format below the folder of an exports.json. files: SHA-256 by path below that folder."""

    target: str
    head: str  # ctc or transducer
    source_sha256: str  # of the .nemo
    files: dict[str, str]


def note(out: Path, target: str, written: Path, *, source: Path, head: str) -> None:
    """Add `written`, a file or folder below `out`, to its record."""
    files = [written] if written.is_file() else sorted(p for p in written.rglob("*") if p.is_file())
    try:
        known = read_json(out / NAME)
    except ValueError:
        known = {}
    known[target] = {
        "source_sha256": file_hash(source),
        "head": head,
        "files": {file.relative_to(out).as_posix(): file_hash(file) for file in files},
    }
    write_json(out / NAME, known)


def exports_of(out: Path, model: Path) -> list[Exported]:
    """What `out` holds. Raises UserError if that is of another model, or changed since."""
    try:
        known = read_json(out / NAME)
        problem = misfit(known, {"*": SHAPE})
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"{out / NAME} is no record of exports: {problem}. Expected the folder that "
            f"recipes/export.py wrote: python recipes/export.py {model} --to onnx --out {out}"
        )
    return [_checked(out, target, entry, model) for target, entry in known.items()]


def _checked(out: Path, target: str, entry: dict[str, Any], model: Path) -> Exported:
    """An entry of the record, once it was compared with what lies there."""
    if entry["source_sha256"] != file_hash(model):
        raise UserError(
            f"{out / target} was exported from another model than {model}: export that one "
            f"(recipes/export.py), or leave it out."
        )
    for name, expected in entry["files"].items():
        path = out / name
        inside = path.resolve().is_relative_to(out.resolve())
        if not inside or not path.is_file() or file_hash(path) != expected:
            raise UserError(f"{path} is not what recipes/export.py wrote: export again.")
    return Exported(target, entry["head"], entry["source_sha256"], entry["files"])
