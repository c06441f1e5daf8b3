"""A folder of transcripts that a killed run continues: progress.jsonl, a file a recording and
format, transcripts.jsonl.

progress.jsonl is appended to, batch by batch, and is what counts: the other files are made from it,
whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, hold
from parakeet_ft.transcription.captions import FORMATS, TEXT_ONLY
from parakeet_ft.transcription.recordings import Recording
from parakeet_ft.transcription.segments import stored_segment
from parakeet_ft.transcription.words import Transcript, Word, join_segments

PROGRESS = "progress.jsonl"


class TranscriptFolder:
    """The folder `out`, held by one process. `settings` is what decides the texts: they must be
    those of the run that began it.

    Memory holds one position in the file a segment, not the texts. Raises UserError if the folder
    cannot be used.
    """

    def __init__(self, out: Path, *, formats: Sequence[str], settings: dict[str, Any]) -> None:
        self.out = out
        self.formats = tuple(formats)
        self.path = out / PROGRESS
        self.with_words = bool(set(formats) - TEXT_ONLY)
        self._segments: dict[tuple[str, int], int] = {}
        self._plans: dict[str, int] = {}
        self._written: dict[str, tuple[str, set[str]]] = {}
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = hold(out / ".lock")
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UserError(
                f"Cannot write to {out}: {error.strerror}. Give another --out."
            ) from None
        if lock is None:
            self._file.close()
            raise UserError(f"Another run is writing to {out}. Wait for it, or give another --out.")
        self._lock = lock
        try:
            self._read(json.loads(json.dumps(settings)))
        except UserError:
            self._close()
            raise

    def __enter__(self) -> TranscriptFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        """Let other runs in."""
        self._file.close()
        self._lock.release()

    def _read(self, settings: dict[str, Any]) -> None:
        """What an earlier run left; its settings are the first line."""
        self._file.seek(0)
        position = 0
        for line in self._file:
            row = _whole_row(line)
            if row is None:
                break  # a kill tore the last line
            if not position:
                self._check_settings(row.get("settings"), settings)
            self._index(row, position)
            position += len(line)
        self._file.truncate(position)
        if not position:
            self._append([{"settings": settings}])

    def _check_settings(self, earlier: dict[str, Any] | None, settings: dict[str, Any]) -> None:
        """Raise UserError unless the folder was begun with these settings."""
        if earlier == settings:
            return
        differing = [key for key in settings if (earlier or {}).get(key) != settings[key]]
        raise UserError(
            f"{self.out} holds transcripts made with another "
            f"{' and '.join(differing) or 'version of this program'}. Give another "
            f"--out, or remove {self.path} to transcribe everything again."
        )

    def _index(self, row: dict[str, Any], position: int) -> None:
        """Remember where a row stands."""
        if "parts" in row:
            self._plans[row["key"]] = position
        elif "text" in row and (row["words"] is not None or not self.with_words):
            self._segments[row["key"], row["part"]] = position
        elif "written" in row:
            formats = set(row["formats"])
            key, earlier = self._written.get(row["written"], ("", set()))
            if key == row["key"]:
                formats |= earlier
            self._written[row["written"]] = (row["key"], formats)

    def _append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rows at the end of progress.jsonl, on the disk before this returns."""
        position = self._file.seek(0, os.SEEK_END)
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            self._file.write(line)
            self._index(row, position)
            position += len(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _row(self, position: int) -> dict[str, Any]:
        """The row that stands at a position."""
        self._file.seek(position)
        return json.loads(self._file.readline())

    def is_written(self, recording: Recording, key: str) -> bool:
        """Whether all its files are there and of this audio."""
        written, formats = self._written.get(recording.name, ("", set()))
        return (
            written == key
            and set(self.formats) <= formats
            and all(self.file_of(recording, name).is_file() for name in self.formats)
        )

    def parts(self, key: str) -> tuple[float, list[dict[str, Any]]] | None:
        """(seconds, segments as they were stored) of a recording that was planned."""
        if key not in self._plans:
            return None
        row = self._row(self._plans[key])
        return row["seconds"], row["parts"]

    def store_parts(self, key: str, *, seconds: float, parts: list[dict[str, Any]]) -> None:
        """Keep how a recording was cut."""
        self._append([{"key": key, "seconds": seconds, "parts": parts}])

    def missing_parts(self, key: str, num_parts: int) -> list[int]:
        """Numbers of the segments that have no transcript yet."""
        return [part for part in range(num_parts) if (key, part) not in self._segments]

    def store_transcripts(self, rows: Iterable[tuple[str, int, Transcript]]) -> None:
        """Keep (key, number of the segment, transcript)."""
        self._append(self._transcript_row(*row) for row in rows)

    def _transcript_row(self, key: str, part: int, transcript: Transcript) -> dict[str, Any]:
        """A transcript as a row of progress.jsonl."""
        words = None
        if self.with_words:
            words = [[word.text, word.begin, word.end] for word in transcript.words]
        return {
            "key": key,
            "part": part,
            "text": transcript.text,
            "duration": transcript.duration,
            "words": words,
        }

    def transcript(self, key: str, *, begin: float) -> Transcript:
        """The whole transcript of a recording all of whose segments are there; `begin` is its
        offset in the file.
        """
        seconds, parts = self.parts(key) or (0.0, [])
        heard = []
        for number, part in enumerate(parts):
            row = self._row(self._segments[key, number])
            words = tuple(Word(*word) for word in row["words"] or [])
            heard.append((stored_segment(part), Transcript(row["text"], words, row["duration"])))
        return join_segments(heard, seconds=seconds, begin=begin)

    def file_of(self, recording: Recording, suffix: str) -> Path:
        """Where a transcript of a format lies."""
        return self.out / f"{recording.name}.{suffix}"

    def write(self, recording: Recording, key: str) -> None:
        """Write a recording's files."""
        transcript = self.transcript(key, begin=recording.offset)
        for suffix in self.formats:
            with atomic_path(self.file_of(recording, suffix)) as temporary:
                text = FORMATS[suffix](transcript, name=recording.name, path=recording.path)
                temporary.write_text(text, encoding="utf-8")
        self._append([{"key": key, "written": recording.name, "formats": list(self.formats)}])

    def write_manifest(self, recordings: Sequence[tuple[Recording, str]]) -> tuple[Path, list[str]]:
        """transcripts.jsonl: a line for each of (recording, key), in order: its manifest's fields
        and pred_text, as NeMo calls it.

        Returns its path and the names of the recordings whose text is empty.
        """
        path = self.out / "transcripts.jsonl"
        empty = []
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
            for recording, key in recordings:
                found = self.transcript(key, begin=recording.offset)
                row = recording.fields or {
                    "audio_filepath": os.path.abspath(recording.path),
                    "duration": round(found.duration, 4),
                }
                out.write(json.dumps(row | {"pred_text": found.text}, ensure_ascii=False) + "\n")
                if not found.text:
                    empty.append(recording.name)
        return path, empty


def _whole_row(line: bytes) -> dict[str, Any] | None:
    """A line of progress.jsonl; None if it was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
