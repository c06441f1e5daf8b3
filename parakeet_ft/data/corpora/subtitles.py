"""Subtitles (SRT, WebVTT and what else pysubs2 reads) over recordings of the same name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_folder, recording_of, recordings_by_name
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".sub")
# What subtitles say of sounds: [door closes], (laughter), music notes. It is not speech.
NOT_SPEECH = re.compile(r"\[[^\]]*\]|\([^)]*\)|♪[^♪]*♪?|♫")
SENTENCE_END = (".", "!", "?", "…", "。")


def read_subtitles(
    folder: str | Path, *, merge_seconds: float = 15.0, pad_seconds: float = 0.1
) -> Iterator[Utterance]:
    """Yield utterances: lines of a subtitle joined up to the end of their sentence, at most
    `merge_seconds` long.

    `name.srt` or `name.en.srt` belongs to the recording `name`, wherever below the folder.
    `pad_seconds` of audio are added at both ends.
    """
    root = existing_folder(folder)
    recordings = recordings_by_name(root)
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{root} holds no subtitles ({', '.join(SUFFIXES)}).")
    for path in files:
        audio_path = recording_of(path, recordings)
        try:
            lines = read_lines(path)
        except UserError as error:
            yield Utterance(
                audio_filepath=audio_path or str(path),
                duration=0.0,
                text="",
                extra={"session": path.stem, "bad_row": str(error)},
            )
            continue
        for begin, end, text in merge_lines(lines, merge_seconds=merge_seconds):
            extra = {"session": path.stem}
            if not audio_path:
                extra["bad_row"] = f"no recording, or one in several folders, called {path.stem}"
            offset = max(0.0, begin - pad_seconds)
            yield Utterance(
                audio_filepath=audio_path or str(path),
                duration=round(end + pad_seconds - offset, 4),
                text=text,
                offset=round(offset, 4),
                extra=extra,
            )


def read_lines(path: Path) -> list[tuple[float, float, str]]:
    """(begin, end, text) in seconds of each line that is speech, in order of time. Raises
    UserError.
    """
    try:
        import pysubs2
    except ImportError:
        raise UserError("Subtitles need pysubs2: pip install pysubs2") from None
    try:
        events = pysubs2.load(str(path), encoding="utf-8", errors="surrogateescape")
    except Exception as error:
        raise UserError(f"{path} is not a subtitle file: {error}") from None
    lines = [
        (
            e.start / 1000,
            e.end / 1000,
            " ".join(NOT_SPEECH.sub(" ", e.plaintext).split()).removeprefix("- "),
        )
        for e in events
        if not e.is_comment
    ]
    return sorted(line for line in lines if line[2] and line[1] > line[0])


def merge_lines(
    lines: list[tuple[float, float, str]], *, merge_seconds: float, gap_seconds: float = 1.0
) -> Iterator[tuple[float, float, str]]:
    """Join a line with the next unless its sentence ends, a pause of `gap_seconds` follows, or the
    sum would exceed `merge_seconds`.
    """
    current: tuple[float, float, str] | None = None
    for begin, end, text in lines:
        if (
            current is not None
            and not current[2].endswith(SENTENCE_END)
            and begin - current[1] < gap_seconds
            and end - current[0] <= merge_seconds
        ):
            current = (current[0], max(end, current[1]), f"{current[2]} {text}")
            continue
        if current is not None:
            yield current
        current = (begin, end, text)
    if current is not None:
        yield current
