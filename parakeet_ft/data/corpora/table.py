"""Tables: CSV, TSV, JSON lines, Parquet with a column for the path, one for the text and whatever
else.
"""

from __future__ import annotations

import collections
import csv
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from parakeet_ft.data.manifest import Utterance, parse_json
from parakeet_ft.data.seconds import parse_seconds
from parakeet_ft.errors import UserError

# Names under which tables on the web keep these columns; the first that a table has is taken.
PATH_COLUMNS = (
    "path",
    "audio_filepath",
    "audio_path",
    "audio",
    "file",
    "filename",
    "file_name",
    "wav",
    "wav_filename",
)
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence", "normalized_text", "raw_text")
# A JSON table that begins with more lines than this that are no objects is something else.
MOST_BAD_LINES = 20
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk", "spkid")


def read_table(
    path: str | Path,
    *,
    path_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
    audio_root: str | Path | None = None,
    encoding: str = "utf-8",
) -> Iterator[Utterance]:
    """Yield an utterance a row. Audio paths are relative to `audio_root`, by default the table's
    folder.

    Columns `offset`, `duration` (both in seconds, both together) and `language` are understood, all
    others kept as extra fields. Bytes that are not `encoding` come through as surrogates and get
    the reason not_utf8. Raises UserError if a column is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"No table at {path}. Expected CSV, TSV, JSON lines or Parquet with the columns path "
            f"and text, and speaker if it "
            f"is known."
        )
    root = Path(audio_root) if audio_root is not None else path.parent
    columns: tuple[str, str, str | None] | None = None
    for record in _records(path, encoding, path_column):
        if columns is None:
            names = [name for name in record if name is not None]
            columns = _find_columns(names, path, path_column, text_column, speaker_column)
        yield _utterance(record, columns, root)


# Cells by column; those beyond the header are under None.
Record = dict[str | None, Any]
Quoting = Literal[0, 1, 2, 3]  # csv's constants


def _records(path: Path, encoding: str, path_column: str | None) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        yield from _parquet_records(path)
        return
    # utf-8-sig: Excel writes a byte order mark.
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        # newline="": quoted fields may hold line breaks.
        with open(path, encoding=encoding, errors="surrogateescape", newline="") as lines:
            if suffix in (".jsonl", ".json", ".ndjson"):
                yield from _json_records(lines, path)
            else:
                yield from _csv_records(lines, path, path_column)
    except LookupError:
        raise UserError(
            f"--encoding {encoding}: Python knows no such encoding. Expected a name "
            "such as utf-8, utf-16, cp1252 or iso-8859-2."
        ) from None
    except UnicodeError as error:
        raise UserError(
            f"{path} is not {encoding} text ({error}). Name its encoding with --encoding."
        ) from None


def _csv_records(lines: TextIO, path: Path, path_column: str | None) -> Iterator[Record]:
    """A dict a row as csv.DictReader gives them; the key bad_row says what was not readable.

    A quotation mark that nothing closes would swallow the rows below it, so such a line is a bad
    row of its own, and reading goes on with the next line.
    """
    first = lines.readline()
    suffix = path.suffix.lower()
    tabs = suffix in (".tsv", ".tab") or (suffix != ".csv" and "\t" in first)
    delimiter = "\t" if tabs else ";" if first.count(";") > first.count(",") else ","
    # Tab-separated files as a rule do not quote.
    quoting: Quoting = csv.QUOTE_NONE if tabs and first.count('"') < 2 else csv.QUOTE_MINIMAL
    reader = RowReader(itertools.chain([first], lines), delimiter=delimiter, quoting=quoting)
    yield from _dicts(reader, path, path_column)


def _dicts(reader: RowReader, path: Path, path_column: str | None = None) -> Iterator[Record]:
    header: list[str] = []
    for number, row in reader:
        if not header:
            header = _header(row, path)
            wanted = [path_column] if path_column else PATH_COLUMNS
            reader.path_at = next((at for at, name in enumerate(header) if name in wanted), None)
        elif isinstance(row, str):
            yield _bad_row(header, f"line {number}: {row}")
        elif len(row) < len(header) and row and not reader.taken[-1].endswith(("\n", "\r")):
            ends = f"the table ends within this row, after {row[-1][:60]!r}"
            yield _bad_row(header, f"line {number}: {ends}")
        elif row:
            record: Record = dict(zip(header, row, strict=False))
            record |= dict.fromkeys(header[len(row) :])
            yield record | ({None: row[len(header) :]} if len(row) > len(header) else {})


def read_quoteless(path: Path) -> Iterator[dict[str | None, Any]]:
    """The rows of a tab-separated file without quoting, as dicts; see _csv_records."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as lines:
        yield from _dicts(RowReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), path)


def _header(row: list[str] | str, path: Path) -> list[str]:
    if isinstance(row, str):
        raise UserError(f"{path} line 1, the names of the columns: {row}.")
    if twice := sorted({name for name in row if name and row.count(name) > 1}):
        raise _twice(twice[0], path)
    return row


def _twice(column: str, path: Path) -> UserError:
    return UserError(f"{path} has the column {column!r} twice: which one is meant? Rename one.")


def _bad_row(header: list[str], why: str) -> Record:
    record: Record = dict.fromkeys(header)
    record["bad_row"] = why
    return record


class RowReader:
    """Yields (number of the first line, cells or what is wrong with them) of delimited text.

    A row that is not quoted as it should be costs its first line alone. `path_at` is the column of
    the audio's path: a quoted cell that goes on over a line with such a path, of the same suffix,
    in that column was not meant to.
    """

    def __init__(self, lines: Iterable[str], *, delimiter: str, quoting: Quoting) -> None:
        self.lines = iter(lines)
        self.again: collections.deque[str] = collections.deque()
        self.taken: list[str] = []
        self.delimiter, self.quoting = delimiter, quoting
        self.path_at: int | None = None

    def __iter__(self) -> Iterator[tuple[int, list[str] | str]]:
        number = 1
        while True:
            self.taken.clear()
            try:
                row: list[str] | str = next(self._rows())
            except StopIteration:
                return
            except csv.Error as error:
                row = f"{self.taken[0].strip()[:60]!r} is not quoted as a row should be ({error})"
            if isinstance(row, list) and len(self.taken) > 1 and self._swallowed(row):
                shown = self.taken[0].strip()[:60]
                row = f"a quotation mark in {shown!r} takes in the rows below it"
            if isinstance(row, str):
                self.again.extendleft(reversed(self.taken[1:]))
                del self.taken[1:]
            yield number, row
            number += len(self.taken)

    def _rows(self) -> Iterator[list[str]]:
        return csv.reader(self._feed(), delimiter=self.delimiter, quoting=self.quoting, strict=True)

    def _feed(self) -> Iterator[str]:
        while True:
            line = self.again.popleft() if self.again else next(self.lines, None)
            if line is None:
                return
            self.taken.append(line)
            yield line

    def _swallowed(self, row: list[str]) -> bool:
        at = self.path_at
        if at is None or at >= len(row):
            return False
        suffix = os.path.splitext(row[at])[1].lower()
        for line in self.taken[1:]:
            cells = line.split(self.delimiter)
            path = cells[at].strip(' "\r\n') if len(cells) > at else ""
            if suffix and os.path.splitext(path)[1].lower() == suffix:
                return True
        return False


def _json_records(lines: TextIO, path: Path) -> Iterator[Record]:
    columns: list[str] = []
    waiting: list[str] = []  # what is wrong with lines before the first that shows the columns
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            wrong = "is not a JSON object"
        except ValueError as error:
            record, wrong = None, str(error)
        if isinstance(record, dict):
            columns = columns or list(record)
        else:
            waiting.append(f"line {number} {wrong}: {line[:60]!r}")
        if columns:
            yield from (_bad_row(columns, message) for message in waiting)
            waiting.clear()
        if isinstance(record, dict):
            yield record
        if len(waiting) > MOST_BAD_LINES:
            break
    if waiting:
        raise UserError(f"{path} {waiting[0]}. Expected one object a line, as in a NeMo manifest.")


def _parquet_records(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise _twice(twice[0], path)
            for batch in table.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from None


def _find_columns(
    names: list[str],
    path: Path,
    path_column: str | None,
    text_column: str | None,
    speaker_column: str | None,
) -> tuple[str, str, str | None]:
    def find(what: str, wanted: str | None, known: Sequence[str]) -> str | None:
        if wanted is not None and wanted not in names:
            raise UserError(
                f"{path} has no column {wanted!r}; it has {', '.join(map(repr, names))}."
            )
        column = wanted or next((name for name in known if name in names), None)
        if column is None and what != "speaker":
            raise UserError(
                f"{path} has no column for the {what}; it has {', '.join(map(repr, names))}. Name "
                f"it with --{what}-column."
            )
        return column

    path_found = find("path", path_column, PATH_COLUMNS)
    text_found = find("text", text_column, TEXT_COLUMNS)
    assert path_found and text_found
    return path_found, text_found, find("speaker", speaker_column, SPEAKER_COLUMNS)


def _utterance(record: Record, columns: tuple[str, str, str | None], root: Path) -> Utterance:
    path_column, text_column, speaker_column = columns
    # Cells beyond the header are under the key None; None are those that a short row lacks.
    overflow = record.pop(None, None)
    extra = {
        k: _storable(v)
        for k, v in record.items()
        if k is not None
        and k not in (*columns, "offset", "duration", "language")
        and not _is_absent(v)
    }
    if not _is_absent(language := record.get("language")):
        extra["lang"] = language if isinstance(language, str) else str(language)
    path, text, speaker = (record.get(column) if column else None for column in columns)
    wrong = [
        f"{column} is {record[column]!r:.60}, expected text"
        for column in columns
        if column and not _is_plain(record.get(column))
    ]
    numbers = {}
    for name in ("offset", "duration"):
        try:
            numbers[name] = parse_seconds(record.get(name), name)
        except ValueError as error:
            numbers[name] = 0.0
            wrong.append(str(error))
    path, text = ("" if _is_absent(value) else str(value) for value in (path, text))
    if overflow is not None:
        wrong.append(
            f"{len(overflow)} cells more than the header has; quote texts that hold the delimiter"
        )
    elif not path:
        wrong.append("no path")
    elif record.get(text_column) is None:
        wrong.append("no text")
    if wrong:
        extra.setdefault("bad_row", wrong[0])
    return Utterance(
        audio_filepath=os.path.normpath(root / path),
        text=text,
        duration=numbers["duration"],
        offset=numbers["offset"],
        speaker=None if _is_absent(speaker) else str(speaker),
        extra=extra,
    )


def _is_absent(value: Any) -> bool:
    """No cell, an empty one, or NaN, which stands for it where a table was made by pandas."""
    return value is None or value == "" or value != value


def _is_plain(value: Any) -> bool:
    """Whether a cell is text or a number that stands for itself: no list, truth value, infinity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        return False
    return not isinstance(value, float) or abs(value) != math.inf


def _storable(value: Any) -> Any:
    """A further field as JSON can hold it."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | dict):
        return json.loads(json.dumps(value, default=str))
    return str(value)
