"""Tables: CSV, TSV, JSON lines, Parquet with a column for the path, one for the text and whatever else."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError

# Names under which tables on the web keep these columns; the first that a table has is taken.
PATH_COLUMNS = ("path", "audio_filepath", "audio_path", "audio", "file", "filename", "file_name", "wav", "wav_filename")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence", "normalized_text", "raw_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk", "spkid")


def read_table(path: str | Path, *, path_column: str | None = None, text_column: str | None = None, speaker_column: str | None = None,
               audio_root: str | Path | None = None, encoding: str = "utf-8") -> Iterator[Utterance]:
    """Yield an utterance a row. Audio paths are relative to `audio_root`, by default the table's folder.

    Columns `offset`, `duration` (both in seconds, both together) and `language` are understood, all others kept as extra fields. Bytes
    that are not `encoding` come through as surrogates and get the reason not_utf8. Raises UserError if a column is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No table at {path}. Expected CSV, TSV, JSON lines or Parquet with the columns path and text, and speaker if it "
                        f"is known.")
    root = Path(audio_root) if audio_root is not None else path.parent
    columns: tuple[str, str, str | None] | None = None
    for record in _records(path, encoding):
        if columns is None:
            columns = _find_columns(list(record), path, path_column, text_column, speaker_column)
        yield _utterance(record, columns, root)


def _records(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        yield from _json_records(path, encoding)
    elif suffix in (".parquet", ".pq"):
        yield from _parquet_records(path)
    else:
        # newline="": quoted fields may hold line breaks. utf-8-sig: Excel writes a byte order mark.
        with open(path, encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, errors="surrogateescape",
                  newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            tabs = suffix in (".tsv", ".tab") or (suffix != ".csv" and "\t" in first)
            delimiter = "\t" if tabs else ";" if first.count(";") > first.count(",") else ","
            # Tab-separated files as a rule do not quote: a lone quotation mark in a text must not swallow the lines below it.
            yield from csv.DictReader(lines, delimiter=delimiter, strict=False,
                                      quoting=csv.QUOTE_NONE if tabs and first.count('"') < 2 else csv.QUOTE_MINIMAL)


def _json_records(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    columns: list[str] = []
    with open(path, encoding=encoding, errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                record = error.msg
            if not isinstance(record, dict):
                if not columns:
                    raise UserError(f"{path} line {number} is not a JSON object: {line[:80]!r}. Expected one object a line, as in a NeMo "
                                    f"manifest.")
                record = dict.fromkeys(columns) | {"bad_row": f"line {number} is not a JSON object: {line[:60]!r}"}
            columns = columns or list(record)
            yield record


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from None


def _find_columns(names: list[str], path: Path, path_column: str | None, text_column: str | None,
                  speaker_column: str | None) -> tuple[str, str, str | None]:
    found: list[str | None] = []
    for what, wanted, known in (("path", path_column, PATH_COLUMNS), ("text", text_column, TEXT_COLUMNS),
                                ("speaker", speaker_column, SPEAKER_COLUMNS)):
        if wanted is not None and wanted not in names:
            raise UserError(f"{path} has no column {wanted!r}; it has {', '.join(map(repr, names))}.")
        column = wanted or next((name for name in known if name in names), None)
        if column is None and what != "speaker":
            raise UserError(f"{path} has no column for the {what}; it has {', '.join(map(repr, names))}. Name it with --{what}-column.")
        found.append(column)
    return found[0], found[1], found[2]


def _utterance(record: dict[str, Any], columns: tuple[str, str, str | None], root: Path) -> Utterance:
    path_column, text_column, speaker_column = columns
    # csv gives cells beyond the header under the key None, and None for cells that a short row lacks.
    overflow = record.pop(None, None)
    extra = {k: v if isinstance(v, str | int | float | list | dict) else str(v) for k, v in record.items()
             if k not in (*columns, "offset", "duration", "language") and v is not None and v != ""}
    if language := record.get("language"):
        extra["lang"] = language
    path, text = record.get(path_column), record.get(text_column)
    numbers = {}
    for name in ("offset", "duration"):
        try:
            numbers[name] = max(0.0, float(record.get(name) or 0.0))
        except (TypeError, ValueError):
            numbers[name] = 0.0
            extra["bad_row"] = f"{name} is {record.get(name)!r}, expected seconds"
    if overflow is not None:
        extra["bad_row"] = f"{len(overflow)} cells more than the header has; quote texts that hold the delimiter"
    elif not path:
        extra.setdefault("bad_row", "no path")
    elif text is None:
        extra.setdefault("bad_row", "no text")
    speaker = record.get(speaker_column) if speaker_column else None
    return Utterance(audio_filepath=os.path.normpath(root / str(path or "")), text="" if text is None else str(text),
                     duration=numbers["duration"],
                     offset=numbers["offset"], speaker=str(speaker) if speaker not in (None, "") else None, extra=extra)
