"""The domain's terms on the test set, before and after: rates with the interval of their change,
and which terms won or are still missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.report.markdown import plain, table_row
from parakeet_ft.scoring import wer
from parakeet_ft.scoring.terms import TermCounts, count_terms, rates
from parakeet_ft.scoring.words import interval_words, percent

# Rows of each table of terms on the page.
MOST_ROWS = 20


def compare_terms(
    utterances: Sequence[Utterance],
    before: Sequence[str],
    after: Sequence[str],
    *,
    terms: Sequence[str],
) -> dict[str, Any]:
    """`rates` before and after, the change of the keyword error rate as wer.compare_counts has it,
    and a row for each term that was said or heard.
    """
    references = [u.text for u in utterances]
    first, second = (count_terms(references, texts, terms) for texts in (before, after))
    said = first.by_utterance[:, 0]
    values = np.stack([second.missed - first.missed, said], axis=1)
    found: dict[str, Any] = {
        "number": len(first.terms),
        "before": _rates(first),
        "after": _rates(second),
        "comparison": wer.compare_counts(values, speakers=[u.speaker for u in utterances]),
        "rows": _rows(first, second),
    }
    return found | {"verdict": verdict(found)}


def _rates(counts: TermCounts) -> dict[str, Any]:
    """Rates over all terms."""
    return rates(*map(int, counts.by_utterance.sum(axis=0)))


def _rows(before: TermCounts, after: TermCounts) -> list[dict[str, Any]]:
    """Each term with what was missed and falsely heard of it."""
    rows = []
    for term, old, new in zip(
        before.terms, before.by_term.tolist(), after.by_term.tolist(), strict=True
    ):
        if not any((*old, *new)):
            continue
        rows.append(
            {
                "term": term,
                "occurrences": old[0],
                "missed_before": old[0] - old[1],
                "missed_after": new[0] - new[1],
                "false_before": old[2] - old[1],
                "false_after": new[2] - new[1],
            }
        )
    return rows


def verdict(found: dict[str, Any]) -> str:
    """One sentence: how many were missed before and after, and whether that is more than chance."""
    before, after = found["before"], found["after"]
    if not before["occurrences"]:
        return f"None of the {found['number']} terms is said in the domain's test set."
    return (
        f"Terms of the domain: of {before['occurrences']} occurrences "
        f"{percent(before['error_rate'])} were missed before and {percent(after['error_rate'])} "
        f"after ({found['comparison']['verdict']}); {before['false']} were heard where they were "
        f"not said before, {after['false']} after."
    )


def most_gained(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Terms that are missed less often than before, those with most occurrences won first."""
    won = [row for row in rows if row["missed_after"] < row["missed_before"]]
    return sorted(won, key=lambda row: row["missed_after"] - row["missed_before"])[:MOST_ROWS]


def still_missed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Terms that are missed or falsely heard after tuning, those with most errors first."""
    bad = [row for row in rows if row["missed_after"] or row["false_after"]]
    return sorted(bad, key=lambda row: -row["missed_after"] - row["false_after"])[:MOST_ROWS]


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the page's table: measure, before, after, change; whether it is a rate."""
    before, after = found["before"], found["after"]
    rows = []
    for key, label in (
        ("error_rate", "keyword error rate (missed)"),
        ("precision", "precision"),
        ("f_score", "F-score"),
    ):
        change = "-"
        if None not in (before[key], after[key]):
            change = f"{100 * (after[key] - before[key]):+.1f}"
        rows.append(_row(label, _percent(before[key]), _percent(after[key]), change, rate=True))
    for key, label in (("missed", "missed"), ("false", "heard where not said")):
        change = f"{after[key] - before[key]:+,}"
        rows.append(_row(label, f"{before[key]:,}", f"{after[key]:,}", change, rate=False))
    return rows


def _row(measure: str, before: str, after: str, change: str, *, rate: bool) -> dict[str, Any]:
    return {"measure": measure, "before": before, "after": after, "change": change, "rate": rate}


def _percent(rate: float | None) -> str:
    return "-" if rate is None else percent(rate)


def interval(found: dict[str, Any]) -> str:
    """The interval of the change in words."""
    return (
        "Change of the keyword error rate in points, 95 % interval: "
        f"{interval_words(found['comparison'])}."
    )


def markdown(found: dict[str, Any] | None) -> list[str]:
    """Lines of report.md; none without terms."""
    if not found:
        return []
    lines = ["", plain(found["verdict"])]
    if not found["before"]["occurrences"]:
        return lines
    lines += ["", "| terms of the domain | before | after | change |", "|---|---|---|---|"]
    for row in figures(found):
        lines.append(table_row([row[key] for key in ("measure", "before", "after", "change")]))
    lines += ["", interval(found)]
    for title, rows in tables(found):
        if rows:
            lines += ["", f"| {title} | said | missed before | after | false before | after |"]
            lines += ["|---|---|---|---|---|---|"]
            lines += [table_row([plain(row["term"]), *_counts(row)]) for row in rows]
    return lines


def tables(found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The tables of terms, each with its title."""
    return [
        ("most gained", most_gained(found["rows"])),
        ("still wrong", still_missed(found["rows"])),
    ]


def _counts(row: dict[str, Any]) -> list[str]:
    keys = ("occurrences", "missed_before", "missed_after", "false_before", "false_after")
    return [str(row[key]) for key in keys]
