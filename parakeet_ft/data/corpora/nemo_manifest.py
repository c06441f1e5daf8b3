"""Existing NeMo manifests, line by line: a line that is broken is a row with a reason, not the
end; and shards, as training names them (`layouts`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from parakeet_ft.data import layouts, sources, storage
from parakeet_ft.data.corpora.folder import existing_file
from parakeet_ft.data.manifest import ManifestError, Utterance, parse_line

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "eval": "test",
}


def read_manifests(
    paths: Sequence[str | Path], *, splits: Sequence[str] | None = None
) -> Iterator[Utterance]:
    """Yield the utterances of several manifests with absolute audio paths; `splits` gives each
    manifest's name in the field `split`.
    """
    for number, path in enumerate(paths):
        if not _is_plain(path):
            yield from _of_shards(str(path), splits[number] if splits else None)
            continue
        path = existing_file(path, what="manifest")
        folder, name = str(path.parent), str(path)
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line_number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    utterance = parse_line(line, f"{name} line {line_number}")
                except ManifestError as error:
                    utterance = Utterance(
                        audio_filepath=".", duration=0.0, text="", extra={"bad_row": str(error)}
                    )
                extra = utterance.extra | ({"split": splits[number]} if splits else {})
                yield Utterance(
                    os.path.normpath(os.path.join(folder, utterance.audio_filepath)),
                    utterance.duration,
                    utterance.text,
                    utterance.offset,
                    utterance.speaker,
                    extra,
                )


def _is_plain(path: str | Path) -> bool:
    """Whether a name is that of a manifest of single files of this machine, or of nothing."""
    name = str(path)
    is_other = storage.is_remote(name) or layouts.RANGE.search(name) or layouts.names_lines(name)
    if not is_other:
        return True
    return os.path.isfile(name) and layouts.expand(name)[0].kind == "manifest"


def _of_shards(name: str, split: str | None) -> Iterator[Utterance]:
    """The utterances of shards, or of another machine. Raises UserError for the first bad line."""
    for source in layouts.expand(name):
        for utterance in sources.stream(source):
            extra = utterance.extra | ({"split": split} if split else {})
            yield dataclasses.replace(utterance, extra=extra)


def split_names(paths: Sequence[str | Path]) -> list[str]:
    """A name for each manifest: train, dev or test where the file's name says so, else its stem;
    made unique.
    """
    names: list[str] = []
    for path in paths:
        words = Path(path).stem.lower().replace("-", "_").replace(".", "_").split("_")
        name = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), Path(path).stem)
        same = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{same + 1}" if same else name)
    return names
