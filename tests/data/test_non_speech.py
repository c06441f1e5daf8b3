"""Non-speech: the hours asked for, no text, levels within bounds, the same for a seed."""

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.audit import quick_check
from parakeet_ft.data.manifest import read_manifest, write_manifest
from parakeet_ft.data.non_speech import KINDS, cut_folder, make_synthetic, synthesize
from parakeet_ft.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_sound_within_its_level(kind):
    samples = synthesize(kind, seconds=2.0, rate_hz=16000, rng=np.random.default_rng(1))
    level_dbfs = 20 * np.log10(np.sqrt(np.mean(samples**2)))
    assert len(samples) == 32000 and np.isfinite(samples).all() and np.abs(samples).max() <= 1
    assert (-91 if kind == "silence" else -51) < level_dbfs < (-64 if kind == "silence" else -14)


def test_an_unknown_kind_is_named():
    with pytest.raises(UserError, match="'rain', expected one of silence"):
        synthesize("rain", seconds=1.0, rate_hz=16000, rng=np.random.default_rng(0))


def test_synthetic_utterances_fill_the_hours_and_pass_the_check(tmp_path):
    write_manifest(make_synthetic(tmp_path, hours=0.01, max_seconds=4.0), tmp_path / "train.jsonl")
    utterances = read_manifest(tmp_path / "train.jsonl")
    assert (
        36 <= sum(u.duration for u in utterances) < 41
        and {u.text for u in utterances} == {""}
        and len({u.extra["kind"] for u in utterances}) == len(KINDS)
    )
    assert quick_check(utterances) == []
    first = (tmp_path / "audio").joinpath("white-00001.flac").read_bytes()
    list(make_synthetic(tmp_path / "again", hours=0.01, max_seconds=4.0))
    assert (tmp_path / "again" / "audio" / "white-00001.flac").read_bytes() == first


def test_recordings_are_cut_in_turn(tmp_path):
    for i, name in enumerate(("rain", "music")):
        soundfile.write(
            tmp_path / f"{name}.wav",
            0.1 * np.random.default_rng(i).standard_normal(44100 * 5),
            44100,
        )
    (tmp_path / "broken.wav").write_text("no audio")
    made = list(cut_folder(tmp_path, tmp_path / "out", hours=0.003, max_seconds=3.0))
    assert {u.audio_filepath.split("-")[0] for u in made} == {"audio/rain", "audio/music"} and sum(
        u.duration for u in made
    ) >= 10.8
    assert all(
        abs(soundfile.info(tmp_path / "out" / u.audio_filepath).duration - u.duration) < 1e-3
        for u in made
    )


def test_a_folder_without_audio_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no audio of 1 s or more"):
        list(cut_folder(tmp_path, tmp_path / "out", hours=0.01))
