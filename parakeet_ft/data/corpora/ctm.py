"""CTM: the words of long recordings with their times, gathered into utterances at pauses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_file, existing_folder, recordings_by_name
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.seconds import parse_seconds

# Recording, begin and end in seconds, word.
Entry = tuple[str, float, float, str]


def read_ctm(
    path: str | Path,
    *,
    audio: str | Path | None = None,
    pause_seconds: float = 0.5,
    max_seconds: float = 20.0,
    pad_seconds: float = 0.1,
) -> Iterator[Utterance]:
    """Yield utterances: words of a recording up to a pause of `pause_seconds`, or to the last word
    that fits into `max_seconds`.
    """
    path = existing_file(path, what="CTM file")
    folder = existing_folder(audio or path.parent)
    recordings = recordings_by_name(folder)
    current: list[Entry] = []
    for number, entry in enumerate(_words(path), 1):
        name, begin, end, word = entry
        if current and (
            begin < 0
            or name != current[-1][0]
            or begin - current[-1][2] >= pause_seconds
            or end - current[0][1] > max_seconds
        ):
            yield _utterance(current, recordings, folder, pad_seconds)
            current = []
        if begin >= 0:
            current.append(entry)
            continue
        wrong = f"entry {number}: {word[:60]!r}, expected recording, channel, begin, duration, word"
        yield Utterance(str(folder), duration=0.0, text="", extra={"bad_row": wrong})
    if current:
        yield _utterance(current, recordings, folder, pad_seconds)


def _utterance(
    entries: list[Entry], recordings: dict[str, str], folder: Path, pad_seconds: float
) -> Utterance:
    """Neighbouring words of a recording as an utterance."""
    name = entries[0][0]
    begin = max(0.0, entries[0][1] - pad_seconds)
    audio_path = recordings.get(name) or recordings.get(os.path.splitext(name)[0])
    extra = {"session": name}
    if not audio_path:
        extra["bad_row"] = f"no recording, or one in several folders, called {name}"
    return Utterance(
        audio_filepath=audio_path or str(folder / name),
        duration=round(entries[-1][2] + pad_seconds - begin, 4),
        text=" ".join(word for *_, word in entries),
        offset=round(begin, 4),
        extra=extra,
    )


def _words(path: Path) -> Iterator[Entry]:
    """(recording, begin, end, word) in seconds; begin -1 marks a line that cannot be read, with the
    line as its word.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            if not fields or line.startswith(";;"):
                continue
            try:
                begin = parse_seconds(fields[2], "begin")
                yield fields[0], begin, begin + parse_seconds(fields[3], "length"), fields[4]
            except (IndexError, ValueError):
                yield fields[0], -1.0, -1.0, line.strip()
