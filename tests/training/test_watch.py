"""What is said at a validation: alarms after streaks, collapse told from a phase that passes."""

import pytest

from parakeet_ft.training import watch


def point(step, wer=0.3, guard=0.2, **signs):
    healthy = {"val_blank_ratio": 0.7, "val_length_ratio": 1.0, "val_unk_ratio": 0.0}
    return (
        {"step": step, "val_wer": wer, "guard_wer": guard}
        | healthy
        | {f"val_{key}_ratio": value for key, value in signs.items()}
    )


def test_the_signs_are_ratios_of_words_frames_and_unknown_pieces():
    assert watch.signs(["a b c", "d"], ["a", "⁇ x ⁇"], silent_frames=30, frames=40) == {
        "val_blank_ratio": 0.75,
        "val_length_ratio": 1.0,
        "val_unk_ratio": 0.5,
    }
    assert watch.signs(["a"], [""], silent_frames=0, frames=0) == {
        "val_blank_ratio": 0,
        "val_length_ratio": 0,
        "val_unk_ratio": 0,
    }


def test_a_healthy_model_is_not_mentioned():
    assert watch.phase(point(50), num_steps=100, settling=True) == ("healthy", "")


@pytest.mark.parametrize(
    ("settling", "step", "name"),
    [(True, 30, "expected"), (True, 31, "collapse"), (False, 5, "collapse")],
)
def test_silence_is_expected_early_with_a_fresh_vocabulary_and_a_collapse_otherwise(
    settling, step, name
):
    found, words = watch.phase(
        point(step, length=0.02, blank=0.99), num_steps=100, settling=settling
    )
    assert found == name and "hardly speaks" in words and "99.0 % of frames blank" in words
    assert ("expected at this phase" in words) == (name == "expected") != ("COLLAPSE" in words)


def test_babble_and_unknown_pieces_are_named():
    assert "babbles" in watch.phase(point(9, length=3), num_steps=10, settling=False)[1]
    assert "cannot write" in watch.phase(point(9, unk=0.2), num_steps=10, settling=False)[1]


LIMITS = {"base_wer": 0.5, "tolerated": {"guard": 0.22}}


def test_a_streak_ends_at_the_last_validation_that_was_no_worse():
    history = [
        point(1, wer=0.9),
        point(2, wer=0.5),
        point(3, wer=0.51),
        point(4, wer=0.7, guard=0.23),
    ]
    assert watch.streaks(history, **LIMITS) == {"domain": 2, "guard": 1}
    assert watch.streaks([], **LIMITS) == {"domain": 0, "guard": 0}
    assert watch.streaks(history, **LIMITS | {"tolerated": {}}) == {"domain": 2}


def test_each_guard_has_its_own_streak_and_alarm():
    rates = [{"guard": 0.2, "kids": 0.3}, {"guard": 0.21, "kids": 0.4}, {"guard": 0.3, "kids": 0.4}]
    history = [point(n) | {"guard_wers": found} for n, found in enumerate(rates)]
    found = watch.streaks(history, base_wer=0.5, tolerated={"guard": 0.22, "kids": 0.35})
    assert found == {"domain": 0, "guard": 1, "kids": 2}
    (alarm,) = watch.alarms(found, [], alarm_after=2).values()
    assert alarm.startswith("guard kids WER is above") and "data.guards.kids.replay" in alarm
    assert watch.stop_reason(found, patience=2).startswith("stopped early: kids worse")


def test_a_phase_that_is_expected_is_no_streak():
    history = [point(1, wer=0.9) | {"phase": "expected"}, point(2, wer=0.9) | {"phase": "healthy"}]
    assert watch.streaks(history, **LIMITS)["domain"] == 1


def test_alarms_begin_at_their_number_and_stopping_at_the_patience():
    (alarm,) = watch.alarms({"domain": 1, "guard": 2}, [], alarm_after=2).values()
    assert alarm.startswith(
        "guard WER is above the untouched checkpoint's by more than "
        "evaluation.guard_tolerance for 2 validations in a row. "
    )
    assert "data.replay.ratio" in alarm and "optim.lr" in alarm, "what can be done"
    told = [{"alarms": {"guard": alarm}}, {}]
    found = {"domain": 2, "guard": 3}
    assert list(watch.alarms(found, told, alarm_after=2)) == ["domain"], "each is told once"
    assert (
        watch.stop_reason({"domain": 3, "guard": 2}, patience=3)
        == "stopped early: domain worse for 3 validations in a row (evaluation.patience)"
    )
    assert (
        watch.stop_reason({"domain": 2, "guard": 2}, patience=3) is None
        and watch.stop_reason({"domain": 99}, patience=None) is None
    )


def test_the_sample_is_fixed_spread_and_never_larger_than_the_set():
    assert watch.sample(3) == [0, 1, 2] and watch.sample(0) == []
    assert watch.sample(100, size=4) == [0, 33, 66, 99]
