"""Augmentation: what is heard, the same for any number of ranks and after a resume, and masks that
the live model draws.
"""

import numpy as np
import pytest
import soundfile
import torch

from parakeet_ft.batches import augmentation
from parakeet_ft.batches.augmentation import (
    build,
    change_speed,
    cut_noise,
    mix,
    read_noises,
    telephone,
)
from parakeet_ft.batches.loaders import BatchDataset, augmentation_facts, train_loader
from parakeet_ft.batches.plan import Plan
from parakeet_ft.batches.sequence import BatchSequence
from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.model.parts import spec_augment_facts
from parakeet_ft.model.spec_augment import set_spec_augment

OFF = {
    "speed": None,
    "noise_manifest": None,
    "noise_snr_db": [5, 20],
    "noise_probability": 0.5,
    "codec_probability": 0.0,
}


def tone(hz, seconds=1.0, rate_hz=16000):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def pitch(samples, rate_hz=16000):
    return np.abs(np.fft.rfft(samples)).argmax() * rate_hz / len(samples)


def test_speed_changes_length_and_pitch_together():
    faster = change_speed(tone(440), 1.25, rate_hz=16000)
    assert len(faster) == 12800 and pitch(faster) == pytest.approx(550, rel=0.01)
    assert (
        change_speed(tone(440), 1, rate_hz=16000) is not None
        and len(change_speed(tone(440), 0.8, rate_hz=16000)) == 20000
    )


@pytest.mark.parametrize("snr_db", [0.0, 10.0, -5.0])
def test_noise_is_mixed_at_its_level(snr_db):
    speech, noise = tone(440), np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    added = mix(speech, noise, snr_db=snr_db, rate_hz=16000) - speech
    assert 10 * np.log10((speech**2).mean() / (added**2).mean()) == pytest.approx(snr_db, abs=0.05)


def test_silence_is_not_mixed():
    assert np.array_equal(
        mix(np.zeros(100, np.float32), tone(440)[:100], snr_db=5, rate_hz=16000), np.zeros(100)
    )
    assert np.array_equal(
        mix(tone(440), np.zeros(16000, np.float32), snr_db=5, rate_hz=16000), tone(440)
    )


def test_a_telephone_keeps_the_voice_and_loses_what_is_above_4_khz():
    low, high = telephone(tone(1000), rate_hz=16000), telephone(tone(6000), rate_hz=16000)
    assert len(low) == 16000 and low.dtype == np.float32
    inside = slice(1000, 15000)
    assert (
        10 * np.log10((tone(1000)[inside] ** 2).mean() / ((low - tone(1000))[inside] ** 2).mean())
        > 30
    )
    assert (high[inside] ** 2).mean() < 1e-4 * (tone(6000)[inside] ** 2).mean()


def test_noise_shorter_than_the_speech_is_repeated_and_longer_is_cut(tmp_path):
    soundfile.write(tmp_path / "n.wav", tone(100, seconds=0.5), 16000)
    noise = Utterance(str(tmp_path / "n.wav"), 0.5, "")
    assert len(cut_noise(noise, seconds=1.3, rate_hz=16000, position=0.9)) == 20800
    assert len(cut_noise(noise, seconds=0.2, rate_hz=16000, position=1.0)) == 3200


def test_noise_comes_from_a_folder_or_a_manifest_without_texts(tmp_path):
    (tmp_path / "sub").mkdir()
    soundfile.write(tmp_path / "sub" / "n.wav", tone(100, seconds=0.5), 16000)
    (tmp_path / "LICENSE").write_text("free")
    (found,) = read_noises(str(tmp_path))
    assert found.duration == 0.5
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "sub/n.wav", "duration": 0.5}\n')
    assert read_noises(str(tmp_path / "m.jsonl"))[0].audio_filepath == found.audio_filepath


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": [0.1]}, "between 0.5 and 2"),
        ({"speed": []}, "between 0.5"),
        ({"noise_snr_db": [20, 5]}, "lowest and the highest"),
        ({"codec_probability": 2}, "between 0 and 1"),
        ({"noise_manifest": "nowhere.jsonl"}, "No manifest"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        build(seed=1, **OFF | change)


def test_an_empty_folder_of_noise_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no audio"):
        build(seed=1, **OFF | {"noise_manifest": str(tmp_path)})


def test_nothing_asked_for_is_nothing_done():
    assert build(seed=1, **OFF) is None
    assert build(seed=1, **OFF | {"noise_probability": 0.0, "noise_manifest": "nowhere"}) is None


@pytest.fixture
def noisy(tmp_path):
    soundfile.write(
        tmp_path / "n.wav", np.random.default_rng(0).standard_normal(32000) * 0.1, 16000
    )
    return build(
        seed=7,
        **OFF
        | {"speed": [0.9, 1.0, 1.1], "noise_manifest": str(tmp_path), "codec_probability": 0.5},
    )


def heard(utterances, augment, *, num_ranks, start=0, stop=40):
    plan = Plan(
        utterances,
        num_domain=len(utterances),
        batch_seconds=4,
        seed=1,
        num_ranks=num_ranks,
        augmentation=augment,
    )
    dataset = BatchDataset(utterances, lambda text: [1], rate_hz=16000, augmentation=augment)
    return {
        index: dataset.read(index).tobytes()
        for rank in range(num_ranks)
        for batch in BatchSequence(plan, rank=rank, start=start, stop=stop // num_ranks)
        for index in batch
        if index < 2 * len(utterances)
    }


def test_an_utterance_sounds_the_same_on_any_number_of_ranks_and_other_in_each_pass(speech, noisy):
    found = read_manifest(speech(count=8))
    one, two = heard(found, noisy, num_ranks=1), heard(found, noisy, num_ranks=2)
    assert set(range(16)) <= one.keys() & two.keys() and all(one[i] == two[i] for i in range(16))
    assert sum(one[i] != one[i + 8] for i in range(8)) >= 6
    assert heard(found, noisy, num_ranks=1, start=3).items() <= one.items()


def test_the_plan_counts_the_seconds_that_are_played(speech, noisy):
    found = read_manifest(speech(count=8))
    plan = Plan(found, num_domain=8, batch_seconds=4, seed=1, augmentation=noisy)
    dataset = BatchDataset(found, lambda text: [1], rate_hz=16000, augmentation=noisy)
    for number in (0, 1):
        durations = plan.durations_of_pass(number)
        for index, seconds in enumerate(durations):
            assert len(dataset.read(index + 8 * number)) / 16000 == pytest.approx(seconds, abs=1e-3)
        assert all(
            max(durations[i] for i in batch) * len(batch) <= 4
            for batch in plan.batches_of_pass(number)
            if len(batch) > 1
        )


def test_the_loader_tells_what_its_live_data_set_does(tiny_model, speech, noisy):
    plan = Plan(
        read_manifest(speech(count=8)),
        num_domain=8,
        batch_seconds=4,
        seed=1,
        augmentation=noisy,
    )
    facts = augmentation_facts(train_loader(plan, tiny_model("ctc"), num_batches=2, num_workers=0))
    assert (
        facts["speeds"] == [0.9, 1.0, 1.1]
        and facts["noises"] == 1
        and facts["codec_probability"] == 0.5
    )
    assert (
        augmentation.Augmentation(1, (1.0,), [], (5, 20), 0.5, 0.0).facts()["noise_probability"]
        == 0
    )


NONE = dict.fromkeys(("freq_masks", "freq_width", "time_masks", "time_width"))


@pytest.mark.parametrize("family", ["ctc", "tdt"])
def test_the_masks_that_are_told_are_drawn_in_training_and_not_in_evaluation(family, tiny_model):
    model = tiny_model(family)
    told = set_spec_augment(model, **NONE | {"freq_masks": 1, "freq_width": 80, "time_masks": 0})
    assert (
        told
        == spec_augment_facts(model)
        == {"freq_masks": 1, "time_masks": 0, "freq_width": 80, "time_width": 0.05}
    )
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["audio_signal"]), with_kwargs=True
    )
    torch.manual_seed(0)
    audio, lengths = torch.randn(8, 16000), torch.full((8,), 16000)
    for mode in (True, False):
        model.train(mode)
        model.forward(input_signal=audio, input_signal_length=lengths)
    masked = [(features.abs().sum(2) == 0).sum().item() for features in seen]
    assert masked[0] > 40 and masked[1] == 0


def test_masks_can_be_switched_off_kept_and_given_to_a_model_without(tiny_model):
    model = tiny_model("ctc")
    kept = set_spec_augment(model, **NONE)
    assert kept == {"freq_masks": 2, "time_masks": 10, "freq_width": 27, "time_width": 0.05}
    assert (
        set_spec_augment(model, **NONE | {"freq_masks": 0, "time_masks": 0}) is None
        and spec_augment_facts(model) is None
    )
    with pytest.raises(UserError, match="no freq_width"):
        set_spec_augment(model, **NONE | {"freq_masks": 2})
    assert set_spec_augment(model, **NONE | {"freq_masks": 2, "freq_width": 9})["freq_width"] == 9
    with pytest.raises(UserError, match="80 mels"):
        set_spec_augment(model, **NONE | {"freq_width": 81})
