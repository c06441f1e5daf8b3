"""report.json to report.html: one page that needs no other file and no network, for a phone as for
a desk.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import audio
from parakeet_ft.data.audio_file import Member
from parakeet_ft.report import headline, terms
from parakeet_ft.report.frontier import frontier
from parakeet_ft.scoring import forgotten, wer
from parakeet_ft.scoring.words import interval_words, most_changed, percent, shortened
from parakeet_ft.settings.guards import title_of

# MP3, which phones of any age play, at some 3 kB a second; encoding takes 8 ms a second (Ogg Opus:
# 40 ms).
MP3_COMPRESSION = 0.8
PLAYER_SECONDS = 30.0
PLAYERS_BYTES = 6_000_000
# Of each list of utterances so many are open; a click shows the rest.
OPEN_UTTERANCES = 5
MEASURES = (("wer", "WER"), ("wer_normalized", "WER, normalised"), ("cer", "CER"))
KINDS = (
    ("substitutions", "words substituted"),
    ("deletions", "words deleted"),
    ("insertions", "words inserted"),
    ("character_substitutions", "characters substituted"),
    ("character_deletions", "characters deleted"),
    ("character_insertions", "characters inserted"),
)


def diff_html(reference: str, hypothesis: str) -> str:
    """Words of a hypothesis against its reference: substituted, inserted and deleted words are
    marked.
    """
    parts = []
    for expected, heard in wer.word_diff(reference, hypothesis):
        if expected == heard:
            parts.append(html.escape(heard))
        elif not heard:
            parts.append(f"<del>{html.escape(expected)}</del>")
        elif not expected:
            parts.append(f"<ins>{html.escape(heard)}</ins>")
        else:
            parts.append(
                f'<span class="sub" title="{html.escape(expected)}">{html.escape(heard)}</span>'
            )
    return " ".join(parts) or "<i>nothing</i>"


class Players:
    """Audio as data URIs, at most `most_bytes` of them in all; the same stretch is encoded once but
    counted each time.
    """

    def __init__(self, *, most_bytes: int = PLAYERS_BYTES) -> None:
        self.left = most_bytes
        self.encoded: dict[tuple[str | Member, float, float], tuple[str, str]] = {}

    def player(self, row: dict[str, Any]) -> str:
        """An audio element for a row of utterance_rows; in its place, or after it, words on what is
        left out and why.
        """
        source = Member(*row["member"]) if "member" in row else row["audio_filepath"]
        key = (source, row["offset"], row["duration"])
        if key not in self.encoded:
            self.encoded[key] = encode(*key)
        uri, note = self.encoded[key]
        if len(uri) > self.left:
            uri = ""
            note = (
                f"no player: this page already holds {PLAYERS_BYTES / 1e6:g} MB of audio; "
                f"{Path(str(source)).name}"
            )
        self.left -= len(uri)
        element = f'<audio controls preload="none" src="{uri}"></audio>' if uri else ""
        words = f"<small>{html.escape(note)}</small>" if note else ""
        return element + words


def encode(source: str | Member, offset: float, duration: float) -> tuple[str, str]:
    """(data URI of an utterance, "" if it cannot be had; a note on what is missing, "" if nothing
    is).
    """
    import soundfile

    try:
        samples = audio.read_audio(source, offset=offset, duration=min(duration, PLAYER_SECONDS))
        encoded = io.BytesIO()
        soundfile.write(
            encoded,
            samples,
            16000,
            format="MP3",
            subtype="MPEG_LAYER_III",
            compression_level=MP3_COMPRESSION,
        )
    except (audio.AudioError, soundfile.LibsndfileError, ValueError, TypeError) as error:
        return "", f"no player: {error}"
    uri = "data:audio/mpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
    if duration <= PLAYER_SECONDS:
        return uri, ""
    return uri, f"the first {PLAYER_SECONDS:g} of {duration:.0f} s"


def figures(report: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """The rows of a set's table: measure, before, after, change; whether it is a rate."""
    before = report["baseline"][role]
    after = report["tuned"][role]
    reason = wer.joined(after)
    rows = []
    for key, label in MEASURES:
        if key == "wer_normalized" and reason:
            rows.append(_no_rate(f"{label}: {reason}"))
        else:
            rows.append(_rate(label, before[key], after[key]))
    for key, label in KINDS:
        if key in before and key in after:
            rows.append(_count(label, before[key], after[key]))
    return rows


def guard_row(report: dict[str, Any], name: str) -> dict[str, Any]:
    """A guard's row in the table of what was forgotten."""
    before, after = (report[when][name] for when in ("baseline", "tuned"))
    return {
        "name": title_of(name),
        "words": after["words"],
        "before": percent(before["wer"]),
        "after": percent(after["wer"]),
        "change": interval_words(report["comparison"][name]),
        "tolerated": forgotten.tolerance_words(forgotten.tolerances(report)[name]),
        "outcome": forgotten.outcome(report, name),
    }


def _no_rate(label: str) -> dict[str, Any]:
    """A rate that is of something else."""
    return {"measure": label, "before": "-", "after": "-", "change": "-", "rate": True}


def _rate(label: str, before: float, after: float) -> dict[str, Any]:
    """A share, its change in points and, where there was any, relative to what it was."""
    change = after - before
    relative = f" ({100 * change / before:+.0f} %)" if before else ""
    return {
        "measure": label,
        "before": percent(before),
        "after": percent(after),
        "change": f"{100 * change:+.1f}{relative}",
        "rate": True,
    }


def _count(label: str, before: int, after: int) -> dict[str, Any]:
    """A number of errors and its change."""
    return {
        "measure": label,
        "before": f"{before:,}",
        "after": f"{after:,}",
        "change": f"{after - before:+,}",
        "rate": False,
    }


def grid_step(highest: float) -> float:
    """The least of 1, 2, 5, 10, 20 or 50 % that divides 0 to `highest` into at most five parts;
    beyond 250 % multiples of 100 %.
    """
    return next(
        (step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if highest / step <= 5),
        float(math.ceil(highest / 5)),
    )


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where a step and a rate stand in the picture, which is 540 by 280 units."""

    last_step: float
    highest: float

    width = 540
    height = 280
    left = 48
    top = 12
    edge = width - 160  # beyond it stand the curves' names
    floor = height - 30  # below it stand the steps

    def x(self, step: float) -> float:
        """Where a step stands."""
        return self.left + (self.edge - self.left) * step / self.last_step

    def y(self, rate: float) -> float:
        """Where a rate stands."""
        return self.floor - (self.floor - self.top) * rate / self.highest


def learning_curve(
    history: Sequence[dict[str, Any]], *, best_step: int, chosen: dict[str, Any] | None = None
) -> str:
    """Inline SVG of the WER of domain and guards over the steps, best_step marked if it is 0 or
    more. Step 0 is the untouched checkpoint, whose WER is a dashed line; diamonds at the right are
    `chosen`, the row of candidates that was exported.
    """
    chosen = chosen or {}
    canvas = Canvas(
        last_step=max(point["step"] for point in history) or 1,
        highest=_highest([*history, chosen]) * 1.05 or 1.0,
    )
    parts = [
        f'<svg class="curve" viewBox="0 0 {canvas.width} {canvas.height}" role="img" '
        f'aria-label="WER over training steps">'
    ]
    parts += _grid(canvas)
    parts += _steps(canvas, best_step)
    ends = []
    exported = rates_of(chosen)
    for label in dict.fromkeys(label for point in history for label in rates_of(point)):
        points = [point for point in history if label in rates_of(point)]
        xy = [(canvas.x(point["step"]), canvas.y(rates_of(point)[label])) for point in points]
        parts += _curve(canvas, kind_of(label), xy)
        height = xy[-1][1]
        if label in exported:
            height = canvas.y(exported[label])
            parts.append(_diamond(canvas, kind_of(label), height))
        rate = exported.get(label, rates_of(points[-1])[label])
        ends.append((height, label, percent(rate)))
    parts += _names(canvas, ends)
    return "".join(parts) + "</svg>"


def rates_of(row: dict[str, Any]) -> dict[str, float]:
    """WER of the domain and of each guard in a validation or candidate."""
    domain = {"domain": row["val_wer"]} if "val_wer" in row else {}
    return domain | forgotten.guard_wers(row)


def kind_of(name: str) -> str:
    """Whether a set is the domain or a guard, which have their colours."""
    return "domain" if name == "domain" else "guard"


def _highest(rows: Sequence[dict[str, Any]]) -> float:
    """The highest rate of all curves."""
    return max((rate for row in rows for rate in rates_of(row).values()), default=0.0)


def _grid(canvas: Canvas) -> list[str]:
    """Horizontal lines, each with its rate."""
    parts = []
    rate = 0.0
    while rate <= canvas.highest:
        y = canvas.y(rate)
        parts.append(
            f'<line x1="{canvas.left}" x2="{canvas.edge}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{canvas.left - 7}" y="{y + 4:.1f}" text-anchor="end">{100 * rate:.0f} '
            f"%</text>"
        )
        rate += grid_step(canvas.highest)
    return parts


def _steps(canvas: Canvas, best_step: int) -> list[str]:
    """The first step, the last and, where it does not touch them, the best, whose line is drawn."""
    best = canvas.x(best_step)
    ticks = [0, canvas.last_step]
    if min(best - canvas.left, canvas.edge - best) > 40:
        ticks.append(best_step)
    parts = []
    for tick in ticks:
        label = str(int(tick)) if tick else "step 0"
        parts.append(
            f'<text x="{canvas.x(tick):.1f}" y="{canvas.height - 9}" '
            f'text-anchor="middle">{label}</text>'
        )
    if 0 <= best_step <= canvas.last_step:
        parts.append(
            f'<line x1="{best:.1f}" x2="{best:.1f}" y1="{canvas.top}" '
            f'y2="{canvas.floor}" class="best"/>'
        )
    return parts


def _curve(canvas: Canvas, label: str, points: Sequence[tuple[float, float]]) -> list[str]:
    """A line through points, a dot on each, and where the first stands a line across."""
    start = points[0][1]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle class="{label}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    return [
        f'<line class="{label} baseline" x1="{canvas.left}" x2="{canvas.edge + 16}" '
        f'y1="{start:.1f}" y2="{start:.1f}"/>',
        f'<polyline class="{label}" points="{line}"/>',
        *dots,
    ]


def _diamond(canvas: Canvas, label: str, y: float) -> str:
    """The mark of what was exported."""
    return f'<path class="{label}" d="M{canvas.edge + 16} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'


def _names(canvas: Canvas, ends: list[tuple[float, str, str]]) -> list[str]:
    """The curves' names and rates at their ends, moved apart where they would overlap; the domain's
    is called dev, as the test's is another rate.
    """
    ends = sorted(ends)
    heights = apart([height for height, _, _ in ends], least=18)
    return [
        f'<text class="{kind_of(label)} end" x="{canvas.edge + 27}" y="{y + 4:.1f}">'
        f"{'dev' if label == 'domain' else html.escape(shortened(label))} {rate}</text>"
        for y, (_, label, rate) in zip(heights, ends, strict=True)
    ]


def apart(heights: Sequence[float], *, least: float) -> list[float]:
    """Heights in order, moved as little as need be until neighbours have the least distance: those
    that would touch stand around the middle of where they were.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _end(groups[-2], least) + least > _begin(groups[-1], least):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_begin(group, least) + least * n for group in groups for n in range(len(group))]


def _begin(group: Sequence[float], least: float) -> float:
    return sum(group) / len(group) - least * (len(group) - 1) / 2


def _end(group: Sequence[float], least: float) -> float:
    return _begin(group, least) + least * (len(group) - 1)


def render_page(report: dict[str, Any], *, examples: int) -> str:
    """The page: at most `examples` of the most changed utterances and as many of the worst among
    the others, each with its audio as far as there is room.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["guard_wers"] = forgotten.guard_wers
    environment.filters["worst_guard"] = forgotten.worst_guard
    environment.filters["title_of"] = title_of
    players = Players()
    changed, worst = listened_to(report["utterances"], examples=examples)
    candidates = report["candidates"]
    chosen = candidates[0]
    return environment.get_template("report.html.jinja").render(
        report=report,
        headline=headline.headline(report),
        first=headline.figures(report),
        open=OPEN_UTTERANCES,
        changed=[_shown(row, players) for row in changed],
        worst=[_shown(row, players) for row in worst],
        titles={role: title_of(role) for role in report["baseline"]},
        guards=[guard_row(report, name) for name in forgotten.tolerances(report)],
        watched=list(dict.fromkeys(n for row in candidates for n in forgotten.guard_wers(row))),
        tables={role: figures(report, role) for role in report["baseline"]},
        intervals={
            role: f"Change of the WER in points, 95 % interval: {interval_words(found)}."
            for role, found in report["comparison"].items()
        },
        term_figures=terms.figures(report["terms"]) if report["terms"] else [],
        term_tables=terms.tables(report["terms"]) if report["terms"] else [],
        term_interval=terms.interval(report["terms"]) if report["terms"] else "",
        frontier=frontier(candidates, tolerances=forgotten.tolerances(report)),
        curve=learning_curve(
            report["history"],
            best_step=report["best_step"] if chosen["weights"] == "best checkpoint" else -1,
            chosen=chosen,
        ),
    )


def listened_to(
    rows: Sequence[dict[str, Any]], *, examples: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of utterance_rows, the most changed, then the worst that are not among them."""
    changed = most_changed(rows, most=examples)
    shown = {id(row) for row in changed}
    others = [row for row in rows if row["errors_after"] and id(row) not in shown]
    return changed, others[:examples]


def _shown(row: dict[str, Any], players: Players) -> dict[str, Any]:
    """A row of utterance_rows with its player and its marked words."""
    return row | {
        "player": players.player(row),
        "diff_before": diff_html(row["reference"], row["before"]),
        "diff_after": diff_html(row["reference"], row["after"]),
    }
