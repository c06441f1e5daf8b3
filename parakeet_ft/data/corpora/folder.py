"""A folder of audio with a text of the same name beside each file: a.wav and a.txt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.files import refuse_pipe

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".flac",
        ".mp3",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".mp4",
        ".aac",
        ".webm",
        ".mkv",
        ".mov",
        ".wma",
        ".aif",
        ".aiff",
        ".au",
        ".sph",
        ".caf",
        ".w64",
        ".amr",
        ".3gp",
    ]
)


def read_folder(
    folder: str | Path, *, text_suffix: str = ".txt", speaker_from: str | None = None
) -> Iterator[Utterance]:
    """Yield an utterance an audio file, in the order of the paths; one without a text comes with
    text "" and is dropped as empty.

    `speaker_from` is "folder" (the file's folder names the speaker) or "prefix" (what stands before
    the first "_" or "-" of its name).
    """
    root = existing_folder(folder)
    if speaker_from not in (None, "folder", "prefix"):
        raise UserError(f"--speaker-from is {speaker_from!r}, expected folder or prefix.")
    for path in walk_audio(root):
        text_path = path.with_suffix(text_suffix)
        text = (
            text_path.read_text(encoding="utf-8-sig", errors="surrogateescape")
            if text_path.is_file()
            else ""
        )
        speaker = {
            "folder": path.parent.name,
            "prefix": path.stem.replace("-", "_").split("_")[0],
        }.get(speaker_from or "")
        yield Utterance(audio_filepath=str(path), duration=0.0, text=text, speaker=speaker)


def existing_folder(folder: str | Path) -> Path:
    """The folder, absolute. Raises UserError if it is none."""
    path = Path(os.path.abspath(folder))
    if not path.is_dir():
        raise UserError(f"No folder at {folder}.")
    return path


def existing_file(path: str | Path, *, what: str) -> Path:
    """The path, absolute. Raises UserError saying `what` was expected there."""
    path = Path(os.path.abspath(path))
    refuse_pipe(path)
    if not path.is_file():
        raise UserError(f"No {what} at {path}.")
    return path


def walk_audio(root: Path) -> Iterator[Path]:
    """Audio files below a folder by their suffix, sorted, hidden ones left out."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def recordings_by_name(folder: Path) -> dict[str, str]:
    """Name without suffix -> path of the long recordings below a folder, and the same for the name
    with its folder. A bare name in two folders stands for neither; of two files in one folder
    (talk.mp4, talk.wav) it is the last."""
    found: dict[str, str] = {}
    ambiguous = set()
    for path in walk_audio(folder):
        if os.path.dirname(found.get(path.stem, path)) != str(path.parent):
            ambiguous.add(path.stem)
        found[path.stem] = found[os.path.join(path.parent, path.stem)] = str(path)
    return {name: path for name, path in found.items() if name not in ambiguous}


def recording_of(transcript: Path, recordings: dict[str, str]) -> str | None:
    """The recording of a transcript's name, the one beside it before one elsewhere; a language
    (talk.en) may stand after the name."""
    names = (transcript.stem, transcript.stem.rsplit(".", 1)[0])
    places = [os.path.join(transcript.parent, name) for name in names] + list(names)
    return next((recordings[place] for place in places if place in recordings), None)
