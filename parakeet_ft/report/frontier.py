"""The picture of the choice: what each candidate gained on the domain against what the guard lost,
each with its 95 % interval.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from parakeet_ft.scoring import forgotten
from parakeet_ft.settings.guards import SHORT

# Of the picture outside report.html, whose style has the same colours.
STYLE = """
svg { font: 12px system-ui, sans-serif; fill: #5d6670; background: #fdfdfc; }
.grid { stroke: #e2e4e7; } line.guard { stroke: #b4540a; stroke-dasharray: 6 4; }
text.guard { fill: #b4540a; } .candidate line { stroke: #5d6670; opacity: .35; }
.kept circle { fill: #0a6b5c; } .refused circle { fill: #fdfdfc; stroke: #b4540a; }
.chosen path { fill: #0a6b5c; stroke: #1d2126; } .chosen line { stroke: #1d2126; opacity: .7; }
"""


def standalone(picture: str) -> str:
    """A frontier as a file of its own, which needs no page."""
    return picture.replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="810" height="480" ', 1
    ).replace(">", f"><style>{STYLE}</style>", 1)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where a loss (absolute WER) and a gain (share of the errors removed) stand."""

    losses: tuple[float, float]
    gains: tuple[float, float]

    width = 540
    height = 320
    left = 56
    top = 14
    right = width - 16
    floor = height - 46

    def x(self, loss: float) -> float:
        """Where a rise of the guard's WER lies; beyond the axis, at its end."""
        low, high = self.losses
        share = (min(max(loss, low), high) - low) / (high - low)
        return self.left + (self.right - self.left) * share

    def y(self, gain: float) -> float:
        """Where a share of removed errors lies; beyond the axis, at its end."""
        low, high = self.gains
        share = (min(max(gain, low), high) - low) / (high - low)
        return self.floor - (self.floor - self.top) * share


def frontier(
    candidates: Sequence[dict[str, Any]], *, tolerances: Mapping[str, float | None]
) -> str:
    """Inline SVG of the candidates, the chosen first; "" where no guard was judged.

    Right is forgotten of the guard that is the worst for a candidate, up is gained. A line stands
    at each tolerance that decided; refused candidates are hollow, the chosen one is a diamond.
    """
    judged = [_flat(row) for row in candidates if _flat(row).get("loss") is not None]
    if not judged:
        return ""
    lines = _deciding(judged, tolerances)
    frame = Frame(losses=_losses(judged, max(lines, default=None)), gains=_gains(judged))
    parts = [
        f'<svg class="curve frontier" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="Domain gain against guard loss of all candidates">'
    ]
    parts += _grid(frame, "the worst guard's" if len(tolerances) > 1 else "guard")
    for number, (tolerance, names) in enumerate(sorted(lines.items())):
        whose = f" of {', '.join(names)}" if len(tolerances) > 1 else ""
        parts += _tolerance(frame, tolerance, f"tolerated{whose}", number)
    for row in reversed(judged):  # the chosen on top
        parts += _point(frame, row, chosen=row is judged[0], several=len(tolerances) > 1)
    return "".join(parts) + "</svg>"


def _deciding(
    rows: Sequence[dict[str, Any]], tolerances: Mapping[str, float | None]
) -> dict[float, list[str]]:
    """The tolerances of guards that are the worst for a candidate, with the guards' names."""
    found: dict[float, list[str]] = {}
    for name in dict.fromkeys(forgotten.worst_guard(row) or SHORT for row in rows):
        tolerance = tolerances.get(name)
        if tolerance is not None:
            found.setdefault(tolerance, []).append(name)
    return found


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A candidate with what is known of it (selection.Judgement)."""
    return row | (row.get("judgement") or {})


def _losses(rows: Sequence[dict[str, Any]], tolerance: float | None) -> tuple[float, float]:
    """From the least to the greatest loss with intervals, the tolerance inside; what lost far more
    stands at the edge.
    """
    far = max(0.1, 4 * (tolerance or 0.0))
    lowest = max(-far, min(0.0, *(row["loss_low"] for row in rows)))
    highest = min(far, max(0.005, tolerance or 0.0, *(row["loss_high"] for row in rows)))
    margin = 0.05 * (highest - lowest)
    return lowest - margin, highest + margin


def _gains(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """From the least to the greatest gain with intervals, at least 0.05 apart, and a margin; what
    lost more than there was stands at the edge.
    """
    lowest = max(-1.0, min(row["gain_low"] for row in rows))
    highest = max(lowest + 0.05, max(row["gain_high"] for row in rows))
    margin = 0.05 * (highest - lowest)
    return lowest - margin, highest + margin


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from low to high."""
    size = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= 6.5)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * k, 12) for k in range(first, last + 1)]


def _grid(frame: Frame, whose: str) -> list[str]:
    parts = []
    for gain in ticks(*frame.gains):
        y = frame.y(gain)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{frame.left - 7}" y="{y + 4:.1f}" text-anchor="end">{100 * gain:.0f} %'
            "</text>"
        )
    for loss in ticks(*frame.losses):
        parts.append(
            f'<text x="{frame.x(loss):.1f}" y="{frame.floor + 17}" text-anchor="middle">'
            f"{100 * loss:+g}</text>".replace("+0<", "0<")
        )
    middle = (frame.left + frame.right) / 2
    low = frame.gains[0]
    begins = f" (the axis begins at {100 * low:.0f} %)" if low > 0 else ""
    parts.append(
        f'<text x="{middle:.1f}" y="{frame.height - 8}" text-anchor="middle">{whose} WER on its '
        "validation set, points above the checkpoint</text>"
        f'<text x="{frame.left + 6}" y="{frame.top + 10}">domain errors removed{begins}</text>'
    )
    return parts


def _tolerance(frame: Frame, tolerance: float, words: str, number: int) -> list[str]:
    x, y = frame.x(tolerance), frame.floor - 6 - 15 * number
    # Where there is no room to the left of the line, its name stands to the right.
    anchor, beside = ("end", x - 5) if x - frame.left > 7 * len(words) else ("start", x + 5)
    return [
        f'<line class="guard baseline" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top + 16}" '
        f'y2="{frame.floor}"/>'
        f'<text class="guard" x="{beside:.1f}" y="{y}" text-anchor="{anchor}">'
        f"{html.escape(words)}</text>"
    ]


def _point(frame: Frame, row: dict[str, Any], *, chosen: bool, several: bool) -> list[str]:
    """A candidate with its intervals; its name shows where the pointer rests, and of several guards
    the worst.
    """
    x, y = frame.x(row["loss"]), frame.y(row["gain"])
    kind = "chosen" if chosen else "refused" if row["refused"] else "kept"
    cross = (
        f'<line x1="{frame.x(row["loss_low"]):.1f}" x2="{frame.x(row["loss_high"]):.1f}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(row["gain_low"]):.1f}" '
        f'y2="{frame.y(row["gain_high"]):.1f}"/>'
    )
    mark = (
        f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>'
        if chosen
        else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    )
    name = row.get("description") or row["weights"]
    if several:
        name = f"{name}; worst guard: {forgotten.worst_guard(row)}"
    name = html.escape(name)
    return [f'<g class="candidate {kind}"><title>{name}</title>{cross}{mark}</g>']
