"""The picture of the choice: what each candidate gained on the domain against what the guard lost,
each with its 95 % interval.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any


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
        low, high = self.losses
        share = (min(max(loss, low), high) - low) / (high - low)
        return self.left + (self.right - self.left) * share

    def y(self, gain: float) -> float:
        low, high = self.gains
        share = (min(max(gain, low), high) - low) / (high - low)
        return self.floor - (self.floor - self.top) * share


def frontier(candidates: Sequence[dict[str, Any]], *, tolerance: float | None) -> str:
    """Inline SVG of the candidates, the chosen first; "" where the guard was not judged.

    Right is forgotten, up is gained. A line stands where the tolerance is; refused candidates are
    hollow, the chosen one is a diamond.
    """
    judged = [_flat(row) for row in candidates if _flat(row).get("loss") is not None]
    if not judged:
        return ""
    frame = Frame(losses=_losses(judged, tolerance), gains=_gains(judged))
    parts = [
        f'<svg class="curve frontier" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="Domain gain against guard loss of all candidates">'
    ]
    parts += _grid(frame)
    if tolerance is not None:
        parts += _tolerance(frame, tolerance)
    for row in reversed(judged):  # the chosen on top
        parts += _point(frame, row, chosen=row is judged[0])
    return "".join(parts) + "</svg>"


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
    lowest = min(0.0, *(row["gain_low"] for row in rows))
    highest = max(0.05, *(row["gain_high"] for row in rows))
    return max(-1.0, lowest), min(1.0, highest * 1.05)


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from low to high."""
    size = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= 6.5)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * k, 12) for k in range(first, last + 1)]


def _grid(frame: Frame) -> list[str]:
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
    parts.append(
        f'<text x="{middle:.1f}" y="{frame.height - 8}" text-anchor="middle">guard WER on its '
        "validation set, points above the checkpoint</text>"
        f'<text x="{frame.left + 6}" y="{frame.top + 10}">domain errors removed</text>'
    )
    return parts


def _tolerance(frame: Frame, tolerance: float) -> list[str]:
    x = frame.x(tolerance)
    return [
        f'<line class="guard baseline" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" '
        f'y2="{frame.floor}"/>'
        f'<text class="guard" x="{x - 5:.1f}" y="{frame.floor - 6}" text-anchor="end">tolerated'
        "</text>"
    ]


def _point(frame: Frame, row: dict[str, Any], *, chosen: bool) -> list[str]:
    """A candidate with its intervals; its name shows where the pointer rests."""
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
    name = html.escape(row.get("description") or row["weights"])
    return [f'<g class="candidate {kind}"><title>{name}</title>{cross}{mark}</g>']
