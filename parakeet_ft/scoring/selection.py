"""How good weights are, given what chance leaves open: one word of a set decides nothing. Pure.

Domain and guard are drawn anew a thousand times (paired bootstrap, Bisani and Ney 2004), the same
draws for all weights that are compared; the score is the mean over them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.scoring import wer
from parakeet_ft.scoring.terms import count_terms

DRAWS = 1000
# Whole speakers are drawn where there are so many; the draws of a few would be a few.
LEAST_SPEAKERS = 10


@dataclasses.dataclass(frozen=True)
class Counts:
    """Word errors of a set by unit (N) that is drawn as one, an utterance or a speaker: of the
    checkpoint, of other weights, and the words of the references.
    """

    before: np.ndarray
    after: np.ndarray
    words: np.ndarray

    def loss(self, seed: int) -> np.ndarray:
        """Rise of the WER (DRAWS)."""
        return self._drawn(self.after - self.before, self.words, seed)

    def gain(self, seed: int) -> np.ndarray:
        """Share of the checkpoint's errors that are gone (DRAWS); where it had none, less one for
        each that is new.
        """
        return self._drawn(self.before - self.after, self.before, seed)

    def gain_as_it_is(self) -> float:
        """`gain` on the set itself."""
        return float((self.before - self.after).sum() / max(self.before.sum(), 1))

    @staticmethod
    def _drawn(above: np.ndarray, below: np.ndarray, seed: int) -> np.ndarray:
        return wer.resample(np.stack([above, below], axis=1), replications=DRAWS, seed=seed)


@dataclasses.dataclass(frozen=True)
class WithTerms(Counts):
    """Word errors, and those of the domain's terms in the same units; `weight` is the share of the
    terms' gain in the gain. `terms.words` are occurrences.
    """

    terms: Counts
    weight: float

    def gain(self, seed: int) -> np.ndarray:
        """The mean of both gains, each draw of the same units."""
        return (1 - self.weight) * super().gain(seed) + self.weight * self.terms.gain(seed)

    def gain_as_it_is(self) -> float:
        """The mean of both gains on the set as it is."""
        words, terms = super().gain_as_it_is(), self.terms.gain_as_it_is()
        return (1 - self.weight) * words + self.weight * terms


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is known of weights. Gain is the share of the domain's errors removed (terms weighed in
    as evaluation.terms_weight says), loss the guard's
    rise in WER, each with its 95 % interval of the draws; `risk` is the probability that the loss
    is above the tolerance. The guard is the worst of several; its figures are None without one.
    """

    score: float
    gain: float
    gain_low: float
    gain_high: float
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    risk: float | None = None
    refused: bool = False
    worst_guard: str | None = None


def count(
    references: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    *,
    speakers: Sequence[str | None],
) -> Counts:
    """Errors by speaker where at least LEAST_SPEAKERS are known, else by utterance."""
    first, second = wer.word_errors(references, before), wer.word_errors(references, after)
    rows = np.stack([first[:, :3].sum(axis=1), second[:, :3].sum(axis=1), first[:, 3]], axis=1)
    return Counts(*_by_unit(rows, speakers).T)


def count_term_errors(
    references: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    *,
    terms: Sequence[str],
    speakers: Sequence[str | None],
) -> Counts:
    """Errors of terms, missed and false ones, by the units of `count`; "words" are occurrences."""
    first, second = (count_terms(references, h, terms) for h in (before, after))
    rows = np.stack([first.errors, second.errors, first.by_utterance[:, 0]], axis=1)
    return Counts(*_by_unit(rows, speakers).T)


def _by_unit(rows: np.ndarray, speakers: Sequence[str | None]) -> np.ndarray:
    """Rows of utterances (N, 3) summed by speaker, if these are what is drawn."""
    named = [speaker for speaker in speakers if speaker]
    if len(named) == len(rows) and len(set(named)) >= LEAST_SPEAKERS:
        return np.stack(list(wer.sum_by(named, rows).values()))
    return rows


@dataclasses.dataclass(frozen=True)
class Reference:
    """A set that chooses: what was said, by whom, and how the checkpoint heard it; the domain's
    terms, where they have a share (`terms_weight`) in the gain.
    """

    texts: Sequence[str]
    speakers: Sequence[str | None]
    before: Sequence[str]
    terms: Sequence[str] = ()
    terms_weight: float = 0.0

    @classmethod
    def of(cls, utterances: Sequence[Utterance], before: Sequence[str]) -> Reference:
        """Of a set and the checkpoint's transcripts of it."""
        return cls([u.text for u in utterances], [u.speaker for u in utterances], before)

    def count(self, after: Sequence[str]) -> Counts:
        """Errors of other weights' transcripts."""
        found = count(self.texts, self.before, after, speakers=self.speakers)
        if not self.terms_weight:
            return found
        terms = count_term_errors(
            self.texts, self.before, after, terms=self.terms, speakers=self.speakers
        )
        return WithTerms(
            found.before, found.after, found.words, terms=terms, weight=self.terms_weight
        )


@dataclasses.dataclass(frozen=True)
class Judge:
    """Judges weights by their transcripts. guards: by name, each with its tolerance, None for any
    loss; most_risk: the probability of more than that with which weights are refused.
    """

    domain: Reference
    guards: Mapping[str, tuple[Reference, float | None]]
    most_risk: float

    def __call__(self, domain: Sequence[str], guards: Mapping[str, Sequence[str]]) -> Judgement:
        counted = {
            name: (reference.count(guards[name]), math.inf if tolerance is None else tolerance)
            for name, (reference, tolerance) in self.guards.items()
        }
        return judge(self.domain.count(domain), counted, most_risk=self.most_risk)


def judge(
    domain: Counts, guards: Mapping[str, tuple[Counts, float]], *, most_risk: float
) -> Judgement:
    """Expected score of weights: the gain on the domain, discounted draw by draw by how much of its
    tolerance the worst guard has used.

    guards: by name the errors, and the rise of the WER that is tolerated. Weights that exceed a
    tolerance with more probability than `most_risk` are refused: they score at most 0, and the
    smaller loss is the better.
    """
    gain = domain.gain(seed=0)
    low, high = _interval(gain)
    known = Judgement(float(gain.mean()), domain.gain_as_it_is(), low, high)
    if not guards:
        return known
    losses = {name: counts.loss(seed=i) for i, (name, (counts, _)) in enumerate(guards.items(), 1)}
    risks = {name: float((drawn > guards[name][1]).mean()) for name, drawn in losses.items()}
    used = {
        # A tolerance of 0 is used up by any loss.
        name: np.maximum(losses[name], 0) / max(tolerance, 1e-9)
        for name, (_, tolerance) in guards.items()
    }
    kept = np.maximum(0, 1 - np.max(list(used.values()), axis=0) ** 2)
    worst = max(guards, key=lambda name: (risks[name], used[name].mean(), losses[name].mean()))
    refused = risks[worst] > most_risk
    score = float((gain * np.where(gain > 0, kept, 1)).mean())
    if refused:
        score = min(known.gain, 0.0) - max(0.0, float(losses[worst].mean()))
    counts = guards[worst][0]
    low, high = _interval(losses[worst])
    return dataclasses.replace(
        known,
        score=score,
        loss=float((counts.after - counts.before).sum() / max(counts.words.sum(), 1)),
        loss_low=low,
        loss_high=high,
        risk=risks[worst],
        refused=refused,
        worst_guard=worst,
    )


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
