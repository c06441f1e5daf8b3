"""What a reader sees first: the verdict in a few words, and three figures: the domain, the guard,
the size of what changed. Pure.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from parakeet_ft.scoring import forgotten
from parakeet_ft.scoring.words import VERDICTS, interval_words, percent
from parakeet_ft.settings.guards import title_of

DOMAIN = {
    "better": "Better on the domain",
    "worse": "Worse on the domain",
    "not distinguishable": "No change on the domain that could not be chance",
}
LESS_FORGETTING = "Give more general speech (data.replay.ratio) or a lower optim.lr."


@dataclasses.dataclass(frozen=True)
class Figure:
    """One of the three: a title, the figure itself, and what it means, a line each."""

    kind: str  # domain, guard or size
    title: str
    value: str
    meaning: tuple[str, ...]
    alarm: bool = False  # something is to be done, and `meaning` says what


def headline(report: dict[str, Any]) -> str:
    """The verdict without its figures."""
    return f"{DOMAIN[report['comparison']['domain']['verdict']]}; {_guards(report)}."


def _guards(report: dict[str, Any]) -> str:
    """What became of the guards, in a few words."""
    tolerances = forgotten.tolerances(report)
    if not tolerances:
        return "what was forgotten is not known"
    if exceeded := forgotten.exceeded(report):
        return f"{' and '.join(map(title_of, exceeded))} lost more than is tolerated"
    if len(tolerances) > 1:
        return f"all {len(tolerances)} guards kept within their tolerances"
    ((name, tolerance),) = tolerances.items()
    if tolerance is None:
        return f"{title_of(name)} {VERDICTS[report['comparison'][name]['verdict']]}"
    return f"{title_of(name)} kept within its tolerance"


def figures(report: dict[str, Any]) -> list[Figure]:
    """Domain, guard (of several the worst) and size, as far as they are known."""
    domain = Figure("domain", "Domain WER", _movement(report, "domain"), _change(report, "domain"))
    found = [domain, _guard(report)]
    if changed := size_of_change(report):
        found.append(Figure("size", "Weights that learned", changed[0], changed[1:]))
    return found


def _guard(report: dict[str, Any]) -> Figure:
    """The guard that used most of its tolerance."""
    worst = forgotten.worst(report)
    if worst is None:
        cure = "Give data.guard_validation, some general speech, to know what was forgotten."
        return Figure("guard", "Guard WER", "not measured", (cure,))
    tolerances = forgotten.tolerances(report)
    count = len(tolerances)
    title = title_of(worst)
    title = f"{title[0].upper()}{title[1:]} WER{f' (worst of {count})' if count > 1 else ''}"
    meaning = _change(report, worst)
    if tolerances[worst] is not None:
        kept = forgotten.outcome(report, worst)
        meaning += (f"{kept}; tolerated: {forgotten.tolerance_words(tolerances[worst])} points",)
    alarm = worst in forgotten.exceeded(report)
    if alarm:
        meaning += (LESS_FORGETTING,)
    return Figure("guard", title, _movement(report, worst), meaning, alarm=alarm)


def _movement(report: dict[str, Any], name: str) -> str:
    before, after = (percent(report[when][name]["wer"]) for when in ("baseline", "tuned"))
    return f"{before} → {after}"


def _change(report: dict[str, Any], name: str) -> tuple[str, ...]:
    """The change of a set's WER, and its interval with what it means."""
    found = report["comparison"][name]
    points = f"{100 * forgotten.change(report, name):+.1f} points"
    if found.get("low") is None:
        return points, interval_words(found)
    return points, f"95 % interval {interval_words(found)}"


def size_of_change(report: dict[str, Any]) -> tuple[str, ...]:
    """How many weights learned, and lines on how far; () where the run did not record it."""
    effective = report.get("effective") or {}
    weights = effective.get("adaptation") or {}
    if not {"learning", "frozen"} <= weights.keys():
        return ()
    total = weights["learning"] + weights["frozen"]
    lines = [f"{_millions(weights['learning'])} of {_millions(total)} M"]
    if learned := effective.get("learned"):
        lines.append(f"{learned['moved_share_of_weights']:.1%} of them moved")
    chosen = report["candidates"][0] if report.get("candidates") else {}
    if (alpha := chosen.get("alpha", 1.0)) != 1.0:
        lines.append(f"{report['model']} holds {alpha:g} of the way that they went")
    if added := (effective.get("vocabulary") or {}).get("new"):
        lines.append(f"{len(added)} pieces are new")
    return tuple(lines)


def _millions(weights: int) -> str:
    """Millions, small numbers with more digits."""
    millions = weights / 1e6
    return f"{millions:.1f}" if millions >= 1 else f"{millions:.3g}"
