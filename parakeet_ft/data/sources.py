"""What a name in the settings stands for: files of utterances, one after the other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from parakeet_ft.data import cache
from parakeet_ft.data.manifest import Utterance, stream_manifest
from parakeet_ft.files import file_hash


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of lines, and the tar with their audio if they have one."""

    manifest: str
    tar: str | None = None
    kind: Literal["manifest", "nemo", "shar"] = "manifest"


def expand(name: str) -> list[Source]:
    """The files that one name in the settings stands for."""
    return [Source(name)]


def stream(source: Source, *, needs_text: bool = True) -> Iterator[Utterance]:
    """The utterances of a source, their paths absolute."""
    return stream_manifest(source.manifest, needs_text=needs_text)


def fingerprint(source: Source) -> str:
    """The identity of a source's content."""
    path = Path(source.manifest)
    about = path.stat()
    key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"
    name = f"hash-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return cache.kept_facts(name, lambda: {"hash": file_hash(path)})["hash"]
