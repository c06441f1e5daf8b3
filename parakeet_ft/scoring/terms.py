"""The domain's terms, words or phrases: which they are, and how many of them are recognised.
Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


def find_terms(
    domain: Sequence[str],
    general: Sequence[str],
    *,
    most: int = 50,
    at_least: int = 3,
    times_rarer: float = 10.0,
) -> list[str]:
    """Words that occur `at_least` so often in the domain's texts and are `times_rarer` in general
    ones, those with most occurrences first.

    A word that general texts lack counts there as half an occurrence.
    """
    here = _word_counts(domain)
    there = _word_counts(general)
    num_here = sum(here.values())
    num_there = max(sum(there.values()), 1)
    found = []
    for word, count in here.items():
        share_there = max(there[word], 0.5) / num_there
        if count >= at_least and count / num_here >= times_rarer * share_there:
            found.append(word)
    return sorted(found, key=lambda word: (-here[word], word))[:most]


def _word_counts(texts: Sequence[str]) -> Counter[str]:
    """How often each word occurs."""
    return Counter(word for text in texts for word in text.split())


def _occurrences(words: Sequence[str], term: tuple[str, ...]) -> int:
    """How often a term of some words stands among others."""
    return sum(tuple(words[i : i + len(term)]) == term for i in range(len(words) - len(term) + 1))


def term_scores(
    references: Sequence[str], hypotheses: Sequence[str], terms: Sequence[str]
) -> dict[str, Any]:
    """Recall, precision and F-score of all occurrences of `terms`, and a row for each term, most
    frequent first.

    An occurrence in a reference is recognised if its utterance's hypothesis has the term too, each
    counted once; where no occurrence is there to divide by, the figure is None.
    """
    rows = []
    split = [(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]
    for term in dict.fromkeys(" ".join(t.split()) for t in terms):
        words = tuple(term.split())
        counts = [(_occurrences(r, words), _occurrences(h, words)) for r, h in split]
        rates = _rates(
            occurrences=sum(r for r, _ in counts),
            recognised=sum(map(min, counts)),
            claimed=sum(h for _, h in counts),
        )
        rows.append({"term": term} | rates)
    total = {key: sum(row[key] for row in rows) for key in ("occurrences", "recognised", "claimed")}
    rows.sort(key=lambda row: (-row["occurrences"], row["term"]))
    return _rates(**total) | {"terms": rows}


def _rates(*, occurrences: int, recognised: int, claimed: int) -> dict[str, Any]:
    """Counts, and the rates that follow from them."""
    return {
        "occurrences": occurrences,
        "recognised": recognised,
        "claimed": claimed,
        "recall": _ratio(recognised, occurrences),
        "precision": _ratio(recognised, claimed),
        "f_score": _ratio(2 * recognised, occurrences + claimed),
    }


def _ratio(part: int, whole: int) -> float | None:
    """None where there is nothing to divide by."""
    return part / whole if whole else None
