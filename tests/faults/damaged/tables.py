"""Damaged tables: CSV, TSV, JSON lines and Parquet, through data_prep/from_table.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from damaged.case import Case, Outcome
from damaged.prepared import (
    NUM_ROWS,
    SPEAKERS,
    TEXTS,
    Allowed,
    as_written,
    flipped,
    nearly,
    num_lines,
    outcome,
    prepare,
    truncated,
    write_audio,
)

HEADER = "path,text,speaker,duration,offset"
LINES = [f"{i}.wav,{TEXTS[i]},{SPEAKERS[i]},," for i in range(NUM_ROWS)]
CSV = "\n".join([HEADER, *LINES]) + "\n"
RECORDS = [{"path": f"{i}.wav", "text": TEXTS[i], "speaker": SPEAKERS[i]} for i in range(NUM_ROWS)]
JSON = "".join(json.dumps(record) + "\n" for record in RECORDS)


def cases(folder: Path) -> Iterable[Case]:
    write_audio(folder)
    damages = [
        *_cut_and_flipped(),
        *_quotes(),
        *_encodings(),
        *_cells(),
        *_headers(),
        *_json(),
        *_parquet(folder),
    ]
    for number, (name, suffix, content, rows, allowed, must_tell, *flags) in enumerate(damages):
        path = folder / f"{number}{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        yield Case(
            "tables",
            name,
            functools.partial(_run, path, folder / f"out{number}", rows, allowed, must_tell, flags),
        )


def _run(
    path: Path, out: Path, rows: int | None, allowed: Allowed, must_tell: bool, flags: list
) -> Outcome:
    return outcome(
        prepare("from_table.py", path, out, *flags),
        out,
        rows=rows,
        allowed=allowed,
        must_tell=must_tell,
    )


def _cut_and_flipped() -> Iterator[tuple]:
    for content in truncated(CSV.encode(), places=10):
        yield f"csv cut at {len(content)}", ".csv", content, _rows(content), nearly, False
    for seed in range(10):
        content = flipped(CSV.encode(), seed=seed, within=slice(len(HEADER) + 1, None))
        yield f"csv flipped {seed}", ".csv", content, None, nearly, False


def _rows(content: bytes) -> int:
    return max(0, num_lines(content) - 1)


def _with(row: int, line: str) -> str:
    return "\n".join([HEADER, *LINES[:row], line, *LINES[row + 1 :]]) + "\n"


def _quotes() -> Iterator[tuple]:
    for row in (0, 2, 5):
        opened = f'{row}.wav,"{TEXTS[row]},{SPEAKERS[row]},,'
        yield f"quote opened in row {row}", ".csv", _with(row, opened), NUM_ROWS, as_written, True
        path = f'"{row}.wav,{TEXTS[row]},{SPEAKERS[row]},,'
        yield (
            f"quote before the path, row {row}",
            ".csv",
            _with(row, path),
            NUM_ROWS,
            as_written,
            True,
        )
    lines = [HEADER, LINES[0], '1.wav,"one,ann,,', LINES[2], '3.wav,"three,ann,,', *LINES[4:]]
    yield "two quotes opened", ".csv", "\n".join(lines), NUM_ROWS, as_written, True
    lines = [HEADER, LINES[0], '1.wav,"one,ann,,', LINES[2], '3.wav,three",ann,,', *LINES[4:]]
    yield (
        "a quote closed two rows below",
        ".csv",
        "\n".join(lines),
        NUM_ROWS,
        lambda index, row: index == 3 or as_written(index, row),
        True,
    )
    said = f'2.wav,"{TEXTS[2]}" he said,cleo,,'
    yield "words after a quote", ".csv", _with(2, said), NUM_ROWS, as_written, True
    yield "one quote in 4,000 rows", ".csv", _many(), 4001, _numbered, True


def _many() -> str:
    rows = [f"{i % NUM_ROWS}.wav,{TEXTS[i % NUM_ROWS]},ann,," for i in range(4000)]
    rows.insert(6, '0.wav,"opened,ann,,')
    return "\n".join([HEADER, *rows])


def _numbered(index: int, row: dict) -> bool:
    return row["text"] == TEXTS[index]


def _encodings() -> Iterator[tuple]:
    accented = CSV.replace("number", "númbër")

    def written(index: int, row: dict) -> bool:
        return row["text"] == TEXTS[index].replace("number", "númbër")

    for encoding in ("latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252"):
        content = accented.encode(encoding)
        yield f"{encoding} taken for UTF-8", ".csv", content, None, written, True
        if encoding != "utf-16-le":
            yield (
                f"{encoding} named",
                ".csv",
                content,
                NUM_ROWS,
                written,
                False,
                "--encoding",
                encoding,
            )
    for encoding in ("nope", "base64", "hex", "ascii"):
        yield (
            f"--encoding {encoding}",
            ".csv",
            accented,
            None,
            written,
            True,
            "--encoding",
            encoding,
        )
    half = accented.encode() + "6.wav,ü".encode()[:-1]
    yield "half a character at the end", ".csv", half, NUM_ROWS + 1, written, True


def _cells() -> Iterator[tuple]:
    for value in ("-2", "nan", "inf", "-inf", "1e999", "0", "1_0", "1,5", "0x10", "two", "9" * 400):
        line = f'2.wav,{TEXTS[2]},cleo,"{value}",'
        yield f"duration {value[:9]}", ".csv", _with(2, line), NUM_ROWS, as_written, True
    for value in ("-1", "nan", "inf", "1e308", "5", "x"):
        line = f"2.wav,{TEXTS[2]},cleo,,{value}"
        yield f"offset {value}", ".csv", _with(2, line), NUM_ROWS, as_written, True
    yield (
        "longer than its file",
        ".csv",
        _with(2, f"2.wav,{TEXTS[2]},cleo,3.0,0"),
        NUM_ROWS,
        as_written,
        True,
    )
    for name, line in (
        ("no path", f",{TEXTS[2]},cleo,,"),
        ("no text", "2.wav,,cleo,,"),
        ("short row", "2.wav"),
        ("too many cells", "2.wav,this, is,cleo,,,"),
        ("zero byte", f"2\0.wav,{TEXTS[2]},cleo,,"),
        ("only commas", ",,,,"),
        ("a folder", f".,{TEXTS[2]},cleo,,"),
        ("absent", f"x.wav,{TEXTS[2]},cleo,,"),
    ):
        yield name, ".csv", _with(2, line), NUM_ROWS, as_written, True


def _headers() -> Iterator[tuple]:
    body = "\n".join(LINES) + "\n"
    for name, content in (
        ("text twice", CSV.replace("speaker", "text", 1)),
        ("no header", body),
        ("empty", ""),
        ("path twice", CSV.replace("offset", "path", 1)),
        ("only a header", HEADER + "\n"),
        ("only blank lines", "\n\n\n"),
        ("only a mark", "\ufeff"),
        ("binary", bytes(range(256)) * 9),
        ("one long line", "x" * 200_000),
        ("semicolons in the header alone", CSV.replace(",", ";", 4)),
    ):
        yield f"header: {name}", ".csv", content, None, as_written, True
    yield "split-by a misspelt field", ".csv", CSV, None, as_written, True, "--split-by", "sesion"
    for flag in ("--dev-share", "--max-dropped", "--channel", "--jobs", "--max-duration"):
        yield f"{flag} nan", ".csv", CSV, None, as_written, True, flag, "nan"
    yield "--channel -1", ".csv", CSV, None, as_written, True, "--channel", "-1"


def _json() -> Iterator[tuple]:
    lines = JSON.splitlines()
    for name, line in (
        ("nested", "[" * 100_000),
        ("digits", '{"path": "2.wav", "text": %s}' % ("9" * 5000)),
        ("half a pair", r'{"path": "2.wav", "text": "\ud800"}'),
        ("words", "hello"),
        ("twice", '{"path": "2.wav", "text": "a", "text": "b"}'),
        ("list", "[1, 2]"),
        ("text a list", '{"path": "2.wav", "text": ["a"]}'),
        ("null", "null"),
        ("text true", '{"path": "2.wav", "text": true}'),
        ("no text", '{"path": "2.wav"}'),
        ("text infinite", '{"path": "2.wav", "text": Infinity}'),
        ("cut", lines[2][:20]),
        ("speaker a dict", '{"path": "2.wav", "text": "a", "speaker": {}}'),
        ("duration true", '{"path": "2.wav", "text": "a", "duration": true}'),
    ):
        content = "\n".join([*lines[:2], line, *lines[3:]])
        yield f"json {name}", ".jsonl", content, NUM_ROWS, as_written, True
    for content in truncated(JSON.encode(), places=5):
        yield f"json cut at {len(content)}", ".jsonl", content, num_lines(content), as_written, True


def _parquet(folder: Path) -> Iterator[tuple]:
    import pyarrow
    import pyarrow.parquet

    def table(**columns) -> bytes:
        given = {key: [record[key] for record in RECORDS] for key in RECORDS[0]} | columns
        pyarrow.parquet.write_table(pyarrow.table(given), folder / "good.parquet")
        return (folder / "good.parquet").read_bytes()

    for content in truncated(table(), places=3):
        yield f"parquet cut at {len(content)}", ".parquet", content, None, as_written, True
    for seed in range(3):
        content = flipped(table(), seed=seed, count=20)
        yield f"parquet flipped {seed}", ".parquet", content, None, nearly, False
    for name, columns in (
        ("lists", {"text": [[text] for text in TEXTS]}),
        ("nulls", {"text": [None, *TEXTS[1:]]}),
        ("bytes", {"text": [text.encode() for text in TEXTS]}),
        ("durations", {"duration": [float("nan"), -1.0, 0.0, 1.0, 1.0, 1.0]}),
    ):
        yield f"parquet {name}", ".parquet", table(**columns), NUM_ROWS, as_written, True
    yield "parquet that is text", ".parquet", CSV, None, as_written, True
