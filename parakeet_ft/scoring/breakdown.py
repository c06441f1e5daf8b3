"""Where the errors are: by duration, level, speaker or any field of the manifest; what is confused;
what is heard in silence. Pure.

Rows are plain dicts with `group`, utterances, words, wer, errors, substitutions, deletions and
insertions. `normalizer` is applied to both sides before they are compared (see normalization.py);
by default texts are compared as they are.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.scoring import wer

DURATION_EDGES = (2.0, 5.0, 10.0, 20.0)
LEVEL_EDGES = (-50.0, -40.0, -30.0, -20.0)
UNKNOWN = "(not given)"

Normalizer = Callable[[str], str]


def by_group(
    groups: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    normalizer: Normalizer = str,
) -> list[dict[str, Any]]:
    """One row for each different name in `groups`, which has one for each utterance, in the order
    in which the names first occur.
    """
    counts = wer.word_errors(
        [normalizer(text) for text in references], [normalizer(text) for text in hypotheses]
    )
    totals, rows = wer.sum_by(groups, counts), []
    sizes = Counter(groups)
    for group, total in totals.items():
        substitutions, deletions, insertions, words = (int(n) for n in total)
        errors = substitutions + deletions + insertions
        rows.append(
            {
                "group": group,
                "utterances": sizes[group],
                "words": words,
                "wer": errors / max(words, 1),
                "errors": errors,
                "substitutions": substitutions,
                "deletions": deletions,
                "insertions": insertions,
            }
        )
    return rows


def by_duration(
    utterances: Sequence[Utterance],
    hypotheses: Sequence[str],
    *,
    edges: Sequence[float] = DURATION_EDGES,
    normalizer: Normalizer = str,
) -> list[dict[str, Any]]:
    """Rows by duration in seconds, shortest first; an edge belongs to the longer side, a range
    without utterances has no row.
    """
    return _by_range(
        [u.duration for u in utterances],
        utterances,
        hypotheses,
        edges=edges,
        unit="s",
        normalizer=normalizer,
    )


def by_level(
    utterances: Sequence[Utterance],
    hypotheses: Sequence[str],
    levels_dbfs: Sequence[float],
    *,
    edges: Sequence[float] = LEVEL_EDGES,
    normalizer: Normalizer = str,
) -> list[dict[str, Any]]:
    """Rows by the level of each utterance in dBFS (transcribe() measures it), quietest first."""
    return _by_range(
        levels_dbfs, utterances, hypotheses, edges=edges, unit="dBFS", normalizer=normalizer
    )


def by_field(
    utterances: Sequence[Utterance],
    hypotheses: Sequence[str],
    field: str,
    *,
    normalizer: Normalizer = str,
) -> list[dict[str, Any]]:
    """Rows by `speaker` or any other field of the manifest, most errors first; empty if no
    utterance has it.
    """
    values = [u.speaker if field == "speaker" else u.extra.get(field) for u in utterances]
    if all(value is None for value in values):
        return []
    rows = by_group(
        [UNKNOWN if value is None else str(value) for value in values],
        [u.text for u in utterances],
        hypotheses,
        normalizer=normalizer,
    )
    return sorted(rows, key=lambda row: (-row["errors"], row["group"]))


def confusions(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    top: int = 30,
    normalizer: Normalizer = str,
) -> list[dict[str, Any]]:
    """The most frequent differences as {reference, hypothesis, count}; the empty string stands for
    a word left out or put in.
    """
    pairs = Counter(
        pair
        for reference, hypothesis in zip(references, hypotheses, strict=True)
        for pair in wer.word_diff(normalizer(reference), normalizer(hypothesis))
        if pair[0] != pair[1]
    )
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [
        {"reference": reference, "hypothesis": hypothesis, "count": count}
        for (reference, hypothesis), count in ranked
    ]


def non_speech(utterances: Sequence[Utterance], hypotheses: Sequence[str]) -> dict[str, Any] | None:
    """What was heard where the reference is empty: utterances, minutes, words and words a minute;
    None if no reference is empty.
    """
    chosen = [
        (u, text) for u, text in zip(utterances, hypotheses, strict=True) if not u.text.strip()
    ]
    if not chosen:
        return None
    minutes = sum(u.duration for u, _ in chosen) / 60
    words = sum(len(text.split()) for _, text in chosen)
    return {
        "utterances": len(chosen),
        "with_words": sum(bool(text.strip()) for _, text in chosen),
        "minutes": minutes,
        "words": words,
        "words_per_minute": words / minutes if minutes else 0.0,
    }


def _by_range(
    values: Sequence[float],
    utterances: Sequence[Utterance],
    hypotheses: Sequence[str],
    *,
    edges: Sequence[float],
    unit: str,
    normalizer: Normalizer,
) -> list[dict[str, Any]]:
    """A breakdown by ranges of a number."""
    names = [
        f"below {edges[0]:g} {unit}",
        *(f"{low:g} to {high:g} {unit}" for low, high in itertools.pairwise(edges)),
        f"{edges[-1]:g} {unit} and above",
    ]
    groups = [names[sum(value >= edge for edge in edges)] for value in values]
    rows = by_group(groups, [u.text for u in utterances], hypotheses, normalizer=normalizer)
    return sorted(rows, key=lambda row: names.index(row["group"]))
