"""One scorer for baseline, in-training and final figures. Pure. Error rates are fractions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import kaldialign


@dataclasses.dataclass(frozen=True)
class Score:
    """Errors of hypotheses against references, summed over a set (micro-average)."""

    wer: float
    words: int
    substitutions: int
    deletions: int
    insertions: int
    cer: float
    characters: int
    wer_normalized: float
    utterances: int


@lru_cache(maxsize=1)
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


@lru_cache(maxsize=100_000)
def normalize(text: str) -> str:
    """Text as on the Open ASR Leaderboard: whisper-normalizer's English normaliser."""
    return _english()(text)


def _errors(references: Sequence[Sequence], hypotheses: Sequence[Sequence]) -> Counter:
    total: Counter = Counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        edits = kaldialign.edit_distance(list(reference), list(hypothesis))
        total.update({key: edits[key] for key in ("sub", "del", "ins")} | {"length": len(reference)})
    total["errors"] = total["sub"] + total["del"] + total["ins"]
    return total


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Score hypotheses against references of the same number and order.

    The rate of an empty reference set is the number of errors, so that words in silence are never free.
    Raises ValueError if the lengths differ.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    words = _errors([r.split() for r in references], [h.split() for h in hypotheses])
    characters = _errors([" ".join(r.split()) for r in references], [" ".join(h.split()) for h in hypotheses])
    normalized = _errors([normalize(r).split() for r in references], [normalize(h).split() for h in hypotheses])
    return Score(wer=words["errors"] / max(words["length"], 1), words=words["length"], substitutions=words["sub"], deletions=words["del"],
                 insertions=words["ins"], cer=characters["errors"] / max(characters["length"], 1), characters=characters["length"],
                 wer_normalized=normalized["errors"] / max(normalized["length"], 1), utterances=len(references))


def compare(references: Sequence[str], before: Sequence[str], after: Sequence[str], *, replications: int = 2000) -> dict[str, float | str]:
    """Paired bootstrap over utterances (Bisani and Ney 2004, by kaldialign): is `after` really different from `before`?

    Returns the probability that `after` has fewer errors and a verdict in words: better (>= 0.975), worse (<= 0.025) or
    not distinguishable.
    """
    lists = [[text.split() for text in texts] for texts in (references, before, after)]
    if lists[1] == lists[2] or not any(lists[0]):
        return {"probability_better": 0.5, "verdict": "not distinguishable"}
    probability = kaldialign.bootstrap_wer_ci(*lists, replications=replications)["p_s2_improv_over_s1"]
    verdict = "better" if probability >= 0.975 else "worse" if probability <= 0.025 else "not distinguishable"
    return {"probability_better": float(probability), "verdict": verdict}


def word_diff(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    """Aligned words (reference, hypothesis); the empty string stands for a deletion or insertion."""
    return [(r or "", h or "") for r, h in kaldialign.align(reference.split(), hypothesis.split(), "")]


def confusions(references: Sequence[str], hypotheses: Sequence[str], *, most: int = 20) -> list[tuple[str, str, int]]:
    """The most frequent (reference word, hypothesis word, count) that differ."""
    pairs = Counter(pair for r, h in zip(references, hypotheses, strict=True) for pair in word_diff(r, h) if pair[0] != pair[1])
    return [(*pair, count) for pair, count in pairs.most_common(most)]


def selection_score(*, domain_wer: float, guard_wer: float | None, base_domain_wer: float, base_guard_wer: float | None,
                    guard_tolerance: float | None) -> float:
    """How good a checkpoint is: its share of the domain's errors removed, less the closer the guard's loss comes to the tolerance.

    Follows arXiv 2210.03255: gain * max(0, (tolerance - loss) / tolerance), with the guard's loss in absolute WER. A checkpoint that
    loses more than the tolerance, or that gains nothing, scores at most 0; among such, the smaller loss is the better.
    Without guard, or with guard_tolerance=None, the score is the gain.
    """
    gain = (base_domain_wer - domain_wer) / max(base_domain_wer, 1e-9)
    if guard_wer is None or base_guard_wer is None or guard_tolerance is None:
        return gain
    loss = max(0.0, guard_wer - base_guard_wer)
    if loss >= guard_tolerance:
        return min(gain, 0.0) - loss
    return gain * (guard_tolerance - loss) / guard_tolerance if gain > 0 else gain
