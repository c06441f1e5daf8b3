"""What is scored and trained on, too: the same stretches of audio, or the same text and length.

Columns are compared as arrays, of checksums where they are of text; only what agrees in those is
looked at.
"""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from parakeet_ft.data.corpus import Corpus, as_corpus
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.text import is_short
from parakeet_ft.errors import UserError
from parakeet_ft.settings.guards import key_of, roles


def check_overlap(sets: Mapping[str, Sequence[Utterance]], *, allowed: bool = False) -> list[str]:
    """Compare what is scored with what is trained on ("train" and every replay), by role.

    Raises UserError if a scored stretch of audio is trained on, unless `allowed`; then, and for
    utterances of the same text and length in other files, a warning a set.
    """
    learnt = ("train", *roles(sets, "replay").values())
    trained = {role: as_corpus(sets[role]) for role in learnt if sets.get(role)}
    scored: dict[str, Sequence[Utterance]] = {}
    for role in sets:
        # A validation set that serves as the test set, too, is told of once.
        if role not in trained and sets[role] and all(sets[role] is not s for s in scored.values()):
            scored[role] = sets[role]
    found = []
    warnings = []
    for role, other in itertools.product(scored, trained):
        utterances = scored[role]
        same = shared_stretches(utterances, trained[other])
        if same:
            shown = "; ".join(f"{u.audio_filepath} at {u.offset:g} s" for u in same[:2])
            found.append(
                f"{len(same)} of the {len(utterances)} utterances of data.{role} are in "
                f"{key_of(other)}: {shown}"
            )
        elif count := count_same_text_and_length(utterances, trained[other]):
            warnings.append(
                f"{count} of the {len(utterances)} utterances of data.{role} have the "
                f"text and the length of one in {key_of(other)}: is it the same "
                "audio under another name?"
            )
    if found and not allowed:
        raise UserError(
            "\n  ".join(
                ["What is scored must not be trained on, or the scores say nothing:", *found]
            )
            + "\n`python data_prep/split.py` divides a manifest; data.allow_overlap=true lets it "
            "pass."
        )
    return warnings + [f"{line}." for line in found]


def shared_stretches(scored: Sequence[Utterance], trained: Sequence[Utterance]) -> list[Utterance]:
    """The scored utterances of which more than half lies in one stretch that is trained on."""
    corpus = as_corpus(trained)
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths_of(scored)))}
    rows, files = _rows_of_files(corpus, numbers)
    if not len(rows):
        return []
    begins = corpus.numbers("offsets")[rows]
    ends = begins + corpus.numbers("durations")[rows]
    order = np.lexsort((begins, files))
    begins, ends, files = begins[order], ends[order], files[order]
    bounds = np.searchsorted(files, np.arange(len(numbers) + 1))
    shared = []
    for utterance in scored:
        number = numbers[utterance.audio_filepath]
        file = slice(bounds[number], bounds[number + 1])
        if _is_shared(utterance, begins[file], ends[file]):
            shared.append(utterance)
    return shared


def paths_of(utterances: Sequence[Utterance]) -> list[str]:
    """The paths of utterances."""
    return [utterance.audio_filepath for utterance in utterances]


def _rows_of_files(corpus: Corpus, numbers: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a corpus whose path has a number, and the number of each."""
    crcs = np.sort(np.array([_crc(path) for path in numbers], np.uint32))
    rows, files = [], []
    for start, part in zip(corpus.starts, corpus.parts, strict=False):
        paths = part.rows.strings["paths"]
        known = np.full(len(paths), -1, np.int32)
        for index in np.flatnonzero(among(part.rows.numbers["path_crcs"], crcs)):
            known[index] = numbers.get(paths[index], -1)
        found = known[part.rows.numbers["path_ids"]]
        here = np.flatnonzero(found >= 0)
        rows.append(start + here)
        files.append(found[here])
    return np.concatenate(rows), np.concatenate(files)


def _is_shared(utterance: Utterance, begins: np.ndarray, ends: np.ndarray) -> bool:
    """Whether more than half of an utterance lies in one of the stretches of its file, which are
    sorted by their beginnings.
    """
    if not len(begins):
        return False
    begin = utterance.offset
    end = utterance.offset + utterance.duration
    longest = (ends - begins).max()
    # Those that begin before this one ends, back to where none is long enough to reach it.
    last = np.searchsorted(begins, end)
    first = np.searchsorted(begins[:last], begin - longest, side="right")
    inside = np.minimum(ends[first:last], end) - np.maximum(begins[first:last], begin)
    return bool((inside > utterance.duration / 2).any())


def count_same_text_and_length(scored: Sequence[Utterance], trained: Sequence[Utterance]) -> int:
    """How many of the scored utterances have the text and the length of one that is trained on;
    short texts that others say are not counted.
    """
    mine = {_text_and_length(u) for u in scored if u.text}
    if not mine:
        return 0
    corpus = as_corpus(trained)
    crcs = np.sort(np.array([_crc(text) for text, _ in mine], np.uint32))
    lengths = np.sort(np.array([length for _, length in mine]))
    speakers: dict[tuple[str, float], set[str | None]] = defaultdict(set)
    for part in corpus.parts:
        rows = np.flatnonzero(among(part.rows.numbers["text_crcs"], crcs))
        durations = part.rows.numbers["durations"][rows]
        near = np.searchsorted(lengths, durations - 0.001) < np.searchsorted(
            lengths, durations + 0.001, side="right"
        )
        texts, names = part.rows.strings["texts"], part.rows.strings["speakers"]
        for row, length in zip(rows[near].tolist(), durations[near].tolist(), strict=True):
            if (found := (texts[row], round(length, 3))) in mine:
                number = part.rows.numbers["speaker_ids"][row]
                speakers[found].add(names[number] if number >= 0 else None)
    return sum(_said_alike(u, speakers.get(_text_and_length(u), ())) for u in scored)


def _said_alike(utterance: Utterance, speakers: Collection[str | None]) -> bool:
    """Whether an utterance may be the audio of one of these, of whom all say its text."""
    if utterance.speaker is None or None in speakers or not is_short(utterance.text):
        return bool(speakers)
    return utterance.speaker in speakers


def _text_and_length(utterance: Utterance) -> tuple[str, float]:
    """What two utterances of the same audio have in common."""
    return utterance.text, round(utterance.duration, 3)


def _crc(text: str) -> int:
    """The checksum that columns hold of a text."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def among(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Which of many values (N) are among a few, sorted ones: bool (N)."""
    if not len(few):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(few, values), len(few) - 1)
    return few[at] == values
