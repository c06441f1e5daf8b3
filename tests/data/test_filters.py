"""Each filter drops what it names, at its bound and not before."""

import dataclasses

import pytest

from parakeet_ft.data.audio import Measured
from parakeet_ft.data.filters import REASONS, Limits, ctc_length, encoder_frames, reason_to_drop
from parakeet_ft.data.manifest import Utterance

GOOD = Utterance(audio_filepath="a.wav", duration=2.0, text="hello there")
HEARD = Measured(duration=2.0, rate_hz=16000, channels=1, level_dbfs=-20.0, peak_dbfs=-3.0)


def reason(utterance=GOOD, measured=HEARD, limits=None, **options):
    found = reason_to_drop(utterance, measured, limits=limits or Limits(), **options)
    return found and found[0]


def test_a_good_utterance_stays():
    assert reason() is None


@pytest.mark.parametrize(
    ("expected", "text", "changes"),
    [
        ("empty_text", " ", {}),
        ("not_utf8", "f\udcfcr", {}),
        ("unreadable", "hello", {"reason": "unreadable"}),
        ("too_short", "h", {"duration": 0.05}),
        ("too_long", "hello " * 20, {"duration": 30.5}),
        ("silent", "hello", {"level_dbfs": -61.0}),
        ("clipped", "hello", {"clipped_share": 0.06}),
        ("too_few_chars", "h", {"duration": 20.0}),
        ("too_many_chars", "h" * 100, {}),
        ("ctc_unalignable", "a b c d e f g h i j k l m n", {"duration": 1.0}),
    ],
)
def test_each_reason(expected, text, changes):
    assert (
        reason(dataclasses.replace(GOOD, text=text), dataclasses.replace(HEARD, **changes))
        == expected
        and expected in REASONS
    )


def test_bounds_are_kept_themselves():
    limits = Limits(
        min_duration=2.0,
        max_duration=2.0,
        min_chars_per_second=5.5,
        max_chars_per_second=5.5,
        min_level_dbfs=-20.0,
        max_clipped=0.0,
    )
    assert reason(limits=limits) is None


def test_none_switches_a_filter_off():
    off = Limits(
        **{
            field.name: None
            for field in dataclasses.fields(Limits)
            if field.name.startswith(("min_", "max_", "ctc"))
        }
    )
    assert reason(dataclasses.replace(GOOD, text="x" * 500), Measured(duration=500.0), off) is None


def test_non_speech_may_be_silent_and_without_text():
    silence = dataclasses.replace(GOOD, text="", extra={"non_speech": True})
    assert reason(silence, dataclasses.replace(HEARD, level_dbfs=-120.0)) is None


def test_what_the_tokenizer_cannot_write_is_dropped():
    ids = {"a": 1, "b": 2}

    def encode(text):
        return [ids.get(c, 0) for c in text]

    assert reason(dataclasses.replace(GOOD, text="abab"), encode=encode) is None
    assert reason(dataclasses.replace(GOOD, text="abxb"), encode=encode) == "unknown_chars"


def test_ctc_needs_a_blank_between_equal_tokens():
    assert ctc_length([1, 1, 2, 1]) == 5
    # 0.32 s are 32 mel frames and 4 encoder frames: room for 4 different tokens, not for 3 equal
    # ones.
    short = dataclasses.replace(HEARD, duration=0.32)
    assert encoder_frames(0.32) == 4
    assert (
        reason(dataclasses.replace(GOOD, text="abab"), short, encode=lambda t: [ord(c) for c in t])
        is None
    )
    assert (
        reason(dataclasses.replace(GOOD, text="aaa"), short, encode=lambda t: [ord(c) for c in t])
        == "ctc_unalignable"
    )


def test_encoder_frames_are_those_of_the_model(tiny_model):
    import torch

    model = tiny_model("ctc")
    for num_samples in (3200, 3201, 16000, 17777, 20479, 20480):
        with torch.no_grad():
            _, length, _ = model(
                input_signal=torch.randn(1, num_samples),
                input_signal_length=torch.tensor([num_samples]),
            )
        assert encoder_frames(num_samples / 16000) == int(length)


def test_a_claimed_length_that_the_file_lacks_is_wrong():
    limits = Limits(check_claimed_duration=True)
    assert (
        reason(limits=limits, claimed=2.2) is None
        and reason(limits=limits, claimed=2.5) == "wrong_duration"
    )
