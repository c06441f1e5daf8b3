"""LibriSpeech and what shares its layout (MLS is not among them):
SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside FLAC files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_folder
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError


def read_librispeech(folder: str | Path, *, suffix: str = ".flac") -> Iterator[Utterance]:
    """Yield the utterances of a LibriSpeech folder or one subset of it. The split is the beginning
    of the subset's name (train-clean-100).
    """
    root, found = existing_folder(folder), False
    for place, names, files in os.walk(root):
        names.sort()
        for name in sorted(f for f in files if f.endswith(".trans.txt")):
            found = True
            subset = next(
                (
                    part
                    for part in reversed(Path(place).parts)
                    if part.split("-")[0] in ("train", "dev", "test")
                ),
                "",
            )
            extra = {"split": subset.split("-")[0], "subset": subset} if subset else {}
            for line in (
                Path(place, name)
                .read_text(encoding="utf-8-sig", errors="surrogateescape")
                .splitlines()
            ):
                key, _, text = line.partition(" ")
                if key:
                    yield Utterance(
                        audio_filepath=str(Path(place, key + suffix)),
                        duration=0.0,
                        text=text,
                        speaker=key.split("-")[0],
                        extra=dict(extra),
                    )
    if not found:
        raise UserError(
            f"{root} holds no *.trans.txt; expected LibriSpeech's layout SUBSET/SPEAKER/CHAPTER/."
        )
