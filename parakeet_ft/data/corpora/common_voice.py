"""Mozilla Common Voice, one language: clips/ and train.tsv, dev.tsv, test.tsv, or validated.tsv for
splits of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from parakeet_ft.data.corpora.folder import existing_folder
from parakeet_ft.data.corpora.table import Record, read_quoteless
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError

# Columns -> further fields.
KEPT = {
    "age": "age",
    "gender": "gender",
    "accents": "accents",
    "variant": "variant",
    "bad_row": "bad_row",
    "locale": "lang",
}
SPLITS = ("train", "dev", "test")


def read_common_voice(folder: str | Path, *, tables: Sequence[str] = SPLITS) -> Iterator[Utterance]:
    """Yield the utterances of these tables; those named train, dev and test give the split, and
    client_id is the speaker.
    """
    root = existing_folder(folder)
    if missing := [name for name in tables if not (root / f"{name}.tsv").is_file()]:
        there = ", ".join(sorted(p.stem for p in root.glob("*.tsv"))) or "no .tsv at all"
        raise UserError(
            f"{root} lacks {', '.join(f'{name}.tsv' for name in missing)}; it has {there}. "
            "Expected one language of Common Voice."
        )
    for name in tables:
        for record in read_quoteless(root / f"{name}.tsv"):
            yield _utterance(record, name, root / "clips")


def _utterance(record: Record, table: str, clips: Path) -> Utterance:
    """A row of a table as an utterance."""
    extra = {key: record[column] for column, key in KEPT.items() if record.get(column)}
    if table in SPLITS:
        extra["split"] = table
    return Utterance(
        audio_filepath=str(clips / (record.get("path") or "")),
        duration=0.0,
        text=record.get("sentence") or "",
        speaker=record.get("client_id") or None,
        extra=extra,
    )
