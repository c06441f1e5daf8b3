"""What is noted of shards while they are written: whose they are, and which are whole.

The notes of FOLDER lie beside it, in .FOLDER.state: Lhotse takes every file in a Shar for a part of
it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import hold, read_json, write_json

STARTED = "started.json"
# What shards are made of, NeMo's and Lhotse's.
PARTS = ("shards.json", "sharded_manifests/*", "audio_*.tar", "cuts.*", "recording.*")


def notes_of(out: Path) -> Path:
    """Where the notes of a folder are."""
    return out.with_name(f".{out.name}.state")


@contextlib.contextmanager
def claimed(out: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Inside, shards of `identity` are written to a folder, by this run alone. What killed runs and
    killed workers had begun is removed.

    Shards of the same manifest that were written otherwise are removed, and told. Raises UserError
    for those of another manifest.
    """
    notes = notes_of(out)
    notes.mkdir(parents=True, exist_ok=True)
    lock = hold(notes / "lock")
    if lock is None:
        raise UserError(
            f"Another run is writing shards to {out}: expected one at a time. Wait until it has "
            "ended, or give another --out."
        )
    try:
        _take(out, identity)
        _remove_unfinished(out)
        yield
        _remove_unfinished(out)
    finally:
        lock.release()


def _take(out: Path, identity: dict[str, Any]) -> None:
    """Make a folder that of `identity`. Raises UserError if it holds shards of another manifest."""
    before = _read(notes_of(out) / STARTED)
    if before == identity:
        return
    if any(found for part in PARTS for found in out.glob(part)):
        place = (before or {}).get("manifest")
        if place != identity["manifest"]:
            whose = f"of {os.path.normpath(out / place)}" if place else "of which nothing is noted"
            wanted = os.path.normpath(out / identity["manifest"])
            raise UserError(
                f"{out} holds shards {whose}: expected none, or those of {wanted}. Give another "
                f"--out, or remove {out}."
            )
        print(f"{out}: {_difference(before or {}, identity)}; its shards are written anew")
        remove_shards(out)
    for path in notes_of(out).glob("*.json"):
        path.unlink()
    write_json(notes_of(out) / STARTED, identity)


def remove_shards(out: Path) -> None:
    """Remove the shards in a folder, and no other file; the folder, if they were all it held."""
    for part in PARTS:
        for path in out.glob(part):
            path.unlink()
    for folder in (out / "sharded_manifests", out):
        with contextlib.suppress(OSError):  # it is not there, or holds other files
            folder.rmdir()


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In what two identities differ, in words."""
    if before.get("manifest_sha256") != now["manifest_sha256"]:
        return "the manifest has changed"
    changes = (
        f"{key} was {before.get(key)} and is {now[key]}"
        for key in now
        if before.get(key) != now[key]
    )
    return ", ".join(changes)


def _remove_unfinished(out: Path) -> None:
    """Remove what was begun and is not whole."""
    notes = notes_of(out)
    for folder in (out, out / "sharded_manifests", notes):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
    for path in notes.glob("staging_*"):
        shutil.rmtree(path)


def finished(out: Path, number: int) -> dict[str, Any] | None:
    """What was noted of a shard that is whole; None if it is not, or not as it was written: its
    files have the lengths that were noted when all of them were there.
    """
    known = _read(_done_path(out, number)) or {}
    sizes = known.pop("bytes", None)
    if not isinstance(sizes, dict) or not sizes:
        return None
    whole = all(_size(out / name) == size for name, size in sizes.items())
    return known if whole else None


def forget(out: Path, number: int) -> None:
    """Note that a shard is not whole, before any of it is written."""
    _done_path(out, number).unlink(missing_ok=True)


def note_finished(out: Path, described: dict[str, Any], files: Sequence[Path]) -> None:
    """Note that a shard is whole, after all of it was written."""
    sizes = {str(path.relative_to(out)): path.stat().st_size for path in files}
    write_json(_done_path(out, described["number"]), described | {"bytes": sizes})


def _done_path(out: Path, number: int) -> Path:
    """The file that says that a shard is whole."""
    return notes_of(out) / f"done_{number}.json"


def _size(path: Path) -> int | None:
    """The length of a file; None if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    """A note; None if there is none that can be read."""
    try:
        return read_json(path)
    except ValueError:
        return None
