"""report.json to report.html: one page that needs no other file and no network, for a phone as for
a desk.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import audio
from parakeet_ft.scoring import wer
from parakeet_ft.scoring.words import interval_words, most_changed, percent

# MP3, which phones of any age play, at some 3 kB a second; encoding takes 8 ms a second (Ogg Opus:
# 40 ms).
MP3_COMPRESSION = 0.8
PLAYER_SECONDS = 30.0
PLAYERS_BYTES = 6_000_000
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
        self.left, self.encoded = most_bytes, {}

    def player(self, row: dict[str, Any]) -> str:
        """An audio element for a row of utterance_rows; in its place, or after it, words on what is
        left out and why.
        """
        key = (row["audio_filepath"], row["offset"], row["duration"])
        if key not in self.encoded:
            self.encoded[key] = encode(*key)
        uri, note = self.encoded[key]
        if len(uri) > self.left:
            uri, note = (
                "",
                f"no player: this page already holds {PLAYERS_BYTES / 1e6:g} MB of audio; "
                f"{Path(key[0]).name}",
            )
        self.left -= len(uri)
        return (f'<audio controls preload="none" src="{uri}"></audio>' if uri else "") + (
            f"<small>{html.escape(note)}</small>" if note else ""
        )


def encode(path: str, offset: float, duration: float) -> tuple[str, str]:
    """(data URI of an utterance, "" if it cannot be had; a note on what is missing, "" if nothing
    is).
    """
    import soundfile

    try:
        samples = audio.read_audio(path, offset=offset, duration=min(duration, PLAYER_SECONDS))
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
    return (
        uri,
        f"the first {PLAYER_SECONDS:g} of {duration:.0f} s" if duration > PLAYER_SECONDS else "",
    )


def figures(report: dict[str, Any], role: str) -> list[dict[str, str]]:
    """The rows of a set's table: measure, before, after, change."""
    before, after = report["baseline"][role], report["tuned"][role]
    rows = []
    for key, label in MEASURES:
        if key == "wer_normalized" and (reason := wer.joined(after)):
            rows.append(
                {
                    "measure": f"{label}: {reason}",
                    "before": "-",
                    "after": "-",
                    "change": "-",
                    "rate": True,
                }
            )
            continue
        change = after[key] - before[key]
        relative = f" ({100 * change / before[key]:+.0f} %)" if before[key] else ""
        rows.append(
            {
                "measure": label,
                "before": percent(before[key]),
                "after": percent(after[key]),
                "change": f"{100 * change:+.1f}{relative}",
                "rate": True,
            }
        )
    counts = (
        (label, before[key], after[key]) for key, label in KINDS if key in before and key in after
    )
    rows += [
        {
            "measure": label,
            "before": f"{old:,}",
            "after": f"{new:,}",
            "change": f"{new - old:+,}",
            "rate": False,
        }
        for label, old, new in counts
    ]
    return rows


def grid_step(highest: float) -> float:
    """The least of 1, 2, 5, 10, 20 or 50 % that divides 0 to `highest` into at most five parts;
    beyond 250 % multiples of 100 %.
    """
    return next(
        (step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if highest / step <= 5),
        float(math.ceil(highest / 5)),
    )


def learning_curve(
    history: Sequence[dict[str, Any]], *, best_step: int, chosen: dict[str, Any] | None = None
) -> str:
    """Inline SVG of domain and guard WER over the steps, best_step marked if it is 0 or more. Step
    0 is the untouched checkpoint, whose WER is a dashed line; diamonds at the right are `chosen`,
    the row of candidates that was exported.
    """
    width, height, left, right, bottom, top = 540, 280, 48, 160, 30, 12
    last = max(point["step"] for point in history) or 1
    rows = [*history, *([chosen] if chosen else [])]
    highest = (
        max(row[key] for row in rows for key in ("val_wer", "guard_wer") if key in row) * 1.05
        or 1.0
    )
    edge = width - right

    def x(step: float) -> float:
        return left + (edge - left) * step / last

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / highest

    parts = [
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" aria-label="WER over '
        f'training steps">'
    ]
    step, value = grid_step(highest), 0.0
    while value <= highest:
        parts.append(
            f'<line x1="{left}" x2="{edge}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>'
            f'<text x="{left - 7}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.0f} '
            f"%</text>"
        )
        value += step
    ticks = [0, last] + ([best_step] if min(x(best_step) - left, edge - x(best_step)) > 40 else [])
    parts += [
        f'<text x="{x(tick):.1f}" y="{height - 9}" '
        f'text-anchor="middle">{"step " if not tick else ""}{int(tick)}</text>'
        for tick in ticks
    ]
    if 0 <= best_step <= last:
        parts.append(
            f'<line x1="{x(best_step):.1f}" x2="{x(best_step):.1f}" y1="{top}" '
            f'y2="{height - bottom}" class="best"/>'
        )
    ends = []
    for key, label in (("val_wer", "domain"), ("guard_wer", "guard")):
        points = [(x(p["step"]), y(p[key])) for p in history if key in p]
        if not points:
            continue
        parts.append(
            f'<line class="{label} baseline" x1="{left}" x2="{edge + 16}" y1="{points[0][1]:.1f}" '
            f'y2="{points[0][1]:.1f}"/>'
            f'<polyline class="{label}" '
            f'points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
        )
        parts += [f'<circle class="{label}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
        end = points[-1][1]
        if chosen and key in chosen:
            end = y(chosen[key])
            parts.append(f'<path class="{label}" d="M{edge + 16} {end - 6:.1f}l6 6l-6 6l-6 -6z"/>')
        ends.append(
            [end, label, percent(chosen[key] if chosen and key in chosen else history[-1][key])]
        )
    ends.sort()
    if len(ends) == 2 and ends[1][0] - ends[0][0] < 18:
        middle = (ends[0][0] + ends[1][0]) / 2
        ends[0][0], ends[1][0] = middle - 9, middle + 9
    parts += [
        f'<text class="{label} end" x="{edge + 27}" y="{end + 4:.1f}">{label} {rate}</text>'
        for end, label, rate in ends
    ]
    return "".join(parts) + "</svg>"


def render_page(report: dict[str, Any], *, examples: int) -> str:
    """The page: at most `examples` of the worst and as many of the most changed utterances, each
    with its audio as far as there is room.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    players = Players()

    def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            row
            | {
                "player": players.player(row),
                "diff_before": diff_html(row["reference"], row["before"]),
                "diff_after": diff_html(row["reference"], row["after"]),
            }
            for row in rows
        ]

    rows, chosen = report["utterances"], report["candidates"][0]
    return environment.get_template("report.html.jinja").render(
        report=report,
        worst=shown([row for row in rows if row["errors_after"]][:examples]),
        changed=shown(most_changed(rows, most=examples)),
        tables={role: figures(report, role) for role in report["baseline"]},
        intervals={
            role: f"Change of the WER in points, 95 % interval: {interval_words(found)}."
            for role, found in report["comparison"].items()
        },
        curve=learning_curve(
            report["history"],
            best_step=report["best_step"] if chosen["weights"] == "best checkpoint" else -1,
            chosen=chosen,
        ),
    )
