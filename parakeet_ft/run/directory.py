"""Where a run writes: a new directory, or that of the same command's unfinished run, which then
continues.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.data.audio_file import AudioError
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, broken_seal, hold, misfit, read_json
from parakeet_ft.run.composition import flatten
from parakeet_ft.urls import masked

# What may differ between a run and its continuation: it changes neither weights nor scores.
FREE = (
    "resume",
    "logger.",
    "checkpoint.",
    "launcher.",
    "trainer.timeout_minutes",
    "data.num_workers",
    "evaluation.examples",
)
_held: list[Any] = []


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`key: before -> now` for each setting or manifest hash that differs and may not."""
    old = _flat(before)
    new = _flat(now)
    lines = []
    for key in {**old, **new}:
        was = old.get(key, "absent")
        becomes = new.get(key, "absent")
        if was != becomes and not key.removeprefix("config.").startswith(FREE):
            lines.append(f"{key}: {_short(was)} -> {_short(becomes)}")
    return lines


def _short(value: Any) -> Any:
    """A value; of a hash its beginning, which tells it from others."""
    is_hash = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)
    return value[:12] if is_hash else value


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys, with values as they come back from a file."""
    return flatten(json.loads(json.dumps(content, default=str)))


def lock(directory: Path) -> bool:
    """Hold the directory until this process ends; False if a living process holds it."""
    try:
        held = hold(directory / ".lock")
    except OSError as error:
        raise UserError(
            f"{directory} cannot be written to: {error.strerror}. Expected a writable directory; "
            f"name another with hydra.run.dir=DIR."
        ) from None
    if held is None:
        return False
    _held.append(held)
    return True


def unfinished(parent: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Directories with the run.json of a run that did not finish, newest first. Raises UserError if
    one of them cannot be read: it may be the run to continue.
    """
    found = []
    folders = sorted(parent.iterdir(), reverse=True) if parent.is_dir() else []
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            continue
        content = read_run(folder)
        if content and not content["finished"]:
            found.append((folder, content))
    return found


def read_run(directory: Path) -> dict[str, Any] | None:
    """run.json of a run, None where no run was begun. Raises UserError if it is damaged, or missing
    beside checkpoints.
    """
    path = directory / "run.json"
    if not os.path.lexists(path) and not any(directory.glob("checkpoints/*-step=*.ckpt")):
        return None
    try:
        content = read_json(path)
        problem = _problem_of(content)
        flatten(content)  # what is nested too deep ends here
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"{path} is no record of a run: {problem}. What {directory} holds may be an unfinished "
            f"run, which is neither continued nor written over. Delete that folder or move it "
            f"away, or begin anew under another name=; resume=never begins anew beside it."
        )
    return content


def _problem_of(content: Any) -> str | None:
    """What is wrong with the content of a run.json; None if nothing is."""
    problem = misfit(content, {"finished": bool}) or broken_seal(content)
    if not problem and not content["finished"]:
        problem = misfit(content, {"identity": {"config": dict}})
    if problem:
        return problem
    steps = content.get("resumed_at_steps", [])
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        return "resumed_at_steps is no list of steps"
    return None


def hide_secrets(directory: Path) -> None:
    """Take the secrets of URLs out of what Hydra has written of its command line."""
    for path in (directory / ".hydra").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if masked(text) != text:
            with atomic_path(path) as temporary:
                temporary.write_text(masked(text), encoding="utf-8")


@contextlib.contextmanager
def lost_audio_told(directory: Path) -> Iterator[None]:
    """Inside, audio that a run cannot read is told with what is kept and how the run goes on."""
    try:
        yield
    except AudioError as error:
        raise UserError(
            f"{error} Nothing is left out silently, so the run ends here. "
            f"{what_is_kept(directory)} The same command continues once all audio can be read; "
            "`python data_prep/check.py` on the manifest finds what cannot."
        ) from None


def what_is_kept(directory: Path) -> str:
    """What a run that is stopped leaves, in words. Where it had not begun, its directory, of which
    nothing could be continued, is removed, unless somebody's files are in it.
    """
    if (directory / "run.json").exists():
        return f"What is finished is kept in {directory}."
    for name in ("run.log", ".lock"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
    return "Nothing was begun that is lost."


def identity(
    config: dict[str, Any], manifests: dict[str, dict[str, Any]], checkpoint: Path | None
) -> dict[str, Any]:
    """What must be the same for a run to be continued: settings, hashes of the manifests
    (`sha256` in each), size and time of the checkpoint's file.
    """
    file = checkpoint.stat() if checkpoint else None
    return {
        "config": config,
        "manifests": {key: found["sha256"] for key, found in manifests.items()},
        "checkpoint": {"bytes": file.st_size, "modified": int(file.st_mtime)} if file else None,
    }


def choose(
    now: dict[str, Any], *, parent: Path, given: Path | None, resume: str
) -> tuple[Path, list[str]]:
    """The run's directory, made and locked, and lines that say what was chosen and why.

    now: this run's `identity`. parent: where runs of this name lie. given: the directory that the
    user named, if any. resume: auto continues the newest unfinished run with the same settings;
    changed continues the newest whatever changed; never begins anew. Raises UserError if `given`
    holds a finished run, one in progress, or one with other settings.
    """
    if given:
        return given, _claim_given(given, now, resume=resume)
    if resume == "never":
        return _make(parent), []
    lines: list[str] = []
    for directory, content in unfinished(parent):
        changes = differences(content["identity"], now)
        if changes and resume == "auto":
            lines = lines or [
                f"{directory} is unfinished, with other settings ({_few(changes)}); this is a new "
                "run. resume=changed continues that one with what was changed."
            ]
        elif lock(directory):
            return directory, [_continuing(directory, changes)]
    return _make(parent), lines


def _claim_given(directory: Path, now: dict[str, Any], *, resume: str) -> list[str]:
    """Make and lock the directory that the user named. Raises UserError if it holds a run that this
    command does not continue.
    """
    content = read_run(directory)
    changes = _changes_allowed(directory, content, now, resume=resume) if content else []
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(directory, error) from None
    if not lock(directory):
        raise UserError(
            f"{directory} is in use by another process. Wait for it, or give another directory."
        )
    return [_continuing(directory, changes)] if content else []


def _changes_allowed(
    directory: Path, content: dict[str, Any], now: dict[str, Any], *, resume: str
) -> list[str]:
    """What changed since the run in `directory` was begun. Raises UserError unless it may be
    continued with that.
    """
    if content["finished"]:
        raise UserError(
            f"{directory} holds a finished run. Give another directory, or delete it to run again."
        )
    if resume == "never":
        raise UserError(
            f"{directory} holds an unfinished run and resume=never is given. Give another "
            f"directory, or delete it."
        )
    changes = differences(content["identity"], now)
    if changes and resume != "changed":
        raise UserError(
            f"{directory} holds an unfinished run with other settings: {_few(changes)}. Give the "
            "same settings, resume=changed to continue it with these, or another directory."
        )
    return changes


def _cannot_be_made(directory: Path, error: OSError) -> UserError:
    """The error to raise where a directory cannot be made."""
    return UserError(
        f"{directory} cannot be made: {error.strerror}. Expected a writable place; name "
        f"another with hydra.run.dir=DIR."
    )


def _continuing(directory: Path, changes: list[str]) -> str:
    """A line on what is continued and what changed."""
    if not changes:
        return f"continuing {directory}"
    return f"continuing {directory}, with changes: {_few(changes)}"


def _few(changes: list[str]) -> str:
    """The first six changes, and how many more there are."""
    shown = "; ".join(changes[:6])
    if len(changes) > 6:
        shown += f"; and {len(changes) - 6} more"
    return shown


def _make(parent: Path) -> Path:
    """A new directory named by the time, this process's alone."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        directory = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise _cannot_be_made(directory, error) from None
        lock(directory)
        return directory
