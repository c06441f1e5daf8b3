"""The quick check names what is wrong and lets what is right pass."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.audit import quick_check
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance, write_manifest
from parakeet_ft.data.overlap import check_overlap, shared_stretches
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.errors import UserError


@pytest.fixture
def utterances(tmp_path):
    out = []
    for i in range(12):
        soundfile.write(
            tmp_path / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(16000), 16000
        )
        out.append(
            Utterance(audio_filepath=str(tmp_path / f"{i}.wav"), duration=1.0, text=f"number {i}")
        )
    return out


def test_sound_utterances_pass_without_a_word(utterances):
    assert quick_check(utterances) == []


def test_no_utterance_is_an_error():
    with pytest.raises(UserError, match="no utterance"):
        quick_check([])


def test_missing_audio_is_counted_and_five_files_are_named(utterances):
    gone = [
        dataclasses.replace(u, audio_filepath=u.audio_filepath + ".gone") for u in utterances[:7]
    ]
    with pytest.raises(UserError) as error:
        quick_check(gone + utterances[7:])
    assert (
        "7 audio files that do not exist" in str(error.value)
        and str(error.value).count(".gone") == 5
    )


def test_some_empty_texts_warn_and_all_empty_texts_stop(utterances):
    silent = [dataclasses.replace(u, text=" ") for u in utterances]
    assert "1 of 12 texts are empty" in quick_check(silent[:1] + utterances[1:])[0]
    with pytest.raises(UserError, match=r"all 12 utterances is empty.*answer"):
        quick_check([dataclasses.replace(u, extra={"answer": "x"}) for u in silent])
    assert quick_check([dataclasses.replace(u, extra={"non_speech": True}) for u in silent]) == []


def test_an_unreadable_sample_stops(utterances, tmp_path):
    (tmp_path / "3.wav").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"1 of 12 sampled utterances cannot be read(.|\n)*3.wav"):
        quick_check(utterances)


def test_wrong_durations_warn_when_few_and_stop_when_many(utterances):
    longer = [dataclasses.replace(u, duration=3.0) for u in utterances]
    assert "ends at 3.00 s, its file at 1.00 s" in quick_check(longer[:1] + utterances[1:])[0]
    with pytest.raises(UserError, match="12 of 12 sampled durations are wrong"):
        quick_check(longer)
    assert quick_check([dataclasses.replace(u, offset=0.5, duration=0.5) for u in utterances]) == []


def test_the_sample_bounds_the_files_that_are_opened(utterances, monkeypatch):
    from parakeet_ft.data import audio

    probed = []
    monkeypatch.setattr(
        audio, "probe", lambda path: probed.append(path) or audio.AudioInfo(1.0, 16000, 1)
    )
    quick_check(utterances * 10, sample=5)
    assert len(probed) == 5


def test_the_check_imports_neither_torch_nor_nemo_nor_pandas():
    code = (
        "import sys, parakeet_ft.data.audit; print([m for m in ('torch', 'nemo', 'pandas', "
        "'lightning', 'scipy') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def stretch(path="a.wav", offset=0.0, duration=2.0, text="one two"):
    return Utterance(path, duration, text, offset=offset)


def test_scored_audio_that_is_trained_on_is_refused_with_its_number_and_two_examples():
    train = [stretch(f"{i}.wav") for i in range(10)]
    sets = {
        "train": train,
        "validation": train[3:8] + [stretch("x.wav")],
        "test": [stretch("y.wav")],
    }
    with pytest.raises(UserError) as caught:
        check_overlap(sets)
    message = str(caught.value)
    assert (
        "5 of the 6 utterances of data.validation are in data.train: 3.wav at 0 s; 4.wav" in message
    )
    assert "5.wav" not in message and "data.test" not in message
    assert "data.allow_overlap=true" in message
    assert "5 of the 6" in check_overlap(sets, allowed=True)[-1]


def test_replay_is_trained_on_too():
    sets = {
        "train": [stretch("t.wav")],
        "validation": [stretch("v.wav")],
        "guard_test": [stretch()],
        "replay": [stretch()],
    }
    with pytest.raises(
        UserError, match="1 of the 1 utterances of data.guard_test are in data.replay"
    ):
        check_overlap(sets)


@pytest.mark.parametrize(
    ("begin", "end", "shared"),
    [
        (0.0, 2.0, True),
        (0.5, 2.5, True),
        (10.0, 12.0, False),
        (1.9, 3.7, False),
        (3.0, 5.0, True),
        (100.0, 101.0, True),
        (98.0, 99.5, False),
    ],
)
def test_stretches_of_one_recording_are_shared_by_more_than_half(begin, end, shared):
    train = [
        stretch(offset=offset, duration=length)
        for offset, length in ((0.0, 2.0), (2.9, 2.3), (6.0, 1.0), (99.0, 30.0))
    ]
    scored = stretch(offset=begin, duration=end - begin)
    by_force = any(
        min(end, u.offset + u.duration) - max(begin, u.offset) > (end - begin) / 2 for u in train
    )
    assert bool(shared_stretches([scored], train)) == shared == by_force


def test_the_same_text_and_length_elsewhere_is_a_warning():
    sets = {
        "train": [stretch("a.wav"), stretch("b.wav", text="three")],
        "validation": [stretch("c.wav")],
    }
    (line,) = check_overlap(sets)
    assert "1 of the 1 utterances of data.validation have the text and the length of one" in line
    assert check_overlap(sets | {"test": sets["validation"]}) == [line], "one set is told once"
    sets["validation"] = [stretch("c.wav", duration=2.1)]
    assert check_overlap(sets) == []


@pytest.mark.parametrize("layout", ["files", "nemo", "shar"])
@pytest.mark.parametrize("damage", ["cut off", "flipped"])
def test_audio_that_is_damaged_behind_its_header_is_found_in_files_and_in_shards(
    damage, layout, tmp_path
):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.flac", noise, 16000)
    whole = (tmp_path / "1.flac").read_bytes()
    half = len(whole) // 2
    broken = whole[:half] if damage == "cut off" else whole[:half] + bytes(2000) + whole[half:]
    lines = [Utterance(f"{i}.flac", 2.0, f"number {i}") for i in range(3)]
    write_manifest(lines, tmp_path / "m.jsonl")
    if layout == "files":
        (tmp_path / "1.flac").write_bytes(broken)
        found = Corpus.open(tmp_path / "m.jsonl")
    else:

        def encode(utterance, folder):
            mine = utterance.audio_filepath == "1.flac"
            return (broken if mine and layout == "nemo" else whole), ".flac", 2.0

        write_shards(
            tmp_path / "m.jsonl",
            out=tmp_path / "out",
            format=layout,
            executor=InlineExecutor,
            encode=encode,
        )
        found = Corpus.open(str(tmp_path / "out"))
        if layout == "shar":
            member = found[1].member
            with open(member.file, "r+b") as tar:
                tar.seek(member.start + half)
                tar.write(bytes(len(whole) - half if damage == "cut off" else 2000))
    with pytest.raises(UserError, match="1 of 3 sampled utterances cannot be read"):
        quick_check(found)


def test_of_a_long_utterance_the_last_minute_is_heard(tmp_path):
    soundfile.write(tmp_path / "a.flac", 0.1 * np.ones(90 * 8000), 8000)
    long = Utterance(str(tmp_path / "a.flac"), 90.0, "x")
    assert quick_check([long]) == []
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[:-20])
    with pytest.raises(UserError, match="1 of 1 sampled utterances cannot be read"):
        quick_check([long])
    (tmp_path / "a.flac").write_bytes(data)
    (warning,) = quick_check([long] * 10 + [dataclasses.replace(long, duration=200.0)])
    assert "ends at 200.00 s, its file at 90.00 s" in warning


def test_a_word_that_another_says_in_the_same_time_is_no_warning():
    def said(path, speaker, text="seven"):
        return Utterance(path, 2.0, text, speaker=speaker)

    def warned(train, validation):
        return bool(check_overlap({"train": [train], "validation": [validation]}))

    assert not warned(said("a.wav", "ann"), said("b.wav", "bob"))
    assert warned(said("a.wav", "ann"), said("b.wav", "ann"))
    assert warned(said("a.wav", None), said("b.wav", "bob"))
    assert warned(said("a.wav", "ann"), said("b.wav", None))
    text = "it is long enough to be known again"
    assert warned(said("a.wav", "ann", text), said("b.wav", "bob", text))
