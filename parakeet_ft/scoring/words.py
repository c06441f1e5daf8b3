"""Scores in words: rates, intervals, what changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parakeet_ft.scoring import forgotten
from parakeet_ft.settings.guards import title_of

VERDICTS = {
    "better": "better",
    "worse": "worse",
    "not distinguishable": "not distinguishable from before",
}


def percent(rate: float) -> str:
    """A rate in percent."""
    return f"{100 * rate:.1f} %"


def interval_words(comparison: dict[str, Any]) -> str:
    """The 95 % interval of a difference in points and what it means, also where it is of one
    speaker only.
    """
    words = VERDICTS[comparison["verdict"]]
    if comparison.get("speakers") == 1:
        words += " (for this one speaker; it says nothing of others)"
    if comparison.get("low") is None:
        return words
    return f"{100 * comparison['low']:+.1f} to {100 * comparison['high']:+.1f}: {words}"


def summary_line(report: dict[str, Any]) -> str:
    """The last line on the terminal, each change with its 95 % interval in points; of several
    guards the worst.
    """
    names = {"domain": "domain WER"}
    if worst := forgotten.worst(report):
        count = len(forgotten.tolerances(report))
        names[worst] = title_of(worst) + (f" (worst of {count})" if count > 1 else "")
    parts = [f"{words} {_change(report, name)}" for name, words in names.items()]
    if (terms := report.get("terms")) and terms["before"]["occurrences"]:
        before, after = (100 * terms[when]["error_rate"] for when in ("before", "after"))
        parts.append(f"terms missed {before:.1f} -> {after:.1f} %")
    return " | ".join(parts)


def _change(report: dict[str, Any], name: str) -> str:
    before, after = (100 * report[when][name]["wer"] for when in ("baseline", "tuned"))
    words = f"{before:.1f} -> {after:.1f} %"
    found = report["comparison"].get(name) or {}
    if found.get("low") is None:
        return words
    return f"{words} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def shortened(name: str | None, most: int = 12) -> str:
    """A name of somebody's choice, where there is little room."""
    name = name or ""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def most_changed(rows: Sequence[dict[str, Any]], *, most: int) -> list[dict[str, Any]]:
    """Of utterance_rows, those that won or lost most word errors, most first; none that stayed the
    same to the letter.
    """
    changed = [row for row in rows if row["before"] != row["after"]]
    return sorted(changed, key=lambda row: -abs(row["errors_after"] - row["errors_before"]))[:most]
