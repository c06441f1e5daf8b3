"""LJSpeech and the many voices that copy its layout: metadata.csv with id|text|normalised text, and
wavs/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_file
from parakeet_ft.data.manifest import Utterance


def read_ljspeech(folder: str | Path, *, raw_text: bool = False) -> Iterator[Utterance]:
    """Yield the utterances; the text is the normalised column (numbers in words) unless `raw_text`.
    All are of one speaker.
    """
    metadata = existing_file(Path(folder) / "metadata.csv", what="metadata.csv of LJSpeech")
    with metadata.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            # No quoting here: a quotation mark is part of the text.
            cells = line.rstrip("\n").split("|")
            if not 2 <= len(cells) <= 3:
                columns = f"{len(cells)} column{'s' * (len(cells) > 1)}"
                extra = {
                    "bad_row": f"line {number} has {columns}, expected id|text or "
                    "id|text|normalised text"
                }
                yield Utterance(
                    audio_filepath=str(metadata.parent / "wavs"),
                    duration=0.0,
                    text="",
                    speaker="LJ",
                    extra=extra,
                )
                continue
            text = cells[1] if raw_text or len(cells) < 3 else cells[2]
            yield Utterance(
                audio_filepath=str(metadata.parent / "wavs" / f"{cells[0]}.wav"),
                duration=0.0,
                text=text,
                speaker="LJ",
            )
