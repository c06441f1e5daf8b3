"""A subset of a validation set is fixed, of the size asked for, and like the whole."""

import random
from collections import Counter

import pytest

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.training.validation_subset import choose, choose_all, facts, line


def utterances(count, *, speakers=("a", "b", "c"), seed=0):
    """A speaker of a tenth, one of three tenths, and one of the rest."""
    rng = random.Random(seed)
    weights = (0.1, 0.3, 0.6)
    return [
        Utterance(
            f"{i}.wav",
            rng.uniform(1, 20),
            "x",
            speaker=rng.choices(speakers, weights)[0] if speakers else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("speakers", [("a", "b", "c"), ()])
@pytest.mark.parametrize("hours", [0.25, 1.0])
def test_a_subset_has_the_hours_asked_for_and_is_the_same_each_time(speakers, hours):
    found = utterances(1000, speakers=speakers)
    taken = choose(found, hours=hours, seed=1)
    seconds = sum(found[i].duration for i in taken)
    assert seconds == pytest.approx(3600 * hours, rel=0.05)
    assert taken == choose(found, hours=hours, seed=1) == sorted(set(taken))
    assert taken != choose(found, hours=hours, seed=2)


def test_speakers_and_lengths_have_their_share():
    found = utterances(2000)
    taken = [found[i] for i in choose(found, hours=1.0, seed=3)]
    shares = [Counter(u.speaker for u in some) for some in (found, taken)]
    for speaker in "abc":
        assert shares[1][speaker] / len(taken) == pytest.approx(
            shares[0][speaker] / len(found), abs=0.01
        )
    for some in (found, taken):
        short = sum(u.duration < 5 for u in some) / len(some)
        assert short == pytest.approx(4 / 19, abs=0.03)


@pytest.mark.parametrize("hours", [None, 100.0])
def test_all_is_taken_where_no_less_is_asked_for(hours):
    assert choose(utterances(50), hours=hours, seed=1) is None
    found = {"validation": utterances(50)}
    assert facts(found, choose_all(found, hours=hours, seed=1)) is None


def test_of_a_tiny_wish_one_utterance_is_left():
    assert len(choose(utterances(50), hours=1e-6, seed=1)) == 1


def test_what_was_taken_is_told_by_set():
    sets = {"validation": utterances(500), "guard_validation": utterances(3), "test": []}
    chosen = choose_all(sets, hours=0.5, seed=1)
    assert chosen["guard_validation"] is None and "test" not in chosen
    found = facts(sets, chosen)
    assert list(found) == ["validation"]
    assert found["validation"]["of_utterances"] == 500
    assert found["validation"]["utterances"] == len(chosen["validation"])
    assert f"0.{50 if found['validation']['hours'] >= 0.495 else 49} of" in line(found)
