"""The score of weights is what it would be on average over sets like these."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.scoring.selection import (
    LEAST_SPEAKERS,
    Counts,
    Judge,
    Reference,
    count,
    count_term_errors,
    judge,
)

NEVER = 1.0  # a risk that nothing exceeds


def counts(before, after, words):
    return Counts(*(np.array(row) for row in (before, after, words)))


def every_draw(found: Counts) -> list[tuple[float, float, float]]:
    """Errors before and after and words of all ways to draw the units with replacement."""
    rows = np.stack([found.before, found.after, found.words], axis=1)
    draws = itertools.product(range(len(rows)), repeat=len(rows))
    return [tuple(rows[list(draw)].sum(axis=0)) for draw in draws]


def test_the_score_is_the_mean_over_all_ways_to_draw_domain_and_guard():
    domain = counts([9, 7, 8, 5], [3, 4, 1, 5], [10, 10, 10, 10])
    guard = counts([2, 3, 1, 2], [2, 4, 1, 3], [30, 25, 20, 25])
    tolerance = 0.03
    gains = [1 - after / before for before, after, _ in every_draw(domain)]
    losses = [(after - before) / words for before, after, words in every_draw(guard)]
    used = [min(1.0, max(0.0, loss) / tolerance) for loss in losses]
    # Domain and guard are drawn apart.
    expected = np.mean(gains) * np.mean([1 - share**2 for share in used])
    found = judge(domain, {"guard": (guard, tolerance)}, most_risk=NEVER)
    assert found.score == pytest.approx(expected, abs=0.02)
    risk = np.mean([loss > tolerance for loss in losses])
    assert found.risk == pytest.approx(risk, abs=0.05)


def test_one_word_more_never_turns_a_good_score_into_none():
    rng = np.random.default_rng(0)
    words = np.full(60, 10)
    before = rng.binomial(10, 0.3, 60)
    domain = counts(before, before // 2, words)
    scores = []
    for errors in range(0, 20):  # the guard loses word after word, across the tolerance of 12
        after = before.copy()
        after[:errors] += 1
        found = judge(domain, {"guard": (counts(before, after, words), 0.02)}, most_risk=NEVER)
        scores.append(found.score)
    steps = -np.diff(scores)
    assert max(steps) < 0.15 * scores[0] and min(steps) > -0.01
    assert scores[0] > 0.4 > 0.1 > scores[-1]


def test_what_probably_exceeds_the_tolerance_is_refused_and_the_smaller_loss_is_the_better():
    words = np.full(200, 10)
    before = np.full(200, 3)
    domain = counts(before, before - 2, words)

    def with_loss(share):
        after = before.copy()
        after[: int(share * 2000)] += 1
        return judge(domain, {"guard": (counts(before, after, words), 0.02)}, most_risk=0.3)

    kept, little, much = with_loss(0.005), with_loss(0.03), with_loss(0.06)
    assert not kept.refused and kept.score > 0.5 and kept.risk < 0.01
    assert little.refused and much.refused and much.score < little.score <= 0
    assert much.risk > 0.99 and much.loss == pytest.approx(0.06)
    assert much.loss_low < much.loss < much.loss_high


def test_the_worst_of_several_guards_decides_each_by_its_own_tolerance():
    words = np.full(300, 10)
    before = np.full(300, 2)
    domain = counts(before, before // 2, words)
    hurt = before.copy()
    hurt[:90] += 1  # 3 points
    guards = {"near": counts(before, before, words), "far": counts(before, hurt, words)}
    strict = judge(domain, {k: (v, 0.02) for k, v in guards.items()}, most_risk=0.5)
    assert strict.refused and strict.loss == pytest.approx(0.03) and strict.worst_guard == "far"
    mild = judge(
        domain, {"near": (guards["near"], 0.02), "far": (guards["far"], 0.2)}, most_risk=0.5
    )
    assert not mild.refused and mild.score > 0.45 and mild.worst_guard == "far"
    hurt_less = before.copy()
    hurt_less[:15] += 1  # half a point, of one that is tolerated
    guards["near"] = counts(before, hurt_less, words)
    relative = judge(
        domain, {"near": (guards["near"], 0.02), "far": (guards["far"], 0.5)}, most_risk=0.5
    )
    assert relative.worst_guard == "near", "the share of its tolerance counts, not the points"


def test_without_a_guard_or_a_tolerance_the_score_is_the_gain():
    domain = counts([5, 5, 5], [1, 2, 3], [10, 10, 10])
    alone = judge(domain, {}, most_risk=0.5)
    assert alone.gain == pytest.approx(1 - 6 / 15) and alone.score == pytest.approx(0.6, abs=0.01)
    assert alone.loss is None and alone.risk is None
    ruined = counts([1, 1, 1], [9, 9, 9], [10, 10, 10])
    free = judge(domain, {"guard": (ruined, math.inf)}, most_risk=0.0)
    assert free.score == alone.score and not free.refused and free.loss == pytest.approx(0.8)


def test_a_set_without_errors_or_words_gives_numbers():
    perfect = judge(counts([0, 0], [0, 0], [3, 0]), {}, most_risk=0.5)
    assert math.isfinite(perfect.score)
    worse = judge(counts([0, 0], [1, 1], [3, 2]), {}, most_risk=0.5)
    assert worse.score < 0


def test_speakers_are_drawn_whole_where_there_are_enough_of_them():
    references = ["a b", "c d"] * LEAST_SPEAKERS
    before = ["x b", "c d"] * LEAST_SPEAKERS
    speakers = [f"s{i // 2}" for i in range(2 * LEAST_SPEAKERS)]
    assert len(count(references, before, references, speakers=speakers).words) == LEAST_SPEAKERS
    few = ["one", "two"] * LEAST_SPEAKERS
    found = count(references, before, references, speakers=few)
    assert len(found.words) == 2 * LEAST_SPEAKERS
    assert found.before.sum() == LEAST_SPEAKERS and not found.after.any()
    unknown = [None, *speakers[1:]]
    assert len(count(references, before, references, speakers=unknown).words) == len(references)


def test_a_judge_compares_transcripts_of_the_sets_with_the_checkpoints():
    said = [Utterance(f"{i}.wav", 1.0, "a b c d", speaker="s") for i in range(20)]
    domain = Reference.of(said, ["a b"] * 20)
    guard = Reference.of(said, ["a b c d"] * 20)
    one_wrong = {"guard": ["a b c x"] + ["a b c d"] * 19}
    found = Judge(domain, {"guard": (guard, 0.02)}, 0.5)(["a b c d"] * 20, one_wrong)
    assert found.worst_guard == "guard"
    assert found.gain == 1 and found.loss == pytest.approx(1 / 80)
    assert (
        Judge(domain, {"guard": (guard, None)}, 0.0)(["a b c"] * 20, {"guard": ["x"] * 20}).score
        == 0.5
    )
    alone = Judge(domain, {}, 0.5)(["a b c"] * 20, {})
    assert alone.score == 0.5 and alone.loss is None and alone.worst_guard is None
    nothing = Judge(domain, {"guard": (guard, 0.0)}, 0.5)(["a b c d"] * 20, one_wrong)
    assert nothing.refused and nothing.score < 0


SAID = ["squawk seven two", "turn left now", "climb and maintain", "squawk one"] * 10
BASE = ["quack seven two", "turn lift no", "climb an maintain", "quack one"] * 10
# Every squawk is right, and no other mistake is mended; the other way round.
TERMS_RIGHT = ["squawk seven too", "turn lift no", "climb an maintain", "squawk one"] * 10
WORDS_RIGHT = ["quack seven two", "turn left now", "climb and maintain", "quack one"] * 10


def judged(after, *, weight, terms=("squawk",), before=BASE):
    said = [Utterance(f"{i}.wav", 1.0, text) for i, text in enumerate(SAID)]
    domain = dataclasses.replace(Reference.of(said, before), terms=terms, terms_weight=weight)
    return Judge(domain, {}, 0.5)(after, {})


def test_the_weight_of_terms_decides_between_right_terms_and_right_words():
    assert judged(TERMS_RIGHT, weight=1.0).score > judged(WORDS_RIGHT, weight=1.0).score + 0.9
    assert judged(TERMS_RIGHT, weight=0.0).score < judged(WORDS_RIGHT, weight=0.0).score - 0.2
    assert judged(TERMS_RIGHT, weight=0.0) == judged(TERMS_RIGHT, weight=0.0, terms=())


def test_the_gain_is_the_weighted_mean_over_the_same_draws():
    rng = np.random.default_rng(3)
    after = [b if rng.random() < 0.5 else s for s, b in zip(SAID, BASE, strict=True)]
    words = count(SAID, BASE, after, speakers=[None] * 40)
    terms = count_term_errors(SAID, BASE, after, terms=["squawk"], speakers=[None] * 40)
    drawn = np.random.default_rng(0).integers(40, size=(1000, 40))
    expected = [
        0.3 * (1 - terms.after[draw].sum() / terms.before[draw].sum())
        + 0.7 * (1 - words.after[draw].sum() / words.before[draw].sum())
        for draw in drawn
    ]
    found = judged(after, weight=0.3)
    assert found.score == pytest.approx(np.mean(expected))
    low, high = np.percentile(expected, [2.5, 97.5])
    assert (found.gain_low, found.gain_high) == pytest.approx((low, high))
    whole = 0.3 * (1 - terms.after.sum() / terms.before.sum()) + 0.7 * (
        1 - words.after.sum() / words.before.sum()
    )
    assert found.gain == pytest.approx(whole)


def test_a_term_that_is_heard_everywhere_is_no_gain():
    everywhere = ["squawk " * 3 + text for text in SAID]
    assert judged(everywhere, weight=1.0).score < 0 < judged(SAID, weight=1.0).score


def test_where_the_checkpoint_missed_no_term_there_is_nothing_to_gain_and_something_to_lose():
    assert judged(SAID, weight=1.0, before=SAID).score == 0
    assert judged(BASE, weight=1.0, before=SAID).score < 0


def test_terms_are_drawn_by_speaker_where_words_are():
    speakers = [f"s{i % LEAST_SPEAKERS}" for i in range(40)]
    found = count_term_errors(SAID, BASE, SAID, terms=["squawk"], speakers=speakers)
    assert len(found.words) == LEAST_SPEAKERS and found.words.sum() == found.before.sum() == 20
