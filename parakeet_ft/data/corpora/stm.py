"""STM: segments of long recordings with speaker and text, a line each (NIST sclite's format)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_file, existing_folder, recordings_by_name
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.seconds import stretch

IGNORED = "ignore_time_segment_in_scoring"


def read_stm(path: str | Path, *, audio: str | Path | None = None) -> Iterator[Utterance]:
    """Yield a segment a line: recording, channel, speaker, begin, end, optional <labels>, text.
    `audio` is the folder of the recordings.

    Comments (;;) and segments that scoring ignores are left out.
    """
    path = existing_file(path, what="STM file")
    folder = existing_folder(audio or path.parent)
    recordings = recordings_by_name(folder)
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split(maxsplit=5)
            if not fields or line.startswith(";;"):
                continue
            utterance = _utterance(fields, line, number, recordings, folder)
            if utterance.text != IGNORED:
                yield utterance


def _utterance(
    fields: list[str], line: str, number: int, recordings: Mapping[str, str | None], folder: Path
) -> Utterance:
    """A line as an utterance, with a reason if it cannot be one."""
    name = fields[0]
    extra = {"session": name}
    audio_path = recordings.get(name) or recordings.get(os.path.splitext(name)[0])
    if audio_path is None:
        extra["bad_row"] = f"line {number}: no recording, or one in several folders, called {name}"
    begin = duration = 0.0
    try:
        begin, duration = stretch(fields[3], fields[4])
    except (IndexError, ValueError) as error:
        why = error if isinstance(error, ValueError) else "fields are missing"
        extra["bad_row"] = (
            f"line {number}: {line.strip()[:60]!r}, {why}; expected recording, channel, speaker, "
            "begin, end, text"
        )
    return Utterance(
        audio_filepath=audio_path or str(folder / name),
        duration=duration,
        text=_text(fields),
        offset=begin,
        speaker=fields[2] if len(fields) > 2 else None,
        extra=extra,
    )


def _text(fields: list[str]) -> str:
    """The text without the labels before it; "" if there is none."""
    text = fields[5].strip() if len(fields) > 5 else ""
    if text.startswith("<") and ">" in text:
        return text.partition(">")[2].strip()
    return text
