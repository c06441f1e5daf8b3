"""Lhotse cuts as JSON lines, plain or gzipped, whose recordings are files. Read as JSON: Lhotse
itself would import torch.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.data.corpora.folder import existing_file
from parakeet_ft.data.manifest import Utterance, parse_json
from parakeet_ft.data.seconds import parse_seconds, stretch
from parakeet_ft.errors import UserError

# A file that begins with so many lines of which none is a cut is read on all the same.
MOST_BAD_LINES = 20


def read_lhotse_cuts(path: str | Path) -> Iterator[Utterance]:
    """Yield an utterance a supervision (times of Lhotse 1.33: a supervision begins relative to its
    cut, a cut relative to its recording).

    Mixed and padding cuts, commands, and audio in memory or archives, come as bad_row.
    """
    path = existing_file(path, what="Lhotse cut manifest (cuts.jsonl or cuts.jsonl.gz)")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        try:
            yield from _of_lines(lines, path)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _no_cuts(path, error) from None


def _no_cuts(path: Path, why: Any) -> UserError:
    """The error to raise for a file of something else."""
    return UserError(
        f"{path} is not a Lhotse cut manifest ({why}). Expected JSON lines, as "
        "CutSet.to_file writes."
    )


def _of_lines(lines: Iterable[str], path: Path) -> Iterator[Utterance]:
    """Raises UserError if the file begins with lines of which none is a cut."""
    bad: list[Utterance] = []
    any_cut = False
    for number, line in enumerate(lines, 1):
        found = list(_of_line(line, path.parent, number)) if line.strip() else []
        any_cut = any_cut or any("bad_row" not in utterance.extra for utterance in found)
        bad += found
        if any_cut or len(bad) > MOST_BAD_LINES:
            yield from bad
            bad.clear()
    if bad and not any(" is a " in utterance.extra["bad_row"] for utterance in bad):
        raise _no_cuts(path, bad[0].extra["bad_row"])
    yield from bad


def _of_line(line: str, folder: Path, number: int) -> Iterator[Utterance]:
    """The utterances of a cut; one with a reason where it is none, or not as Lhotse writes it."""
    try:
        found = list(_of_cut(parse_json(line), folder, number))
    except ValueError as error:
        wrong = f"line {number}: {error}"
    except (KeyError, TypeError, AttributeError) as error:
        wrong = f"line {number} is not a cut as Lhotse writes it ({type(error).__name__}: {error})"
    else:
        yield from found
        return
    yield Utterance(audio_filepath=str(folder), duration=0.0, text="", extra={"bad_row": wrong})


def _of_cut(cut: dict[str, Any], folder: Path, number: int) -> Iterator[Utterance]:
    """The utterances of a cut; one with a reason if it is not of one audio file."""
    sources = cut.get("recording", {}).get("sources", [])
    types = [source.get("type", "?") for source in sources]
    if cut.get("type") not in ("MonoCut", "MultiCut") or types != ["file"]:
        kind = f"{cut.get('type', 'no type')} with audio in {', '.join(types) or 'nothing'}"
        yield Utterance(
            audio_filepath=str(folder),
            duration=0.0,
            text="",
            extra={"bad_row": f"line {number} is a {kind}, expected a cut of one audio file"},
        )
        return
    audio_path = _audio_path(sources[0]["source"], folder)
    start = parse_seconds(cut.get("start"), "start")
    length = parse_seconds(cut["duration"], "duration")
    for supervision in cut.get("supervisions", []):
        offset, duration = _stretch_of(supervision, start, length)
        text = supervision.get("text") or ""
        speaker = supervision.get("speaker")
        if not isinstance(text, str) or not isinstance(speaker, str | None):
            raise TypeError("text and speaker are no strings")
        extra = {"id": supervision.get("id", cut.get("id"))}
        if supervision.get("language"):
            extra["lang"] = supervision["language"]
        yield Utterance(
            audio_filepath=audio_path,
            duration=duration,
            text=text,
            offset=offset,
            speaker=speaker,
            extra=extra,
        )


def _stretch_of(supervision: dict[str, Any], start: float, length: float) -> tuple[float, float]:
    """(offset, duration) in the recording of a supervision, as far as it is inside its cut, which
    begins at `start`. Raises ValueError for what are no seconds.
    """
    # One that was cut off with its cut begins before it.
    first = float(supervision["start"])
    if not math.isfinite(first):
        raise ValueError(f"start is {first}, expected seconds")
    seconds = parse_seconds(supervision["duration"], "duration")
    return stretch(start + max(0.0, first), start + min(length, first + seconds))


def _audio_path(source: str, folder: Path) -> str:
    """Lhotse takes relative paths from the working directory; a folder that was moved whole still
    has its audio beside the cuts.
    """
    if os.path.exists(source):
        return os.path.abspath(source)
    return os.path.normpath(folder / source)
