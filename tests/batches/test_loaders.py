"""The plan of batches: everything once, equal steps, resumable, padded within the limit."""

import random
from collections import Counter

import numpy
import pytest
import soundfile
import torch

from parakeet_ft.batches import loaders
from parakeet_ft.batches.loaders import BatchDataset, as_float, in_16_bits
from parakeet_ft.batches.passes import draw_replay, plan_pass
from parakeet_ft.batches.plan import Plan, Replayed
from parakeet_ft.batches.sequence import BatchSequence
from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.training.budget import describe, num_steps


def utterances(count, seed=0):
    rng = random.Random(seed)
    return [
        Utterance(audio_filepath=f"{i}.wav", duration=rng.uniform(0.5, 12), text="x")
        for i in range(count)
    ]


def plan(count=101, replays=(), **changes):
    settings = {"batch_seconds": 40.0, "seed": 3, "num_ranks": 1} | changes
    total = count + sum(replay.count for replay in replays)
    return Plan(utterances(total), num_domain=count, replays=replays, **settings)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_a_pass_holds_every_utterance_once_in_equal_steps(num_ranks):
    p = plan(num_ranks=num_ranks)
    batches = p.batches_of_pass(0)
    assert sorted(i for batch in batches for i in batch) == list(range(101))
    assert len(batches) % num_ranks == 0


def test_each_replay_gives_its_own_share_in_its_own_order():
    twice = [Replayed(40, 0.5), Replayed(50, 0.25, "guards.children.replay")]
    p = plan(count=60, replays=twice)
    durations = [u.duration for u in p.utterances]
    found = [i for batch in p.batches_of_pass(0) for i in batch]
    seconds = [
        sum(durations[i] for i in found if start <= i < stop)
        for start, stop in ((0, 60), (60, 100), (100, 150))
    ]
    assert sorted(i for i in found if i < 60) == list(range(60))
    assert seconds[0] * 0.5 <= seconds[1] <= seconds[0] * 0.5 + 12
    assert seconds[0] * 0.25 <= seconds[2] <= seconds[0] * 0.25 + 12
    assert p.hours_of_pass == pytest.approx(1.75 * seconds[0] / 3600)
    facts = describe(p, num_steps=3, accumulate=1)
    assert facts["replay_ratio"] == 0.75
    assert facts["replay_ratios"] == {"replay": 0.5, "guards.children.replay": 0.25}
    # The first replay is drawn as if it were alone.
    alone = plan(count=60, replays=twice[:1])
    of_alone = {i for batch in alone.batches_of_pass(0) for i in batch}
    assert {i for i in found if i < 100} == of_alone


def test_a_plan_for_another_number_of_utterances_is_refused():
    with pytest.raises(ValueError, match="60 utterances, and a plan for 70"):
        Plan(utterances(60), num_domain=60, replays=[Replayed(10, 1)], batch_seconds=9, seed=1)


def test_padding_stays_within_the_limit():
    p = plan()
    durations = [u.duration for u in p.utterances]
    for batch in p.batches_of_pass(0):
        assert max(durations[i] for i in batch) * len(batch) <= 40 or len(batch) == 1


def test_an_utterance_longer_than_the_limit_is_a_batch_of_its_own():
    batches = plan_pass([50.0, 1.0, 1.0], range(3), batch_seconds=10, seed=0, number=0)
    assert [0] in batches and sorted(map(len, batches)) == [1, 2]


def test_passes_differ_and_the_same_pass_is_the_same():
    p = plan()
    assert p.batches_of_pass(0) == p.batches_of_pass(0) != p.batches_of_pass(1)


def test_too_few_utterances_for_the_ranks_are_refused():
    with pytest.raises(ValueError, match="cannot be divided"):
        plan_pass([1.0], [0], batch_seconds=10, seed=0, number=0, num_ranks=2)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_sequence_that_starts_later_continues_the_same_batches(num_ranks):
    p = plan(num_ranks=num_ranks)
    for rank in range(num_ranks):
        whole = list(BatchSequence(p, rank=rank, stop=60))
        assert len(whole) == 60
        for start in (1, 17, 59):
            assert list(BatchSequence(p, rank=rank, start=start, stop=60)) == whole[start:]


def test_ranks_together_see_each_utterance_once_a_pass():
    p = plan(num_ranks=2)
    steps = p.steps_of_pass(0)
    seen = Counter(
        i for rank in range(2) for batch in BatchSequence(p, rank=rank, stop=steps) for i in batch
    )
    assert seen == Counter(range(101))


def test_replay_fills_its_share_and_repeats_only_when_it_runs_out():
    durations = [1.0] * 30
    drawn = draw_replay(durations, range(10, 30), seconds=50, seed=0, number=0)
    assert len(drawn) == 50 and set(Counter(drawn).values()) == {2, 3}
    assert not len(draw_replay(durations, [], seconds=50, seed=0, number=0))


def test_a_pass_with_replay_holds_the_domain_once_and_as_many_seconds_of_replay():
    p = plan(count=60, replays=[Replayed(40, 0.5)])
    indices = [i for batch in p.batches_of_pass(2) for i in batch]
    durations = [u.duration for u in p.utterances]
    domain, replay = (
        sum(durations[i] for i in indices if (i < 60) == side) for side in (True, False)
    )
    assert sorted(i for i in indices if i < 60) == list(range(60))
    assert domain * 0.5 <= replay <= domain * 0.5 + 12


def test_budgets_of_epochs_steps_and_hours_agree():
    p = plan()
    per_pass = p.steps_of_pass(0)
    assert num_steps(p, epochs=None, hours=None, steps=7, accumulate=2) == 7
    assert num_steps(p, epochs=1, hours=None, steps=None, accumulate=1) == per_pass
    assert num_steps(p, epochs=None, hours=p.hours_of_pass, steps=None, accumulate=1) == per_pass
    assert num_steps(p, epochs=2, hours=None, steps=None, accumulate=4) == -(
        -(per_pass + p.steps_of_pass(1)) // 4
    )
    facts = describe(p, num_steps=3 * per_pass, accumulate=1)
    assert facts["passes"] == 3 and facts["replay_ratio"] == 0.0


def test_a_pass_is_described_by_what_its_batches_hold():
    p = plan(count=60, replays=[Replayed(40, 0.5)])
    durations, batches = [u.duration for u in p.utterances], p.batches_of_pass(0)
    audio, padded = (
        sum(f(durations[i] for i in batch) * n for batch, f, n in rows)
        for rows in ([(b, sum, 1) for b in batches], [(b, max, len(b)) for b in batches])
    )
    facts = p.describe()
    assert facts["batches"] == len(batches) and facts["audio_seconds"] == pytest.approx(
        audio, abs=0.01
    )
    assert (
        facts["padding_share"] == pytest.approx(1 - audio / padded, abs=1e-4)
        and 0 < facts["padding_share"] < 0.15
    )
    assert facts["largest_batch_seconds"] <= 40 and facts["largest_batch_utterances"] == max(
        map(len, batches)
    )


def test_similar_lengths_together_pad_less_than_batches_as_they_come():
    p = plan(count=400)
    durations = [u.duration for u in p.utterances]
    as_they_come = [durations[i : i + 16] for i in range(0, 400, 16)]
    random_padding = 1 - sum(map(sum, as_they_come)) / sum(
        max(batch) * len(batch) for batch in as_they_come
    )
    assert p.describe()["padding_share"] < random_padding / 4


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_batch_is_found_again_by_its_position(num_ranks):
    p = plan(num_ranks=num_ranks)
    for rank in range(num_ranks):
        sequence = [[i % 101 for i in batch] for batch in BatchSequence(p, rank=rank, stop=40)]
        assert all(
            p.batch_at(position, rank=rank) == sequence[position] for position in (0, 13, 39)
        )


def test_indices_count_on_through_the_passes():
    p = plan()
    steps = p.steps_of_pass(0)
    first, second = (
        next(iter(BatchSequence(p, rank=0, start=start, stop=start + 1))) for start in (0, steps)
    )
    assert first == p.batches_of_pass(0)[0] and [i - 101 for i in second] == p.batches_of_pass(1)[0]


def test_a_batch_is_padded_audio_and_tokens_with_their_lengths(speech):
    found = read_manifest(speech(count=3))
    audio, lengths, tokens, token_lengths = BatchDataset(
        found, lambda text: [len(word) for word in text.split()], rate_hz=16000
    )[[2, 0]]
    assert audio.shape == (2, max(lengths)) and audio.dtype == torch.int16
    assert lengths.tolist() == [round(found[2].duration * 16000), round(found[0].duration * 16000)]
    assert tokens[0, : token_lengths[0]].tolist() == [len(word) for word in found[2].text.split()]
    assert audio[1, lengths[1] :].abs().max() == 0


def test_an_unreadable_file_is_an_error_and_not_a_missing_row(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF of nothing")
    with pytest.raises(UserError, match=r"bad\.wav"):
        BatchDataset(
            [Utterance(str(tmp_path / "bad.wav"), 1.0, "x")], lambda text: [1], rate_hz=16000
        )[[0]]


def test_16_bit_audio_travels_as_it_is_and_becomes_the_samples_that_were_read(speech):
    found = read_manifest(speech(count=3))
    audio, lengths, *_ = BatchDataset(found, lambda text: [1], rate_hz=16000)[[0, 1, 2]]
    floats = as_float(audio)
    assert audio.dtype == torch.int16 and floats.dtype == torch.float32
    for row, length, u in zip(floats, lengths, found, strict=True):
        samples, _ = soundfile.read(u.audio_filepath, dtype="float32")
        assert row[:length].numpy().tobytes() == samples.tobytes()
        assert not row[length:].any()


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT"])
def test_a_batch_with_finer_audio_loses_nothing(subtype, speech, tmp_path):
    found = read_manifest(speech(count=2))
    fine = (0.5 * numpy.random.default_rng(0).standard_normal(16000)).astype("float32")
    fine[100] = 1.5  # FLOAT goes beyond full scale
    soundfile.write(tmp_path / "fine.wav", fine, 16000, subtype=subtype)
    written, _ = soundfile.read(tmp_path / "fine.wav", dtype="float32")
    utterances = [*found, Utterance(str(tmp_path / "fine.wav"), 1.0, "x")]
    audio, *_ = BatchDataset(utterances, lambda text: [1], rate_hz=16000)[[2, 0]]
    assert audio.dtype == torch.float32 and as_float(audio) is audio
    assert audio[0, :16000].numpy().tobytes() == written.tobytes()


@pytest.mark.parametrize(
    "odd", [numpy.nan, numpy.inf, 1.0, 0.5 / 32768], ids=["nan", "inf", "full scale", "half a bit"]
)
def test_one_sample_that_16_bits_cannot_hold_keeps_the_batch_in_floats(odd):
    plain, with_odd = numpy.zeros(8, "float32"), numpy.full(8, odd, "float32")
    assert in_16_bits([plain])[0].dtype == numpy.int16
    kept = in_16_bits([plain, with_odd])
    assert kept[0] is plain and kept[1] is with_odd


def test_the_loader_knows_how_long_it_was_waited_for(monkeypatch):
    clock = iter(numpy.cumsum([0, 5, 1, 2, 3, 4, 7, 0, 0]).tolist())
    monkeypatch.setattr(loaders.time, "perf_counter", lambda: next(clock))
    loader = loaders.TimedLoader([10, 20], batch_size=None)
    # Waited 5, busy 1, (2 between), waited 3, busy 4.
    assert list(loader) == [10, 20]
    assert (loader.first_seconds, loader.waited, loader.busy) == (5, 3, 5)
    loader.leave_out(2)
    assert loader.waiting_share() == 0.5
