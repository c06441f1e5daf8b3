"""The domain's terms, words or phrases: which they are, and how many of them are recognised. Pure.

The **keyword error rate** is the share of the terms' occurrences in the references that were
missed. An occurrence is a place where a term's words follow each other; each term counts by itself,
inside a longer one and where it overlaps itself too. It is recognised if the alignment of words
that the WER counts matches all its words and puts nothing between them. Of several alignments with
the fewest errors the one that recognises most counts. Terms that were heard beyond those are
**false**. Texts are compared as they are, case and punctuation included.

NeMo's F-score of context biasing (`compute_fscore`) is the same but for two things: there one
alignment of several decides by chance, and words may be put between those of a phrase. The B-WER
of work on biasing counts single words of terms; half a phrase is half right there.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import kaldialign
import numpy as np

# Pairs of words of an utterance up to which all its best alignments are looked at, beyond it one:
# an hour would take minutes.
MOST_PAIRS = 1_000_000
# Words of a phrase that is found.
LONGEST = 3


class Place(NamedTuple):
    """Where a term, by its number, ends: the index behind its last word. And its words."""

    end: int
    length: int
    term: int


@dataclasses.dataclass(frozen=True)
class TermCounts:
    """Occurrences in the references, those recognised, and occurrences in the hypotheses: of each
    utterance (N, 3) and of each term (T, 3).
    """

    terms: tuple[str, ...]
    by_utterance: np.ndarray
    by_term: np.ndarray

    @property
    def missed(self) -> np.ndarray:
        """Occurrences that were not recognised, by utterance (N)."""
        return self.by_utterance[:, 0] - self.by_utterance[:, 1]

    @property
    def errors(self) -> np.ndarray:
        """Missed ones and false ones, by utterance (N)."""
        return self.missed + self.by_utterance[:, 2] - self.by_utterance[:, 1]


def count_terms(
    references: Sequence[str], hypotheses: Sequence[str], terms: Sequence[str]
) -> TermCounts:
    """Count `terms` in texts of the same number and order; a term that is listed twice is one.
    Raises ValueError if the lengths differ.
    """
    named = tuple(dict.fromkeys(" ".join(term.split()) for term in terms))
    numbers = {tuple(term.split()): number for number, term in enumerate(named) if term}
    lengths = sorted({len(words) for words in numbers})
    by_utterance = np.zeros((len(references), 3), dtype=np.int64)
    by_term = np.zeros((len(named), 3), dtype=np.int64)
    for row, reference, hypothesis in zip(by_utterance, references, hypotheses, strict=True):
        words = reference.split(), hypothesis.split()
        said, heard = (_places(some, numbers, lengths) for some in words)
        found = _recognised(*words, said, heard)
        for column, places in enumerate((said, found, heard)):
            row[column] = len(places)
            np.add.at(by_term[:, column], [place.term for place in places], 1)
    return TermCounts(named, by_utterance, by_term)


def _places(
    words: Sequence[str], numbers: dict[tuple[str, ...], int], lengths: Sequence[int]
) -> list[Place]:
    """All terms in a text."""
    return [
        Place(end, length, numbers[term])
        for end in range(1, len(words) + 1)
        for length in lengths
        if length <= end and (term := tuple(words[end - length : end])) in numbers
    ]


def _recognised(
    reference: Sequence[str],
    hypothesis: Sequence[str],
    said: Sequence[Place],
    heard: Sequence[Place],
) -> Sequence[Place]:
    """Those of `said` that are recognised."""
    possible = sum((_numbers(said) & _numbers(heard)).values())
    if not possible:
        return []
    ending: dict[int, list[Place]] = {}
    for place in said:
        ending.setdefault(place.end, []).append(place)
    found = _of_one_alignment(reference, hypothesis, ending)
    if len(found) == possible or len(reference) * len(hypothesis) > MOST_PAIRS:
        return found
    return _of_all_alignments(reference, hypothesis, ending)


def _numbers(places: Iterable[Place]) -> Counter[int]:
    """How often each term occurs."""
    return Counter(place.term for place in places)


def _of_one_alignment(
    reference: Sequence[str], hypothesis: Sequence[str], ending: dict[int, list[Place]]
) -> list[Place]:
    """What one alignment with the fewest errors recognises."""
    found: list[Place] = []
    position, run = 0, 0  # words of the reference so far, and matched ones in a row
    for said, heard in kaldialign.align(list(reference), list(hypothesis), ""):
        position += bool(said)
        run = run + 1 if said == heard else 0
        if run:
            found += [place for place in ending.get(position, ()) if place.length <= run]
    return found


def _of_all_alignments(
    reference: Sequence[str], hypothesis: Sequence[str], ending: dict[int, list[Place]]
) -> tuple[Place, ...]:
    """The most that an alignment with the fewest errors recognises.

    A cell of the table holds the fewest errors up to there and, by the number of matched words in a
    row at its end, the most that alignments with so few errors recognise.
    """
    longest = max(place.length for places in ending.values() for place in places)
    above: list[tuple[int, dict[int, tuple[Place, ...]]]]
    above = [(errors, {0: ()}) for errors in range(len(hypothesis) + 1)]
    for position, said in enumerate(reference, start=1):
        row: list[tuple[int, dict[int, tuple[Place, ...]]]] = [(position, {0: ()})]
        for column, heard in enumerate(hypothesis, start=1):
            diagonal = above[column - 1]
            ways = [(row[-1][0] + 1, row[-1][1]), (above[column][0] + 1, above[column][1])]
            fewest = min(*(errors for errors, _ in ways), diagonal[0] + (said != heard))
            if said != heard:
                ways.append((diagonal[0] + 1, diagonal[1]))
            ends = [found for errors, runs in ways if errors == fewest for found in runs.values()]
            best = {0: max(ends, key=len)} if ends else {}
            if said == heard and diagonal[0] == fewest:
                for run, found in diagonal[1].items():
                    now = min(run + 1, longest)
                    more = [place for place in ending.get(position, ()) if place.length <= now]
                    best[now] = max(best.get(now, ()), (*found, *more), key=len)
            row.append((fewest, best))
        above = row
    return max(above[-1][1].values(), key=len)


def rates(said: int, recognised: int, heard: int) -> dict[str, Any]:
    """Counts, and the rates that follow from them; None where there is nothing to divide by."""
    return {
        "occurrences": said,
        "recognised": recognised,
        "claimed": heard,
        "missed": said - recognised,
        "false": heard - recognised,
        "error_rate": _ratio(said - recognised, said),
        "recall": _ratio(recognised, said),
        "precision": _ratio(recognised, heard),
        "f_score": _ratio(2 * recognised, said + heard),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def term_scores(
    references: Sequence[str], hypotheses: Sequence[str], terms: Sequence[str]
) -> dict[str, Any]:
    """`rates` of all occurrences of `terms`, and a row for each term, most frequent first."""
    found = count_terms(references, hypotheses, terms)
    rows = [
        {"term": term} | rates(*map(int, counts))
        for term, counts in zip(found.terms, found.by_term, strict=True)
    ]
    rows.sort(key=lambda row: (-row["occurrences"], row["term"]))
    return rates(*map(int, found.by_utterance.sum(axis=0))) | {"terms": rows}


def validation_metrics(
    references: Sequence[str], hypotheses: Sequence[str], terms: Sequence[str]
) -> dict[str, float]:
    """The keyword error rate, and how many were falsely heard for each that was said; nothing where
    none was said.
    """
    said, recognised, heard = count_terms(references, hypotheses, terms).by_utterance.sum(axis=0)
    if not said:
        return {}
    return {
        "val_ker": float((said - recognised) / said),
        "val_false_terms": float((heard - recognised) / said),
    }


def find_terms(
    domain: Sequence[str],
    general: Sequence[str],
    *,
    most: int = 50,
    at_least: int = 3,
    times_rarer: float = 10.0,
    among: Sequence[str] | None = None,
) -> list[str]:
    """Words and phrases that occur `at_least` so often in the domain's texts and are `times_rarer`
    in general ones, those with most occurrences first.

    What general texts lack counts there as half an occurrence. A phrase has up to LONGEST words,
    begins and ends with such a word, and most that begin it end it, and most that end it began it;
    a part of it is a term only if it occurs often enough without it. among: texts in which terms
    must occur `at_least` so often too.
    """
    wanted = None if among is None else _frequent(among, at_least)
    here, num_here = _phrase_counts(domain, wanted)
    there, num_there = _phrase_counts(general, set(here))
    factor = times_rarer * num_here / max(num_there, 1)
    typical = {
        phrase: count
        for phrase, count in here.items()
        if count >= max(at_least, factor * max(there[phrase], 0.5))
    }
    whole = {phrase: n for phrase, n in typical.items() if _is_one(phrase, here, typical)}
    found = _without_parts(whole, at_least)
    ordered = sorted(found, key=lambda phrase: (-here[phrase], phrase))
    return [" ".join(phrase) for phrase in ordered[:most]]


Phrase = tuple[str, ...]


def _frequent(texts: Iterable[str], at_least: int) -> set[Phrase]:
    """What occurs so often; with a phrase all its parts."""
    counts, _ = _phrase_counts(texts, None)
    return {phrase for phrase, count in counts.items() if count >= at_least}


def _phrase_counts(texts: Iterable[str], wanted: set[Phrase] | None) -> tuple[Counter[Phrase], int]:
    """How often each phrase of up to LONGEST words occurs, only those `wanted` if given; and the
    number of words.
    """
    counts: Counter[Phrase] = Counter()
    num_words = 0
    for text in texts:
        words = tuple(text.split())
        num_words += len(words)
        for length in range(1, LONGEST + 1):
            phrases = (words[i : i + length] for i in range(len(words) - length + 1))
            counts.update(p for p in phrases if wanted is None or p in wanted)
    return counts, num_words


def _is_one(phrase: Phrase, counts: Counter[Phrase], typical: Mapping[Phrase, int]) -> bool:
    """Whether its words belong together."""
    if len(phrase) == 1:
        return True
    if phrase[:1] not in typical or phrase[-1:] not in typical:
        return False
    return 2 * counts[phrase] > max(counts[phrase[:-1]], counts[phrase[1:]])


def _without_parts(typical: dict[Phrase, int], at_least: int) -> list[Phrase]:
    """Phrases, less those that hardly occur but in a longer one."""
    kept: list[Phrase] = []
    for phrase in sorted(typical, key=len, reverse=True):
        longer = (other for other in kept if _holds(other, phrase))
        if all(typical[phrase] - typical[other] >= at_least for other in longer):
            kept.append(phrase)
    return kept


def _holds(longer: Phrase, phrase: Phrase) -> bool:
    """Whether a phrase is a part of another."""
    places = range(len(longer) - len(phrase) + 1)
    return len(longer) > len(phrase) and any(longer[i : i + len(phrase)] == phrase for i in places)
