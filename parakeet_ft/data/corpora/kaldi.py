"""A Kaldi data directory: wav.scp and text, with segments and utt2spk if they are there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.audio import KaldiPipe
from parakeet_ft.data.corpora.folder import existing_file
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.seconds import parse_seconds, stretch
from parakeet_ft.errors import UserError


def read_kaldi(
    folder: str | Path, *, audio_root: str | Path | None = None, allow_pipes: bool = False
) -> Iterator[Utterance]:
    """Yield the utterances in the order of `text`. Relative paths of wav.scp are relative to
    `audio_root`, by default the working directory as in Kaldi.

    Commands in wav.scp ("sph2pipe ... |") are run by a shell, so only with `allow_pipes`. Raises
    UserError.
    """
    root = Path(folder)
    wav_scp = existing_file(root / "wav.scp", what="wav.scp of a Kaldi data directory")
    recordings = _once_each(wav_scp)
    if not allow_pipes and (command := next(filter(_is_command, recordings.values()), None)):
        raise UserError(
            f"{root / 'wav.scp'} holds commands, the first: {command!r}. They would be run by a "
            "shell: read them, then use --allow-pipes."
        )
    speakers = _once_each(root / "utt2spk") if (root / "utt2spk").is_file() else {}
    segments = _segments(root / "segments")
    for key, text in _pairs(existing_file(root / "text", what="text of a Kaldi data directory")):
        extra = {"id": key}
        recording = key
        offset = duration = 0.0
        if segments is not None:
            recording, offset, duration = _segment(segments.get(key), extra)
        path = recordings.get(recording)
        pipe: KaldiPipe | None = None
        if path is None:
            extra.setdefault("bad_row", f"{recording} is not in wav.scp")
            path = str(root / recording)
        elif _is_command(path):
            pipe = KaldiPipe(path.rstrip().removesuffix("|").rstrip())
            path = str(pipe)
        else:
            path = os.path.normpath(Path(audio_root or "") / path)
        yield Utterance(
            audio_filepath=path,
            duration=duration,
            text=text,
            offset=offset,
            speaker=speakers.get(key),
            extra=extra,
            pipe=pipe,
        )


def _segments(path: Path) -> dict[str, list[str]] | None:
    """The fields of each segment; None if recordings are not divided."""
    if not path.is_file():
        return None
    return {key: value.split() for key, value in _once_each(path).items()}


def _is_command(value: str) -> bool:
    """Kaldi's notation in wav.scp: what ends in a bar is a command and not a path."""
    return value.rstrip().endswith("|")


def _segment(fields: list[str] | None, extra: dict) -> tuple[str, float, float]:
    """(recording, offset, duration) of the value of a segments line: recording, begin, end in
    seconds; an end of -1 is the recording's.
    """
    if not fields or len(fields) < 3:
        shown = f": {' '.join(fields)}" if fields else ""
        extra["bad_row"] = f"no usable line in segments{shown}"
        return "", 0.0, 0.0
    try:
        if float(fields[2]) == -1:
            return fields[0], parse_seconds(fields[1], "begin"), 0.0
        return fields[0], *stretch(fields[1], fields[2])
    except ValueError as error:
        extra["bad_row"] = f"no usable line in segments: {' '.join(fields)}: {error}"
    return "", 0.0, 0.0


def _once_each(path: Path) -> dict[str, str]:
    """{key: rest of its line}. Raises UserError for a key with two different lines."""
    found: dict[str, str] = {}
    for key, value in _pairs(path):
        if found.setdefault(key, value) != value:
            raise UserError(
                f"{path} names {key} twice: {found[key][:60]!r} and {value[:60]!r}. "
                "Which is meant? utils/validate_data_dir.sh finds such lines."
            )
    return found


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """(key, rest) of each line that is not blank. A space or a tab ends the key, whatever follows:
    speechocean762 has tabs before texts of several words.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in filter(None, map(str.strip, lines)):
            key, *rest = re.split("[ \t]+", line, maxsplit=1)
            yield key, "".join(rest)
