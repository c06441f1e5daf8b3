"""Manifests read by all cores, a stretch of lines in each process: what `stream_manifest` yields,
as blocks of columns, with its messages.

The processes import neither torch nor NeMo. An ordinary line is taken apart here; whatever is not
ordinary goes to `parse_line`, which alone decides what is an error.
"""

from __future__ import annotations

import functools
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from parakeet_ft.data import sources
from parakeet_ft.data.columns import Block, Row, block_of, row_of
from parakeet_ft.data.manifest import (
    KNOWN,
    MOST_SECONDS,
    ManifestError,
    once_each,
    parse_line,
    stream_manifest,
)
from parakeet_ft.data.parallel import chunked, num_cores, open_executor
from parakeet_ft.data.sources import Source

# Bytes of a manifest that one process takes at a time: some 30,000 lines.
STRETCH = 8 << 20
ROWS = 30_000
decode = json.JSONDecoder(object_pairs_hook=once_each).raw_decode


class BadLine(Exception):
    """A line, by its number from 1 in its stretch, that parse_line refuses."""


def blocks_of(found: Sequence[Source], *, in_parallel: bool) -> Iterator[Block]:
    """The rows of sources, in order. Raises ManifestError as `stream_manifest` does."""
    tasks = [task for source in found for task in _tasks(source)]
    if not in_parallel or len(tasks) == 1:
        results: Iterable[list[Block]] = (function(*given) for function, *given in tasks)
        yield from _checked(tasks, results)
        return
    jobs = min(num_cores(), len(tasks))
    with open_executor(jobs=jobs, bare=True) as executor:
        yield from _checked(tasks, in_order(executor(), tasks, window=2 * jobs))


def in_order(pool: Executor, tasks: Iterable[tuple], *, window: int) -> Iterator[Any]:
    """Results of (function, *arguments) in the order of the tasks, at most `window` under way."""
    pending: deque[Future] = deque()
    for function, *given in tasks:
        pending.append(pool.submit(function, *given))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _tasks(source: Source) -> list[tuple]:
    """What processes do for a source: stretches of a local manifest, all of any other."""
    path = source.manifest
    if source.kind != "manifest" or not os.path.isfile(path):
        return [(blocks_of_source, source)]
    return [(blocks_of_stretch, path, start, stop) for start, stop in stretches(path)]


def stretches(path: str, *, size: int = STRETCH) -> list[tuple[int, int]]:
    """First and last + 1 byte of stretches of whole lines."""
    total = os.path.getsize(path)
    cuts = [0]
    with open(path, "rb") as file:
        while cuts[-1] + size < total:
            file.seek(cuts[-1] + size)
            file.readline()
            cuts.append(file.tell())
    return list(zip(cuts, [*cuts[1:], total], strict=True))


def blocks_of_source(source: Source) -> list[Block]:
    """All rows of a source that is no local manifest."""
    rows = map(row_of, sources.stream(source))
    return [block_of(some) for some in chunked(rows, ROWS)]


def blocks_of_stretch(path: str, start: int, stop: int) -> list[Block]:
    """The rows of one stretch of a manifest; none if one of its lines is `bad`."""
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(stop - start)
    folder = str(Path(path).parent)
    try:
        lines = lines_of(data)
        block = block_of(
            rows_of_lines(lines), lambda name: os.path.normpath(os.path.join(folder, name))
        )
    except UnicodeDecodeError:
        block = block_of([])
        block.bad = (1, None)
    except BadLine as error:
        block = block_of([])
        block.bad = error.args
    else:
        block.num_lines = len(lines)
    return [block]


def lines_of(data: bytes) -> list[str]:
    """Lines with their ends, as a file opened as text yields them."""
    text = data.decode()
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [f"{line}\n" for line in text.split("\n")]
    if lines[-1] == "\n":  # after the last end of line comes no line
        lines.pop()
    else:
        lines[-1] = lines[-1][:-1]
    return lines


def rows_of_lines(lines: Iterable[str]) -> Iterator[Row]:
    """The rows of a manifest's lines, paths as written. Raises BadLine."""
    for number, line in enumerate(lines, 1):
        row = _ordinary(line)
        if row is not None:
            yield row
        elif line.strip():
            try:
                yield row_of(parse_line(line, "line"))
            except (ManifestError, RecursionError):
                raise BadLine(number, line) from None


def _ordinary(line: str) -> Row | None:
    """The row of a line whose fields are as they should be, None for any other."""
    if "\\ud" in line or "\\uD" in line:  # may be half of a surrogate pair
        return None
    try:
        record, end = decode(line)
        path, duration, text = record["audio_filepath"], record["duration"], record["text"]
        offset, speaker = record.get("offset", 0.0), record.get("speaker")
        if (
            line[end:] in ("\n", "")
            and type(path) is str
            and type(text) is str
            and (type(duration) is float or type(duration) is int)
            and 1e-9 <= duration <= MOST_SECONDS
            and (type(offset) is float or type(offset) is int)
            and 0.0 <= offset <= MOST_SECONDS
            and (speaker is None or type(speaker) is str)
        ):
            extra = None
            if len(record) > 3 and (more := {k: v for k, v in record.items() if k not in KNOWN}):
                plain = set(map(type, more.values())) == {str}
                extra = _dumped(*more.items()) if plain else json.dumps(more)
            return path, float(duration), text, float(offset), speaker, extra, None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


@functools.lru_cache(maxsize=1024)
def _dumped(*items: tuple[str, str]) -> str:
    """The JSON of fields; many lines have the same ones."""
    return json.dumps(dict(items))


def _checked(tasks: Sequence[tuple], results: Iterable[list[Block]]) -> Iterator[Block]:
    """The blocks, until one has a bad line, which is then told with its number in its file."""
    before: dict[str, int] = {}
    for (_, first, *_), blocks in zip(tasks, results, strict=True):
        for block in blocks:
            if block.bad:
                _refuse(first, before.get(first, 0), *block.bad)
            if isinstance(first, str):
                before[first] = before.get(first, 0) + block.num_lines
            yield block


def _refuse(path: str, before: int, number: int, line: str | None) -> None:
    """Raise what `stream_manifest` raises for a bad line, the first one of its file."""
    if line is None:  # bytes that are no text: only the whole file's reader can say where
        for _ in stream_manifest(path):
            pass
    else:
        parse_line(line, f"{path} line {before + number}")
    raise ManifestError(f"{path} line {before + number} is nested too deeply.")
