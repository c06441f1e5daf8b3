"""Speakers of the validation set whom training has too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parakeet_ft.data.corpus import as_corpus
from parakeet_ft.data.manifest import Utterance


def known_voices(sets: Mapping[str, Sequence[Utterance]]) -> list[str]:
    """A line on the speakers of "validation" who are in "train", if there are any; sets by role."""
    chosen_by = voices(sets["validation"])
    known = chosen_by & voices(sets.get("train", []))
    if not known:
        return []
    who = f"{len(known)} of {len(chosen_by)} speakers"
    if len(chosen_by) == 1:
        who = "The only speaker"
    have = "is" if len(known) == 1 else "are"
    return [
        f"{who} of data.validation {have} in data.train: best.nemo is chosen on voices that "
        "training had, so it may be one that is worse than last.nemo, or than the checkpoint, on "
        "new voices. `python data_prep/split.py` divides by speaker; for a model that will hear "
        "these voices only, all is well."
    ]


def voices(utterances: Sequence[Utterance]) -> set[str]:
    """The speakers that are known, from the columns' names, without a look at the rows."""
    return {name for part in as_corpus(utterances).parts for name in part.rows.strings["speakers"]}
