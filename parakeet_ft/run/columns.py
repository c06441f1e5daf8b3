"""Lines and tables that fit a terminal of 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from parakeet_ft.scoring.forgotten import guard_wers, worst_guard
from parakeet_ft.scoring.words import percent, shortened

# Of a terminal that nobody made wider.
COLUMNS = 80


def fitted(parts: Sequence[str]) -> list[str]:
    """Parts of a line, two spaces between them, on as many lines as they need; the further ones
    are indented.
    """
    lines = [parts[0]]
    for part in parts[1:]:
        # Two columns more are the indentation of `Narrator.lines`.
        if 2 + len(lines[-1]) + 2 + len(part) <= COLUMNS:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"  {part}")
    return lines


def wrapped(line: str) -> list[str]:
    """A fact behind its name on lines that `Narrator.lines` indents to COLUMNS."""
    return textwrap.wrap(
        line,
        COLUMNS - 2,
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def candidate_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A head, and a line a candidate; a long description is cut, which the report has whole."""
    table = [_candidate_cells(row) for row in rows]
    names = [name for name, _ in table[0]]
    widths = [max(len(dict(row)[name]) for row in table) for name in names]
    widths = [max(len(name), width) for name, width in zip(names, widths, strict=True)]
    room = COLUMNS - 2 - len("-> ") - sum(2 + width for width in widths)
    said = [shortened(_way(row["description"]), room) for row in rows]
    longest = max(map(len, said))

    def line(mark: str, what: str, cells: Sequence[str]) -> str:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([f"{mark} {what:<{longest}}", *aligned])

    lines = [line("  ", "", names)]
    for number, (what, row) in enumerate(zip(said, table, strict=True)):
        lines.append(line("  " if number else "->", what, [cell for _, cell in row]))
    return lines


def _candidate_cells(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and figures of a candidate, which all have the same names."""
    cells = [("domain", percent(row["val_wer"]))]
    if worst := worst_guard(row):
        rates = guard_wers(row)
        several = len(rates) > 1
        name = "worst guard" if several else "guard"
        cells.append((name, f"{shortened(worst)} " * several + percent(rates[worst])))
    if "val_ker" in row:
        cells.append(("terms missed", percent(row["val_ker"])))
    refused = row["judgement"]["refused"]
    return [*cells, ("score", "refused" if refused else f"{row['selection_score']:.3f}")]


def _way(description: str) -> str:
    """A description without what a table has no room for."""
    return re.sub(r" from the checkpoint to the last step \((\d+)\)", r" to step \1", description)
