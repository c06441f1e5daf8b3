"""What guards lost, from what runs record: validations, candidates and report.json, those of
earlier versions included. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parakeet_ft.settings.guards import SHORT

EXCEEDED = "MORE THAN TOLERATED"


def rates_of(wers: Mapping[str, float]) -> dict[str, Any]:
    """The WER of each guard, as a validation records it; that of the only one also by itself."""
    found: dict[str, Any] = {"guard_wers": dict(wers)} if wers else {}
    return found | ({"guard_wer": next(iter(wers.values()))} if len(wers) == 1 else {})


def guard_wers(row: Mapping[str, Any]) -> dict[str, float]:
    """The WER of each guard in a validation or candidate."""
    if "guard_wers" in row:
        return row["guard_wers"]
    return {SHORT: row["guard_wer"]} if "guard_wer" in row else {}


def worst_guard(row: Mapping[str, Any]) -> str | None:
    """The guard that decided on a validation or candidate; None where there is no guard."""
    only = next(iter(guard_wers(row)), None)
    return (row.get("judgement") or {}).get("worst_guard") or only


def tolerances(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The absolute WER that each guard of a report might lose; None: as much as it would."""
    known = report.get("guard_tolerances", {})
    guards = (role for role in report["baseline"] if role != "domain")
    return {name: known.get(name, report.get("guard_tolerance")) for name in guards}


def change(report: Mapping[str, Any], name: str) -> float:
    """How the WER of a set of a report changed."""
    return report["tuned"][name]["wer"] - report["baseline"][name]["wer"]


def exceeded(report: Mapping[str, Any]) -> list[str]:
    """The guards that lost more than is tolerated."""
    return [
        name
        for name, tolerance in tolerances(report).items()
        if tolerance is not None and change(report, name) > tolerance
    ]


def worst(report: Mapping[str, Any]) -> str | None:
    """The guard that used most of its tolerance; None where there is no guard."""
    known = tolerances(report)

    def used(name: str) -> tuple[float, float]:
        tolerance, lost = known[name], change(report, name)
        return (0.0 if tolerance is None else lost / max(tolerance, 1e-9)), lost

    return max(known, key=used, default=None)


def tolerance_words(tolerance: float | None) -> str:
    """A tolerance in points."""
    return "-" if tolerance is None else f"{100 * tolerance:.1f}"


def outcome(report: Mapping[str, Any], name: str) -> str:
    """Whether a guard of a report kept within its tolerance, in words."""
    if tolerances(report)[name] is None:
        return "-"
    return EXCEEDED if name in exceeded(report) else "kept"
