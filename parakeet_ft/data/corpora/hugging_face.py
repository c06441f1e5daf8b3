"""A dataset of the Hugging Face library, saved on disk or named on the hub; its audio bytes are
written out once and then read as files.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.data import tars
from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.corpora.table import SPEAKER_COLUMNS, TEXT_COLUMNS
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path

# The library's names of splits -> ours.
SPLIT_NAMES = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}


class AudioTar:
    """Audio bytes in one tar, each content once; where a file for each would be too many."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.members: dict[str, Member] = {}
        self.tar: tarfile.TarFile | None = None
        if self.path.is_file():
            try:
                offsets = tars.index_of(str(self.path), write_beside=False)
                for member in tars.members(str(self.path), offsets):
                    self.members[Path(member.name).stem] = member
            except UserError:  # a run was killed while it wrote
                self.path.unlink()

    def __enter__(self) -> None:
        """What is added can be read at the end."""

    def __exit__(self, *error: object) -> None:
        if self.tar is not None:
            self.tar.close()
            self.tar = None

    def add(self, content: bytes, *, suffix: str) -> Member:
        """The member with this content."""
        digest = _digest(content)
        if digest not in self.members:
            if self.tar is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.tar = tarfile.open(self.path, "a", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            header = tarfile.TarInfo(digest + suffix)
            header.size = len(content)
            start = self.tar.offset + tars.HEADER
            self.tar.addfile(header, io.BytesIO(content))
            self.members[digest] = Member(str(self.path), header.name, start, header.size)
        return self.members[digest]


def _digest(content: bytes) -> str:
    """What names a content."""
    return hashlib.blake2b(content, digest_size=10).hexdigest()


def load_hugging_face(
    name: str, *, config: str | None = None, split: str | None = None, streaming: bool = False
) -> dict[str, Any]:
    """{split: dataset} with audio undecoded, from a folder of save_to_disk or from the hub. Raises
    UserError if there is none.
    """
    import datasets

    try:
        if _is_saved(Path(name)):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(
            f"Cannot load the dataset {name!r}: {type(error).__name__}: {reason}. Expected a "
            "folder written by save_to_disk, a folder of Parquet files, or a name on the hub "
            "(which needs network)."
        ) from None
    if not hasattr(loaded, "keys"):
        return {split or str(getattr(loaded, "split", None) or "all"): loaded}
    parts = dict(loaded)
    return {split: parts[split]} if split is not None and split in parts else parts


def _is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote a folder."""
    names = ("dataset_info.json", "dataset_dict.json")
    return any((folder / name).is_file() for name in names)


def read_hugging_face(
    parts: dict[str, Any],
    *,
    keep_audio_in: Path | AudioTar,
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
) -> Iterator[Utterance]:
    """Yield the rows. Audio that the dataset holds as bytes goes to `keep_audio_in`, named by its
    content; paths are used as they are. What goes into a tar can be read once all rows were.
    """
    columns = (audio_column, text_column, speaker_column)
    if isinstance(keep_audio_in, AudioTar):
        with keep_audio_in:
            yield from _rows(parts, keep_audio_in, *columns)
    else:
        yield from _rows(parts, keep_audio_in, *columns)


def _rows(
    parts: dict[str, Any],
    keep_audio_in: Path | AudioTar,
    audio_column: str | None,
    text_column: str | None,
    speaker_column: str | None,
) -> Iterator[Utterance]:
    """The rows of all parts. Raises UserError for a column that is not there."""
    import datasets

    for split, part in parts.items():
        features = part.features
        kinds = features.items()
        audio_columns = [name for name, kind in kinds if isinstance(kind, datasets.Audio)]
        audio_column = audio_column or next(iter(audio_columns), None)
        text_column = text_column or _first(TEXT_COLUMNS, features)
        speaker_column = speaker_column or _first(SPEAKER_COLUMNS, features)
        _check_column("audio", audio_column, features)
        _check_column("text", text_column, features)
        if audio_column in audio_columns:
            part = part.cast_column(audio_column, datasets.Audio(decode=False))
        for row in part:
            extra = _further_fields(row, used=(audio_column, text_column, speaker_column))
            if split in SPLIT_NAMES and len(parts) > 1:
                extra["split"] = SPLIT_NAMES[split]
            path, member = _audio(row[audio_column], keep_audio_in, extra)
            yield Utterance(
                audio_filepath=path,
                duration=0.0,
                text=row[text_column] or "",
                speaker=_name(row.get(speaker_column)),
                extra=extra,
                member=member,
            )


def _name(speaker: Any) -> str | None:
    """A speaker's name or number as text, None if there is none."""
    return None if speaker is None else str(speaker)


def _first(names: Iterable[str], features: Iterable[str]) -> str | None:
    """The first of the names that a dataset has."""
    return next((name for name in names if name in features), None)


def _check_column(what: str, column: str | None, features: Collection[str | None]) -> None:
    """Raise UserError unless a dataset has the column."""
    if column not in features:
        known = ", ".join(map(str, features))
        raise UserError(
            f"The dataset has no {what} column {column or ''}; it has {known}. "
            f"Name it with --{what}-column."
        )


def _further_fields(row: dict[str, Any], *, used: Collection[str | None]) -> dict[str, Any]:
    """The texts and numbers of a row that are not used otherwise."""
    extra = {}
    for key, value in row.items():
        if key not in used and isinstance(value, str | int | float) and value != "":
            extra[key] = value
    return extra


def _audio(cell: Any, place: Path | AudioTar, extra: dict[str, Any]) -> tuple[str, Member | None]:
    """The path in a cell, or that of a file or member with its bytes; without either, a word in
    `extra`.
    """
    if isinstance(cell, str):
        return cell, None
    cell = cell or {}
    content = cell.get("bytes")
    name = cell.get("path") or ""
    if not content and not name:
        extra["bad_row"] = "no audio in this row"
        return str(place.path if isinstance(place, AudioTar) else place), None
    if content is None:
        return name, None
    suffix = Path(name).suffix
    if isinstance(place, AudioTar):
        member = place.add(content, suffix=suffix)
        return member.path, member
    return str(_written_once(content, place, suffix=suffix)), None


def _written_once(content: bytes, folder: Path, *, suffix: str) -> Path:
    """A file in `folder` with this content, named by it."""
    digest = _digest(content)
    path = folder / digest[:2] / (digest + suffix)
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path
