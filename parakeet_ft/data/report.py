"""report.html: what is in a data set, on one page that needs no other file and no network."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from parakeet_ft.data import audio
from parakeet_ft.data.filters import REASONS
from parakeet_ft.data.leaks import Leaks
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.splits import SPLITS
from parakeet_ft.data.summary import Summary
from parakeet_ft.files import atomic_path

# Players longer than this are cut: forty of them are within the page, and encoding takes 5 ms a
# second.
PLAYER_SECONDS = 10.0


def write_report(
    summary: Summary, path: Path, *, title: str, leaks: Leaks | None = None, players: bool = True
) -> Path:
    """Write the page whole or not at all; returns its path. leaks: None where none were looked for,
    and nothing is said of them.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    split_names = [s for s in SPLITS if summary.count[s]] + sorted(
        s for s in summary.count if s not in SPLITS and summary.count[s]
    )
    page = environment.get_template("report.html.jinja").render(
        s=summary,
        title=title,
        splits=split_names,
        reasons=REASONS,
        notes=summary.notes,
        leaks=leaks,
        same_audio=sum(leaks.audio.values()) if leaks else 0,
        same_text=sum(leaks.text.values()) if leaks else 0,
        extremes=_extremes(summary, players),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return path


def _extremes(summary: Summary, players: bool) -> list[tuple[str, list[dict[str, str]]]]:
    """Utterances to listen to under their headings; each once, where it stands out first."""
    oddest = [
        *_rows(summary.fastest, 5, "{:.1f} chars/s", 1),
        *_rows(summary.slowest, 5, "{:.1f} chars/s", -1),
    ]
    lists = [
        ("Oddest: most and fewest characters a second", oddest),
        ("Longest", _rows(summary.longest, 10, "{:.2f} s", 1)),
        ("Shortest", _rows(summary.shortest, 10, "{:.2f} s", -1)),
    ]
    shown: set[int] = set()
    found = []
    for heading, rows in lists:
        others = [row for row in rows if id(row[1]) not in shown]
        once = {id(utterance): (figure, utterance) for figure, utterance in others}
        shown |= once.keys()
        found.append((heading, [_shown(*row, players=players) for row in once.values()]))
    return found


def _rows(heap: Sequence[tuple], count: int, form: str, sign: int) -> list[tuple[str, Utterance]]:
    """Utterances with the figure that they are shown for, most extreme first; `sign` undoes that of
    the heap.
    """
    ordered = sorted(heap, key=lambda entry: (-entry[0], -entry[1]))
    return [(form.format(sign * value), utterance) for value, _, utterance in ordered[:count]]


def _shown(figure: str, utterance: Utterance, *, players: bool) -> dict[str, str]:
    """An utterance as the page has it."""
    return {
        "figure": figure,
        "text": utterance.text,
        "path": utterance.audio_filepath,
        "player": _player_of(utterance) if players else "",
    }


def _player_of(utterance: Utterance) -> str:
    """An utterance as player() gives it."""
    return player(audio.source_of(utterance), utterance.offset, utterance.duration)


@functools.lru_cache(maxsize=64)
def player(source: audio.Source, offset: float, duration: float) -> str:
    """An utterance's audio as a data URI (MP3, which every browser plays), "" if it cannot be read
    or libsndfile writes no MP3.
    """
    import soundfile

    try:
        samples = audio.read_audio(source, offset=offset, duration=min(duration, PLAYER_SECONDS))
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, 16000, format="MP3", subtype="MPEG_LAYER_III")
    except (audio.AudioError, soundfile.LibsndfileError, ValueError, TypeError):
        return ""
    return "data:audio/mpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
