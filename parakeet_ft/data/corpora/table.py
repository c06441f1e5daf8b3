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
from parakeet_ft.files import refuse_pipe

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
    refuse_pipe(path)
    if not path.is_file():
        raise UserError(
            f"No table at {path}. Expected CSV, TSV, JSON lines or Parquet with the columns path "
            "and text, and speaker if it is known."
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
    """The rows of a table by column, read as its suffix says."""
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
    delimiter = _delimiter(first, path.suffix.lower())
    quoting: Quoting = csv.QUOTE_MINIMAL
    # Tab-separated files as a rule do not quote.
    if delimiter == "\t" and first.count('"') < 2:
        quoting = csv.QUOTE_NONE
    reader = RowReader(itertools.chain([first], lines), delimiter=delimiter, quoting=quoting)
    yield from _dicts(reader, path, path_column)


def _delimiter(first: str, suffix: str) -> str:
    """What parts the cells, by the file's suffix and the first line."""
    if suffix in (".tsv", ".tab") or (suffix != ".csv" and "\t" in first):
        return "\t"
    return ";" if first.count(";") > first.count(",") else ","


def _dicts(reader: RowReader, path: Path, path_column: str | None = None) -> Iterator[Record]:
    """Rows below the header as dicts, with a key bad_row where one is not as it should be."""
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
            yield _record(header, row)


def _record(header: list[str], row: list[str]) -> Record:
    """A row by column: None for cells that it lacks, those beyond the header under None."""
    record: Record = dict(zip(header, row, strict=False))
    record |= dict.fromkeys(header[len(row) :])
    if len(row) > len(header):
        record[None] = row[len(header) :]
    return record


def read_quoteless(path: Path) -> Iterator[Record]:
    """The rows of a tab-separated file without quoting, as dicts; see _csv_records."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        yield from _dicts(RowReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), path)


def _header(row: list[str] | str, path: Path) -> list[str]:
    """The names of the columns. Raises UserError for a name that is there twice."""
    if isinstance(row, str):
        raise UserError(f"{path} line 1, the names of the columns: {row}.")
    if twice := sorted({name for name in row if name and row.count(name) > 1}):
        raise _twice(twice[0], path)
    return row


def _twice(column: str, path: Path) -> UserError:
    """The error to raise for a column that is there twice."""
    return UserError(f"{path} has the column {column!r} twice: which one is meant? Rename one.")


def _bad_row(header: Sequence[str | None], why: str) -> Record:
    """A row of nothing but the reason why it is none."""
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
        self.delimiter = delimiter
        self.quoting = quoting
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
        """The rows from the next line on."""
        return csv.reader(self._feed(), delimiter=self.delimiter, quoting=self.quoting, strict=True)

    def _feed(self) -> Iterator[str]:
        """The next lines, those first that are to be read again."""
        while True:
            line = self.again.popleft() if self.again else next(self.lines, None)
            if line is None:
                return
            self.taken.append(line)
            yield line

    def _swallowed(self, row: list[str]) -> bool:
        """Whether one of a row's further lines has such a path as the row."""
        suffix = self._suffix_in(row)
        if not suffix:
            return False
        for line in self.taken[1:]:
            cells = [cell.strip(' "\r\n') for cell in line.split(self.delimiter)]
            if self._suffix_in(cells) == suffix:
                return True
        return False

    def _suffix_in(self, cells: list[str]) -> str:
        """The suffix of the path among the cells; "" if there is none."""
        if self.path_at is None or self.path_at >= len(cells):
            return ""
        return os.path.splitext(cells[self.path_at])[1].lower()


def _json_records(lines: TextIO, path: Path) -> Iterator[Record]:
    """An object a line; other lines are bad rows. Raises UserError if none of the first is one."""
    columns: list[str | None] = []
    waiting: list[str] = []  # what is wrong with lines before the first that shows the columns
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record, wrong = _json_object(line)
        if record is not None:
            columns = columns or list(record)
        else:
            waiting.append(f"line {number} {wrong}: {line[:60]!r}")
        if columns:
            yield from (_bad_row(columns, message) for message in waiting)
            waiting.clear()
        if record is not None:
            yield record
        if len(waiting) > MOST_BAD_LINES:
            break
    if waiting:
        raise UserError(f"{path} {waiting[0]}. Expected one object a line, as in a NeMo manifest.")


def _json_object(line: str) -> tuple[Record | None, str]:
    """The object on a line; None, and what is wrong, if there is none."""
    try:
        record = parse_json(line)
    except ValueError as error:
        return None, str(error)
    if isinstance(record, dict):
        return record, ""
    return None, "is not a JSON object"


def _parquet_records(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file, some thousands in memory at a time."""
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
    """The columns of path, text and speaker, as named or the first of a known name."""

    def find(what: str, wanted: str | None, known: Sequence[str]) -> str | None:
        """The column for `what`, None for a speaker that there is not."""
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
    """A row as an utterance, with a reason if it cannot be one."""
    path_column, text_column, speaker_column = columns
    # Cells beyond the header are under the key None; None are those that a short row lacks.
    overflow = record.pop(None, None)
    extra = _further_fields(record, used={*columns, "offset", "duration", "language"})
    wrong = [
        f"{column} is {record[column]!r:.60}, expected text"
        for column in columns
        if column and not _is_plain(record.get(column))
    ]
    offset = _seconds(record, "offset", wrong)
    duration = _seconds(record, "duration", wrong)
    path = _text(record.get(path_column))
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
        text=_text(record.get(text_column)),
        duration=duration,
        offset=offset,
        speaker=_text(record.get(speaker_column)) or None,
        extra=extra,
    )


def _further_fields(record: Record, *, used: set[str | None]) -> dict[str, Any]:
    """The cells that are not used otherwise, and the language as NeMo names it."""
    extra = {
        key: _storable(value)
        for key, value in record.items()
        if not (key is None or key in used or _is_absent(value))
    }
    if language := _text(record.get("language")):
        extra["lang"] = language
    return extra


def _seconds(record: Record, column: str, wrong: list[str]) -> float:
    """The seconds in a cell; 0, and a word on what is wrong, if they cannot be read."""
    try:
        return parse_seconds(record.get(column), column)
    except ValueError as error:
        wrong.append(str(error))
        return 0.0


def _text(value: Any) -> str:
    """A cell as text, "" if there is none."""
    return "" if _is_absent(value) else str(value)


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
