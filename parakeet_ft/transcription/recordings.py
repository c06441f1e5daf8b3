"""What there is to transcribe: files, folders and manifests -> recordings with the names that their
transcripts will have.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import layouts, storage
from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.corpora.folder import walk_audio
from parakeet_ft.data.sources import read_all
from parakeet_ft.errors import UserError
from parakeet_ft.settings.manifests import weighted
from parakeet_ft.urls import without_secrets


@dataclasses.dataclass(frozen=True)
class Recording:
    """A file, or `duration` seconds of it from `offset`. `name` is its transcript's path without
    suffix; `fields` come from its manifest.
    """

    path: str
    name: str
    offset: float = 0.0
    duration: float | None = None
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    member: Member | None = None

    @property
    def source(self) -> str | Member:
        """Where the audio is read from."""
        return self.member or self.path

    def key(self) -> str:
        """Identity of the audio: path, stretch, and the file's size and time of change. A file that
        changed is another recording.
        """
        version: Any = None
        if self.member and storage.is_remote(self.member.file):
            version = storage.version(self.member.file)
        else:
            with contextlib.suppress(OSError):
                status = os.stat(self.member.file if self.member else self.path)
                version = (status.st_size, status.st_mtime_ns)
        path = self.path if self.member else os.path.abspath(self.path)
        identity = [path, self.offset, self.duration, version]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]


def collect_recordings(sources: Sequence[str]) -> list[Recording]:
    """Recordings in the order given; a folder's are sorted by path, and their transcripts keep its
    tree.

    Raises UserError for what does not exist, and for a folder without audio. Whether a file is
    audio shows when it is decoded.
    """
    found = [recording for source in sources for recording in _expand(without_secrets(str(source)))]
    return [
        dataclasses.replace(recording, name=name)
        for recording, name in zip(found, _distinct(found), strict=True)
    ]


def _expand(source: str) -> Iterator[Recording]:
    """The recordings that a source stands for. Raises UserError if there are none."""
    place = Path(source)
    if layouts.names_lines(source):
        yield from _of_manifest(source)
    elif storage.is_remote(source):
        yield Recording(source, Path(source).stem, member=Member(source, "", 0, -1))
    elif place.is_dir():
        yield from _of_folder(place)
    elif not place.is_file():
        raise UserError(
            f"Nothing at {source}. Expected audio files, folders of audio or shards, or manifests "
            "(.jsonl, .json)."
        )
    else:
        yield Recording(source, place.stem)


def _of_folder(folder: Path) -> Iterator[Recording]:
    """All audio below a folder. Raises UserError if there is none."""
    paths = list(walk_audio(folder))
    if not paths:
        raise UserError(
            f"The folder {folder} holds no audio file (by suffix: .wav, .flac, .mp3, .opus, "
            ".m4a, .mp4 ...). Give another folder, or the files by name."
        )
    for path in paths:
        yield Recording(str(path), str(path.relative_to(folder).with_suffix("")))


def _of_manifest(manifest: str) -> Iterator[Recording]:
    """A recording a line, named by its stretch where its file has more of them."""
    rows = read_all(weighted(manifest), needs_text=False)
    parts = collections.Counter(row.audio_filepath for row in rows)
    for row in rows:
        name = Path(row.audio_filepath).stem
        if row.offset or parts[row.audio_filepath] > 1:
            name += f"_{row.offset:.2f}-{row.offset + row.duration:.2f}"
        fields = json.loads(row.to_json())
        yield Recording(
            row.audio_filepath, name, row.offset, row.duration, fields=fields, member=row.member
        )


def _distinct(recordings: Sequence[Recording]) -> list[str]:
    """Names, each once: where two would be the same, the file's suffix is added; where that does
    not help, a number.
    """
    shared = collections.Counter(recording.name for recording in recordings)
    names = [r.name if shared[r.name] == 1 else r.name + Path(r.path).suffix for r in recordings]
    taken: set[str] = set()
    for index, name in enumerate(names):
        number = 2
        while names[index] in taken:
            names[index] = f"{name}-{number}"
            number += 1
        taken.add(names[index])
    return names
