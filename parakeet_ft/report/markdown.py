"""Text of others, such as transcripts and names, to Markdown that shows it as it is: hubs render it
as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# What begins a mark in GitHub's Markdown; an underscore inside a word does not.
MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
# What would begin a heading, a list or a quotation if it stood first.
FIRST = re.compile(r"^([#=]|[+-](?!\.?\d)|\d+(?=[.)](?!\S)))")


def plain(text: object) -> str:
    """One line that is shown as it is."""
    shown = MARKS.sub(lambda found: f"\\{found[0]}", " ".join(str(text).split()))
    # A backslash escapes no digit: it stands before the full stop.
    shown = FIRST.sub(lambda f: f"{f[1]}\\" if f[1].isdigit() else f"\\{f[1]}", shown)
    return re.sub(r"(?i)\b(https?|ftp|mailto):", r"\1&#58;", shown.translate(HTML))


def code(text: object) -> str:
    """One line as code, whatever backticks it holds."""
    line = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}"


def table_row(cells: Sequence[str]) -> str:
    """A row of a table, from cells that are Markdown already."""
    return f"| {' | '.join(cells)} |"
