"""The scorer against jiwer, an independent package."""

import random

import jiwer
import pytest

from parakeet_ft.evaluation import wer

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "ran", "one", "two", "three", "red", "blue", "and", "then"]


def random_pairs(count, seed):
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]
    hypotheses = []
    for reference in references:
        words = [w for w in reference.split() if rng.random() > 0.15]
        words = [rng.choice(WORDS) if rng.random() < 0.15 else w for w in words]
        for _ in range(rng.randint(0, 2)):
            words.insert(rng.randint(0, len(words)), rng.choice(WORDS))
        hypotheses.append(" ".join(words))
    return references, hypotheses


def test_the_scorer_agrees_with_jiwer_on_1000_pairs():
    references, hypotheses = random_pairs(1000, seed=0)
    ours, theirs = wer.score(references, hypotheses), jiwer.process_words(references, hypotheses)
    assert ours.wer == pytest.approx(theirs.wer, abs=1e-12)
    assert ours.cer == pytest.approx(jiwer.process_characters(references, hypotheses).cer, abs=1e-12)
    assert ours.words == sum(len(r.split()) for r in references)
    total = theirs.substitutions + theirs.deletions + theirs.insertions
    assert ours.substitutions + ours.deletions + ours.insertions == total


def test_every_pair_alone_agrees_with_jiwer():
    for reference, hypothesis in zip(*random_pairs(200, seed=1), strict=True):
        assert wer.score([reference], [hypothesis]).wer == pytest.approx(jiwer.wer(reference, hypothesis), abs=1e-12)


def test_the_normalised_rate_forgives_case_punctuation_and_spelling():
    score = wer.score(["Mr. Brown's colour, please!"], ["mister brown's color please"])
    assert score.wer > 0.5 and score.wer_normalized == 0


def test_words_in_silence_are_never_free():
    assert wer.score([""], ["two words"]).wer == 2
    assert wer.score([""], [""]).wer == 0


def test_sets_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 references but 1"):
        wer.score(["a", "b"], ["a"])


def test_a_clear_gain_is_better_and_its_reverse_worse_and_a_tie_neither():
    references, hypotheses = random_pairs(200, seed=2)
    assert wer.compare(references, hypotheses, references)["verdict"] == "better"
    assert wer.compare(references, references, hypotheses)["verdict"] == "worse"
    assert wer.compare(references, hypotheses, hypotheses)["verdict"] == "not distinguishable"
    one_word = [*hypotheses[:-1], references[-1]]
    assert wer.compare(references, hypotheses, one_word)["verdict"] == "not distinguishable"


def test_confusions_count_what_was_heard_instead():
    assert wer.confusions(["a b c", "a b"], ["a x c", "a x"])[0] == ("b", "x", 2)


BASE = {"base_domain_wer": 0.6, "base_guard_wer": 0.2, "guard_tolerance": 0.02}


def test_selection_prefers_less_forgetting_at_equal_gain_and_more_gain_at_equal_forgetting():
    def score(domain, guard):
        return wer.selection_score(domain_wer=domain, guard_wer=guard, **BASE)
    assert score(0.3, 0.2) > score(0.3, 0.21) > 0 > score(0.3, 0.23) > score(0.3, 0.3)
    assert score(0.2, 0.21) > score(0.3, 0.21)
    assert score(0.3, 0.1) == score(0.3, 0.2)


def test_a_checkpoint_that_gained_nothing_never_scores_above_zero():
    for guard in (0.1, 0.2, 0.21, 0.5):
        assert wer.selection_score(domain_wer=0.6, guard_wer=guard, **BASE) <= 0
    assert wer.selection_score(domain_wer=0.9, guard_wer=0.2, **BASE) < 0


def test_without_guard_the_score_is_the_share_of_errors_removed():
    assert wer.selection_score(domain_wer=0.3, guard_wer=None, base_domain_wer=0.6, base_guard_wer=None, guard_tolerance=0.02) == 0.5
    assert wer.selection_score(domain_wer=0.3, guard_wer=0.9, **(BASE | {"guard_tolerance": None})) == 0.5
