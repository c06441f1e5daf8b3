"""A dataset of the Hugging Face library, saved on disk or named on the hub; its audio bytes are
written out once and then read as files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.data.corpora.table import SPEAKER_COLUMNS, TEXT_COLUMNS
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path

# The library's names of splits -> ours.
SPLIT_NAMES = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}


def load_hugging_face(
    name: str, *, config: str | None = None, split: str | None = None, streaming: bool = False
) -> dict[str, Any]:
    """{split: dataset} with audio undecoded, from a folder of save_to_disk or from the hub. Raises
    UserError if there is none.
    """
    import datasets

    try:
        if Path(name).is_dir() and (
            (Path(name) / "dataset_info.json").is_file()
            or (Path(name) / "dataset_dict.json").is_file()
        ):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except Exception as error:
        raise UserError(
            f"Cannot load the dataset {name!r}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}. "
            f"Expected a "
            "folder written by save_to_disk, a folder of Parquet files, or a name on the hub "
            "(which needs network)."
        ) from None
    parts = (
        dict(loaded)
        if hasattr(loaded, "keys")
        else {split or str(getattr(loaded, "split", None) or "all"): loaded}
    )
    if split is not None and split in parts:
        parts = {split: parts[split]}
    return parts


def read_hugging_face(
    parts: dict[str, Any],
    *,
    keep_audio_in: Path,
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
) -> Iterator[Utterance]:
    """Yield the rows. Audio that the dataset holds as bytes goes to `keep_audio_in`, named by its
    content; paths are used as they are.
    """
    import datasets

    for split, part in parts.items():
        features = part.features
        audio_column = audio_column or next(
            (name for name, kind in features.items() if isinstance(kind, datasets.Audio)), None
        )
        text_column = text_column or next((name for name in TEXT_COLUMNS if name in features), None)
        speaker_column = speaker_column or next(
            (name for name in SPEAKER_COLUMNS if name in features), None
        )
        for what, column in (("audio", audio_column), ("text", text_column)):
            if column not in features:
                raise UserError(
                    f"The dataset has no {what} column {column or ''}; it has "
                    f"{', '.join(features)}. Name it with "
                    f"--{what}-column."
                )
        if isinstance(features[audio_column], datasets.Audio):
            part = part.cast_column(audio_column, datasets.Audio(decode=False))
        for row in part:
            extra = {
                k: v
                for k, v in row.items()
                if k not in (audio_column, text_column, speaker_column)
                and isinstance(v, str | int | float)
                and v != ""
            }
            if split in SPLIT_NAMES and len(parts) > 1:
                extra["split"] = SPLIT_NAMES[split]
            speaker = row.get(speaker_column) if speaker_column else None
            yield Utterance(
                audio_filepath=_audio_path(row[audio_column], keep_audio_in, extra),
                duration=0.0,
                text=row[text_column] or "",
                speaker=None if speaker is None else str(speaker),
                extra=extra,
            )


def _audio_path(cell: Any, folder: Path, extra: dict) -> str:
    if isinstance(cell, str):
        return cell
    if not cell or not (cell.get("bytes") or cell.get("path")):
        extra["bad_row"] = "no audio in this row"
        return str(folder)
    if cell.get("bytes") is None:
        return cell["path"]
    digest = hashlib.blake2b(cell["bytes"], digest_size=10).hexdigest()
    path = folder / digest[:2] / (digest + Path(cell.get("path") or "").suffix)
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(cell["bytes"])
    return str(path)
