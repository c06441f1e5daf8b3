"""Passes planned in numpy are those that plain Python drew, sorted and cut."""

import json
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from parakeet_ft.batches.passes import Pass, Twister, draw_replay, plan_pass, weighted
from parakeet_ft.batches.plan import Plan, Replayed
from parakeet_ft.batches.sequence import BatchSequence
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.settings.manifests import WeightedManifest


def batches_of_plain_python(durations, indices, *, batch_seconds, seed, number):
    """The oracle: batches as they were planned before there were arrays, for one rank."""
    rng = random.Random(f"{seed} {number}")
    ordered = sorted(indices, key=lambda i: durations[i] * rng.uniform(0.9, 1.1))
    batches, longest = [], 0.0
    for index in ordered:
        longest = max(longest, durations[index])
        if batches and longest * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = durations[index]
    rng.shuffle(batches)
    return batches


def replay_of_plain_python(durations, indices, *, seconds, seed, number):
    rng = random.Random(f"replay {seed} {number}")
    drawn, filled = [], 0.0
    while indices and filled < seconds:
        for index in rng.sample(list(indices), len(indices)):
            if filled >= seconds:
                break
            drawn.append(index)
            filled += durations[index]
    return drawn


def lengths(count, *, seed=0, ties=False):
    rng = random.Random(seed)
    return [rng.choice([1.0, 2.0, 2.5]) if ties else rng.uniform(0.2, 25) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 1000, 70_001])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("number", [0, 7])
def test_a_pass_of_one_rank_is_bit_for_bit_what_plain_python_made(count, ties, number):
    durations = lengths(count, seed=count, ties=ties)
    given = dict(batch_seconds=60.0, seed=11, number=number)
    expected = batches_of_plain_python(durations, range(count), **given)
    assert list(plan_pass(durations, range(count), **given)) == expected


@pytest.mark.parametrize(("count", "seconds"), [(1, 300), (50, 20), (3000, 1e4), (70_001, 2e6)])
def test_replay_is_drawn_bit_for_bit_as_plain_python_drew_it(count, seconds):
    durations = lengths(count + 5, seed=count)
    given = dict(seconds=seconds, seed=3, number=2)
    expected = replay_of_plain_python(durations, range(5, count + 5), **given)
    assert draw_replay(durations, range(5, count + 5), **given).tolist() == expected


def test_numbers_are_those_of_python_beyond_one_block_and_over_powers_of_two():
    rng, twister = random.Random("x"), Twister("x")
    assert [rng.uniform(0.9, 1.1) for _ in range(999)] == twister.uniform(0.9, 1.1, 999).tolist()
    assert [rng.randrange(n) for n in range(40_000, 0, -1)] == list(twister.below(40_000, 1))
    items = list(range(5000))
    rng.shuffle(items)
    assert twister.shuffled(5000).tolist() == items


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_the_ranks_of_a_step_get_neighbours_in_length_and_all_is_there_once(num_ranks):
    durations = lengths(5000)
    found = plan_pass(
        durations, range(5000), batch_seconds=60, seed=1, number=0, num_ranks=num_ranks
    )
    assert len(found) % num_ranks == 0
    assert sorted(found.order.tolist()) == list(range(5000))
    longest = [max(durations[i] for i in batch) for batch in found]
    steps = np.array(longest).reshape(-1, num_ranks)
    # One batch's lengths spread by the jitter; as they come, steps would spread over 20 s.
    assert np.median(np.ptp(steps, axis=1)) < 0.2 * np.median(steps)
    assert np.ptp(steps[:, 0]) > 15  # steps themselves come in any order


def test_batches_are_halved_until_the_ranks_get_equal_numbers():
    durations = [1.0] * 10
    found = plan_pass(durations, range(10), batch_seconds=10, seed=0, number=0, num_ranks=4)
    assert sorted(map(len, found)) == [2, 2, 3, 3]
    assert sorted(found.order.tolist()) == list(range(10))


def test_a_weight_is_how_often_an_utterance_comes_and_a_fraction_meets_all_in_time():
    spans = [(0, 10, 1.0), (10, 20, 2.0), (20, 40, 0.5), (40, 44, 2.25)]
    first, second = (weighted(spans, seed=0, number=number).tolist() for number in (0, 1))
    assert [first.count(i) for i in range(20)] == [1] * 10 + [2] * 10
    halves = [{i for i in found if 20 <= i < 40} for found in (first, second)]
    assert len(halves[0]) == len(halves[1]) == 10 and halves[0] | halves[1] == set(range(20, 40))
    assert sum(i >= 40 for i in first) == 9
    assert first == weighted(spans, seed=0, number=0).tolist()
    assert first != weighted(spans, seed=1, number=0).tolist()


def test_without_weights_a_pass_has_each_utterance_in_order():
    assert weighted([(0, 7, 1.0)], seed=0, number=3).tolist() == list(range(7))


def corpus_in_cache(tmp_path, monkeypatch, count=400):
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("parakeet_ft.data.corpus.SMALL", 0)
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(
            json.dumps({"audio_filepath": "a.wav", "duration": d, "text": f"t {i}"}) + "\n"
            for i, d in enumerate(lengths(count))
        )
    )
    return Corpus.open(path)


def plan_of(utterances, **settings):
    given = dict(num_domain=300, batch_seconds=60, seed=5) | settings
    rest = len(utterances) - given["num_domain"]
    return Plan(utterances, **{"replays": [Replayed(rest, 0.3)] if rest else []} | given)


def test_a_pass_in_the_cache_is_planned_once_and_is_that_of_a_list(tmp_path, monkeypatch):
    corpus = corpus_in_cache(tmp_path, monkeypatch)
    corpus = Corpus([*corpus.parts])
    in_memory = plan_of(list(corpus), num_domain=400)
    found = plan_of(corpus, num_domain=400).batches_of_pass(1)
    assert found == in_memory.batches_of_pass(1)
    monkeypatch.setattr(Plan, "_plan", lambda self, number: pytest.fail("planned again"))
    again = plan_of(corpus, num_domain=400)
    assert again.batches_of_pass(1) == found
    with pytest.raises(pytest.fail.Exception):
        plan_of(corpus, num_domain=400, seed=6).batches_of_pass(1)


def test_a_damaged_pass_is_planned_again(tmp_path, monkeypatch, capsys):
    corpus = corpus_in_cache(tmp_path, monkeypatch)
    found = plan_of(corpus, num_domain=400).batches_of_pass(0)
    (order,) = (tmp_path / "cache").glob("pass-*/order.npy")
    data = bytearray(order.read_bytes())
    data[-1] ^= 1
    order.unlink()
    order.write_bytes(data)
    assert plan_of(corpus, num_domain=400).batches_of_pass(0) == found
    assert "is damaged (order.npy was changed" in capsys.readouterr().out


def test_a_sequence_goes_on_in_a_later_pass_as_if_it_had_run_through(tmp_path):
    utterances = [Utterance("a.wav", d, "t") for d in lengths(60)]
    plan = plan_of(utterances, num_domain=60, num_ranks=2)
    steps = plan.steps_of_pass(0) + plan.steps_of_pass(1)
    whole = list(BatchSequence(plan, rank=1, stop=steps + 3))
    assert list(BatchSequence(plan, rank=1, start=steps + 1, stop=steps + 3)) == whole[-2:]
    assert [i - 120 for i in whole[-1]] == plan.batches_of_pass(2)[2 * 2 + 1]


def test_a_pass_is_a_sequence_of_lists_with_ends():
    found = Pass(np.array([4, 5, 6], np.int32), np.array([0, 2, 3]))
    assert list(found) == [[4, 5], [6]] and found[-1] == [6] and found[:1] == [[4, 5]]
    with pytest.raises(IndexError, match="batch 2 of 2"):
        found[2]


def test_passes_planned_ahead_by_several_processes_are_those_of_one(tmp_path, monkeypatch):
    corpus = corpus_in_cache(tmp_path, monkeypatch)
    monkeypatch.setattr("parakeet_ft.batches.plan.num_cores", lambda: 2)
    in_memory = plan_of(list(corpus), num_domain=400)
    expected = [list(in_memory.batches_of_pass(number)) for number in range(3)]
    plan_of(corpus, num_domain=400).plan_ahead(range(3))
    monkeypatch.setattr(Plan, "_plan", lambda self, number: pytest.fail("planned again"))
    ahead = plan_of(corpus, num_domain=400)
    assert [list(ahead.batches_of_pass(number)) for number in range(3)] == expected


def test_the_plan_imports_no_torch():
    code = "import sys, parakeet_ft.batches.plan\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_weights_of_manifests_and_of_replay_count_in_passes_and_hours(tmp_path):
    named = []
    for name, count, weight in (("a", 20, 1.0), ("b", 10, 2.0), ("c", 40, 0.5), ("r", 30, 2.0)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "".join(
                json.dumps({"audio_filepath": f"{name}{i}", "duration": 2.0, "text": "t"}) + "\n"
                for i in range(count)
            )
        )
        named.append(WeightedManifest(str(path), weight))
    corpus = Corpus.open(named[:3]) + Corpus.open(named[3:])
    plan = plan_of(corpus, num_domain=70, replays=[Replayed(30, 0.5)], batch_seconds=8)
    passes = [Counter(plan.batches_of_pass(number).order.tolist()) for number in range(2)]
    for found in passes:
        assert [found[i] for i in range(30)] == [1] * 20 + [2] * 10
        assert sum(found[i] for i in range(30, 70)) == 20
        assert sum(found[i] for i in range(70, 100)) == 30  # half of 60 utterances of 2 s
        assert max(found[i] for i in range(70, 100)) == 2
    assert all(passes[0][i] + passes[1][i] == 1 for i in range(30, 70))
    assert plan.hours_of_pass == pytest.approx(60 * 2 * 1.5 / 3600)
