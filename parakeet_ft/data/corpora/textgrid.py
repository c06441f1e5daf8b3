"""Praat TextGrids (long and short form) over recordings of the same name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_folder, recording_of, recordings_by_name
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.seconds import stretch
from parakeet_ft.errors import UserError

# Not praatio's: one package more for what these lines read, files of unusual encoding included.
# A value of either form: a quoted string in which "" is a quotation mark, a number, or a flag.
# Names and "= " of the long form are skipped.
VALUE = re.compile(
    r'"((?:[^"]|"")*)"|(?<![\w\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])|<(exists|absent)>'
)
# Begin and end in seconds, text.
Interval = tuple[float, float, str]
SILENCE = frozenset({"", "sil", "sp", "spn", "<sil>", "<p>", "#"})


def read_textgrids(
    folder: str | Path, *, tier: str | None = None, speaker_from_tier: bool = False
) -> Iterator[Utterance]:
    """Yield an utterance an interval that has text, of the named tier or of all interval tiers
    (then each often is one speaker).

    Marks of silence (sil, sp, spn) are left out. Raises UserError if no TextGrid is there or none
    has the tier.
    """
    root = existing_folder(folder)
    recordings = recordings_by_name(root)
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() == ".textgrid")
    if not files:
        raise UserError(f"{root} holds no .TextGrid files.")
    names: set[str] = set()
    for path in files:
        audio_path = recording_of(path, recordings)
        try:
            tiers = parse_textgrid(_read(path), where=str(path))
        except UserError as error:
            extra = {"session": path.stem, "bad_row": str(error)}
            yield Utterance(audio_path or str(path), duration=0.0, text="", extra=extra)
            continue
        for name, intervals in tiers:
            names.add(name)
            if tier is not None and name != tier:
                continue
            speaker = name if speaker_from_tier else None
            for interval in intervals:
                if interval[2].strip().lower() not in SILENCE:
                    yield _utterance(interval, path, audio_path, speaker)
    if tier is not None and tier not in names and names:
        raise UserError(
            f"No TextGrid below {root} has a tier {tier!r}; there are "
            f"{', '.join(sorted(map(repr, names)))}."
        )


def _utterance(
    interval: Interval, path: Path, audio_path: str | None, speaker: str | None
) -> Utterance:
    """An interval as an utterance, with a reason if it cannot be one."""
    begin, end, text = interval
    extra = {"session": path.stem}
    if not audio_path:
        extra["bad_row"] = f"no recording, or one in several folders, called {path.stem}"
    offset = duration = 0.0
    try:
        offset, duration = stretch(begin, end)
    except ValueError as error:
        extra["bad_row"] = f"an interval of {path.name}: {error}"
    return Utterance(
        audio_filepath=audio_path or str(path),
        duration=duration,
        text=text,
        offset=offset,
        extra=extra,
        speaker=speaker,
    )


def _read(path: Path) -> str:
    """The text of a file, whatever Praat encoded it in."""
    data = path.read_bytes()
    # Praat writes UTF-16 with a byte order mark as soon as a text is not ASCII.
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")  # which knows no surrogateescape
    return data.decode("utf-8-sig", errors="surrogateescape")


def parse_textgrid(text: str, *, where: str) -> list[tuple[str, list[Interval]]]:
    """(name, intervals) of each interval tier. Point tiers are left out. Raises UserError."""
    values = [_value(match) for match in VALUE.finditer(text)]
    try:
        if values[:2] != ["ooTextFile", "TextGrid"] or values[4] != "exists":
            raise ValueError("the header is another one")
        return _tiers(values)
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where} is not a TextGrid that can be read ({error}).") from None


def _value(match: re.Match[str]) -> str | float:
    """A quoted string, a number or a flag."""
    quoted, number, flag = match.groups()
    if quoted is not None:
        return quoted.replace('""', '"')
    return float(number) if number else flag


def _tiers(values: list[str | float]) -> list[tuple[str, list[Interval]]]:
    """The interval tiers. A tier is a kind, a name, two times, the number of its rows, and these;
    how many tiers there are stands before the first.
    """
    tiers = []
    at = 6
    for _ in range(int(values[5])):
        kind = values[at]
        name = values[at + 1]
        num_rows = int(values[at + 4])
        at += 5
        width = 3 if kind == "IntervalTier" else 2
        rows = [values[at + width * i : at + width * (i + 1)] for i in range(num_rows)]
        at += width * num_rows
        if kind == "IntervalTier":
            tiers.append((str(name), [(float(b), float(e), str(t)) for b, e, t in rows]))
    return tiers
