"""Public test sets of the hub to manifests, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from parakeet_ft.data.audio import probe
from parakeet_ft.data.corpora.hugging_face import load_hugging_face, read_hugging_face
from parakeet_ft.data.manifest import Utterance, read_manifest, write_manifest
from parakeet_ft.errors import UserError


def fetch_set(
    path: str,
    *,
    config: str,
    split: str,
    folder: Path,
    normalizer: Callable[[str], str],
    ignored_references: Sequence[str],
) -> list[Utterance]:
    """One set of the dataset `path` (a name on the hub or a folder), its audio and manifest.jsonl
    in `folder`; read from there the next time.

    What is left out, as on the Open ASR Leaderboard: references that are empty once normalised, or
    one of `ignored_references`. Raises UserError if the dataset cannot be loaded, or nothing is
    left.
    """
    manifest = folder / "manifest.jsonl"
    if manifest.is_file():
        return read_manifest(manifest)
    ignored = {normalizer(text).strip() for text in ignored_references} | {""}
    # The splits of the hub's datasets are bare names, which parts read for training and testing
    # together would not be.
    try:
        parts = load_hugging_face(path, config=config, split=split)
    except UserError as error:
        raise UserError(
            f"{error} A local copy of the dataset is given as benchmark.path=DIR."
        ) from None
    found = [
        dataclasses.replace(
            u,
            audio_filepath=str(Path(u.audio_filepath).resolve()),
            duration=probe(u.audio_filepath).duration,
            extra={},
        )
        for u in read_hugging_face(parts, keep_audio_in=folder / "audio")
        if normalizer(u.text).strip() not in ignored
    ]
    if not found:
        raise UserError(f"{path}, {config}, {split} holds no utterance with a reference.")
    write_manifest(found, manifest)
    return found
