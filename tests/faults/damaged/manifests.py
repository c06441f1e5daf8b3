"""Damaged manifests, through all that reads them: data_prep's scripts, training's preflight,
transcription's list of recordings, noise."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from damaged.case import Case, Outcome, call, time_limit
from damaged.prepared import (
    NUM_ROWS,
    SECONDS,
    TEXTS,
    as_written,
    flipped,
    nearly,
    num_lines,
    outcome,
    prepare,
    rows_of,
    truncated,
    write_audio,
)
from parakeet_ft.errors import UserError

RECORDS = [
    {"audio_filepath": f"{i}.wav", "duration": SECONDS, "text": TEXTS[i]} for i in range(NUM_ROWS)
]
LINES = [json.dumps(record) for record in RECORDS]
CONTENT = "\n".join(LINES) + "\n"
# One line, the third, in place of a good one: no reader may take it for good.
BAD_LINES = {
    "nested": "[" * 100_000,
    "digits": LINES[2].replace("1.0", "9" * 5000),
    "words": "hello",
    "half a pair": LINES[2].replace("this", r"\ud800"),
    "cut": LINES[2][:40],
    "list": "[1, 2]",
    "null": "null",
    "key twice": LINES[2].replace("{", '{"text": "other", ', 1),
    "no text": '{"audio_filepath": "2.wav", "duration": 1.0}',
    "two objects": LINES[2] + LINES[3],
    "text a number": LINES[2].replace(f'"{TEXTS[2]}"', "5"),
    "single quotes": str(RECORDS[2]),
    "path a list": LINES[2].replace('"2.wav"', '["2.wav"]'),
    "absent": LINES[2].replace("2.w", "x.w"),
    "a folder": LINES[2].replace('"2.wav"', '"."'),
    "a zero byte": LINES[2].replace("2.w", r"2\u0000w"),
    "not UTF-8": LINES[2].encode().replace(b"this", b"th\xefs"),
    **{
        f"duration {value}": LINES[2].replace("1.0", value)
        for value in (
            "-2",
            "NaN",
            "Infinity",
            "1e999",
            "0",
            "true",
            '"1.0"',
            "null",
            "1e308",
            "30.0",
        )
    },
    **{
        f"offset {value}": LINES[2].replace("}", f', "offset": {value}}}')
        for value in ("-1", "NaN", "Infinity", "1e308", "true", '"0"', "5.0")
    },
}
READERS = (
    "check.py",
    "nemo_manifest.py",
    "preflight",
    "split.py",
    "shard.py",
    "recordings",
    "noise",
)
# What these do not look at: texts where none is needed, audio where it is not opened.
BLIND = {
    "split.py": {
        "absent",
        "a folder",
        "a zero byte",
        "duration 1e308",
        "duration 30.0",
        "offset 1e308",
        "offset 5.0",
    },
    "recordings": {
        "no text",
        "absent",
        "a folder",
        "a zero byte",
        "duration 1e308",
        "duration 30.0",
        "offset 1e308",
        "offset 5.0",
    },
}
BLIND["noise"] = BLIND["recordings"]


def cases(folder: Path) -> Iterable[Case]:
    write_audio(folder)
    for number, (name, content, reader, rows, must_tell) in enumerate(_damages()):
        path = folder / f"{number}.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        yield Case(
            "manifests",
            f"{name}, {reader}",
            functools.partial(_run, reader, path, folder / f"out{number}", rows, must_tell),
        )


def _damages() -> Iterator[tuple]:
    for at, (name, line) in enumerate(BAD_LINES.items()):
        before, after = (
            "".join(f"{good}\n" for good in some).encode() for some in (LINES[:2], LINES[3:])
        )
        content = before + (line if isinstance(line, bytes) else line.encode()) + b"\n" + after
        for reader in {READERS[0], READERS[2], READERS[(1, 3, 4, 5, 6)[at % 5]]}:
            yield name, content, reader, NUM_ROWS, name not in BLIND.get(reader, ())
    for at, content in enumerate(truncated(CONTENT.encode(), places=7)):
        whole = content.endswith((b"}", b"\n"))
        yield f"cut at {len(content)}", content, READERS[at], num_lines(content), not whole
    for seed in range(7):
        yield (
            f"flipped {seed}",
            flipped(CONTENT.encode(), seed=seed),
            READERS[seed % 2],
            None,
            False,
        )
    for name, content in (
        ("empty", ""),
        ("blank lines", "\n\n"),
        ("one array", json.dumps(RECORDS)),
        ("UTF-16", CONTENT.encode("utf-16")),
        ("binary", bytes(range(256)) * 9),
        ("a table", "path,text\n0.wav,zero\n"),
        ("gzip", b"\x1f\x8b\x08\x00" + b"\0" * 90),
    ):
        for reader in ("check.py", "preflight"):
            yield name, content, reader, None, True


def _run(reader: str, path: Path, out: Path, rows: int | None, must_tell: bool) -> Outcome:
    if reader in ("check.py", "nemo_manifest.py"):
        return _prepared(reader, path, out, rows, must_tell)
    if reader in ("split.py", "shard.py"):
        shares = ("--dev-share", 0, "--test-share", 0) if reader == "split.py" else ("--jobs", 1)
        ended = call(f"data_prep/{reader}", path, "--out", out, *shares)
        if ended.refused() or ended.trace:
            return Outcome(ended.refused(), bool(ended.trace), message=ended.trace or ended.err)
        if must_tell:
            return Outcome(silent=True, message=f"taken: {rows_of(out, 'train')}")
        return Outcome()
    read = {"preflight": _preflight, "recordings": _recordings, "noise": _noise}[reader]
    try:
        with time_limit(), contextlib.redirect_stderr(io.StringIO()) as said:
            read(path)
    except UserError as error:
        return Outcome(handled=True, message=str(error))
    # The preflight warns of other things too, such as a missing guard set.
    if str(path) in said.getvalue():
        return Outcome(handled=True, message=said.getvalue())
    return Outcome(silent=must_tell, message="taken without a word")


def _prepared(script: str, path: Path, out: Path, rows: int | None, must_tell: bool) -> Outcome:
    if script == "check.py":
        good = path.with_name(path.stem + "_train.jsonl")
        good.write_bytes(path.read_bytes())
        ended = call(
            "data_prep/check.py", good, "--out", out, "--jobs", 1, "--max-dropped", 1, "--write"
        )
    else:
        ended = prepare(script, path, out)
    return outcome(
        ended, out, rows=rows, allowed=as_written if must_tell else nearly, must_tell=must_tell
    )


def _preflight(path: Path) -> None:
    """What finetune.py looks at before torch is imported."""
    from parakeet_ft import preflight

    good = path.with_name("validation.jsonl")
    good.write_text(CONTENT)
    preflight.check_finetune(
        [f"data.train={path}", f"data.validation={good}", "data.allow_overlap=true", "model=tiny"]
    )


def _recordings(path: Path) -> None:
    from parakeet_ft.transcription.recordings import collect_recordings

    collect_recordings([str(path)])


def _noise(path: Path) -> None:
    from parakeet_ft.batches.augmentation import read_noises

    read_noises(str(path))
