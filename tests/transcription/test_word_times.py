"""Words between known pauses, whether the model writes them early, late or in the pause itself."""

import numpy as np
import pytest

from parakeet_ft.transcription.word_times import REACH_SECONDS, pauses, word_spans

# Three words of 0.4 s with pauses of 0.3 s around them, in 2.4 s.
WORDS = [(0.3, 0.7), (1.0, 1.4), (1.7, 2.1)]


def tones(words, *, seconds, noise=1e-4):
    time = np.arange(round(16000 * seconds)) / 16000
    speech = sum(
        ((time >= begin) & (time < end)) * 0.3 * np.sin(2 * np.pi * 200 * time)
        for begin, end in words
    )
    return (speech + noise * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize(
    "place",
    [0.0, 0.2, 0.39, 0.45],
    ids=["at the begin", "in the middle", "at the end", "in the pause after"],
)
def test_a_word_lasts_from_pause_to_pause_wherever_in_it_its_token_was_written(place):
    quiet = pauses(tones(WORDS, seconds=2.4), rate_hz=16000)
    written = [((begin + place, begin + place + 0.08),) * 2 for begin, _ in WORDS]
    found = word_spans(written, quiet, duration=2.4)
    assert np.abs(np.array(found) - WORDS).max() <= 0.03


def test_a_first_token_written_in_the_silence_before_all_speech_begins_with_the_speech():
    quiet = pauses(tones(WORDS[1:], seconds=2.4), rate_hz=16000)
    first, _ = word_spans([((-0.04, 0.04), (1.2, 1.28)), ((1.9, 1.98),) * 2], quiet, duration=2.4)
    assert first == (pytest.approx(1.0, abs=0.03), pytest.approx(1.4, abs=0.03))


def test_words_without_a_pause_between_meet_halfway_between_their_tokens():
    assert word_spans(
        [((0.2, 0.28), (0.3, 0.38)), ((0.58, 0.66), (0.7, 0.78))], [], duration=1.0
    ) == [(0.2, pytest.approx(0.48)), (pytest.approx(0.48), 0.78)]


def test_noise_that_covers_the_pauses_leaves_the_frames_alone():
    assert pauses(tones(WORDS, seconds=2.4, noise=0.3), rate_hz=16000) == []
    assert (
        pauses(np.zeros(0, dtype=np.float32), rate_hz=16000)
        == []
        == pauses(np.zeros(16000, dtype=np.float32), rate_hz=16000)
    )


def test_speech_that_nobody_wrote_down_belongs_to_no_word():
    """Ten seconds between two tokens are not theirs."""
    first, second = word_spans([((1.0, 1.08),) * 2, ((11.0, 11.08),) * 2], [], duration=12.0)
    assert first[1] <= 1.08 + REACH_SECONDS and second[0] >= 11.0 - REACH_SECONDS


def test_words_never_overlap_nor_leave_the_recording_whatever_the_frames_say():
    rng = np.random.default_rng(0)
    for _ in range(300):
        starts = np.sort(rng.integers(0, 30, size=rng.integers(1, 12))) * 0.08
        lasts = starts + 0.08 * rng.integers(0, 3, len(starts))
        carried = [
            ((s - 0.04, s + 0.04), (e - 0.04, e + 0.04)) for s, e in zip(starts, lasts, strict=True)
        ]
        edges = np.sort(rng.uniform(0, 2.4, size=2 * rng.integers(0, 6)))
        found = word_spans(
            carried, list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)), duration=2.4
        )
        times = [time for span in found for time in span]
        assert (
            len(found) == len(carried)
            and times == sorted(times)
            and min(times) >= 0
            and max(times) <= 2.4
        )
    assert word_spans([], [(0.0, 1.0)], duration=1.0) == []
