"""What data preparation made of a damaged input, compared with what its source holds."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from damaged.case import Ended, Outcome, call

SECONDS = 1.0
NUM_ROWS = 6
TEXTS = [
    f"this is sentence number {word}" for word in ("zero", "one", "two", "three", "four", "five")
]
SPEAKERS = ["ann", "bob", "cleo", "ann", "bob", "cleo"]
# What a user would give: all rows to train, so that the shares play no part.
FLAGS = ("--jobs", 1, "--max-dropped", 1, "--dev-share", 0, "--test-share", 0)
Row = dict
Allowed = Callable[[int, Row], bool]


def write_audio(folder: Path, *, seconds: float = SECONDS) -> None:
    """0.wav to 5.wav, each of its own noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(NUM_ROWS):
        samples = 0.1 * np.random.default_rng(i).standard_normal(int(seconds * 16000))
        soundfile.write(folder / f"{i}.wav", samples, 16000)


def rows_of(out: Path, name: str) -> list[Row]:
    path = out / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def as_written(index: int, row: Row) -> bool:
    """Whether a kept row is what the undamaged source says of that recording."""
    return row["text"] == TEXTS[index] and abs(row["duration"] - SECONDS) < 0.01


def nearly(index: int, row: Row) -> bool:
    """Whether it is so but for some bytes, or for an end that was cut off."""
    alike = difflib.SequenceMatcher(None, row["text"], TEXTS[index]).ratio() > 0.8
    return (alike or TEXTS[index].startswith(row["text"])) and abs(row["duration"] - SECONDS) < 0.01


def outcome(
    ended: Ended,
    out: Path,
    *,
    rows: int | None,
    allowed: Allowed = as_written,
    must_tell: bool = True,
) -> Outcome:
    """What a preparation came to. `rows` are those that the damaged source holds, None if it says
    nothing of that; `allowed(index of the recording, row)` whether a kept row is honest; with
    `must_tell` it is silent to say nothing at all."""
    told = ended.err.strip() or ended.out.strip()
    if ended.trace:
        return Outcome(traceback=True, message=ended.trace)
    if ended.refused():
        return Outcome(handled=True, message=told.splitlines()[-1])
    kept, dropped = rows_of(out, "train"), rows_of(out, "dropped")
    for row in kept:
        index = Path(row["audio_filepath"]).name[0]
        if not index.isdigit() or not allowed(int(index), row):
            return Outcome(silent=True, message=f"kept: {row}")
    if rows is not None and len(kept) + len(dropped) != rows:
        return Outcome(
            silent=True, message=f"{rows} rows became {len(kept)} kept and {len(dropped)} dropped"
        )
    if dropped and all(row["reason"] for row in dropped):
        return Outcome(handled=True, message=f"{dropped[0]['reason']}: {dropped[0]['detail']}")
    if ended.code:
        return Outcome(handled=True, message=told.splitlines()[-1])
    return Outcome(silent=must_tell, message="nothing was told")


def prepare(script: str, source: Path, out: Path, *flags) -> Ended:
    return call(f"data_prep/{script}", source, "--out", out, *FLAGS, *flags)


def num_lines(content: bytes) -> int:
    return sum(1 for line in content.splitlines() if line.strip())


def flipped(content: bytes, *, seed: int, count: int = 3, within: slice = slice(None)) -> bytes:
    """`content` with some bits of it the other way round."""
    rng = np.random.default_rng(seed)
    damaged = bytearray(content)
    places = range(len(damaged))[within]
    for place in rng.choice(len(places), size=count, replace=False):
        damaged[places[int(place)]] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def truncated(content: bytes, *, places: int) -> Iterator[bytes]:
    """The beginning of `content`, of `places` lengths."""
    for i in range(places):
        yield content[: round(len(content) * (i + 0.5) / places)]
