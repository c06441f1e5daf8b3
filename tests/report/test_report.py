"""The report's words and pictures follow its figures."""

import base64
import io
import itertools
import re

import numpy
import pytest
import soundfile

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.report import page, report
from parakeet_ft.scoring import breakdown, wer, words


def example(domain=(0.6, 0.2), guard=(0.2, 0.21), verdicts=("better", "not distinguishable")):
    def score(value):
        return {"wer": value, "words": 100, "cer": value / 2, "wer_normalized": value}

    result = {
        "baseline": {"domain": score(domain[0])},
        "tuned": {"domain": score(domain[1])},
        "guard_tolerance": 0.02,
        "comparison": {"domain": {"verdict": verdicts[0]}},
    }
    if guard:
        result["baseline"]["guard"], result["tuned"]["guard"] = score(guard[0]), score(guard[1])
        result["comparison"]["guard"] = {"verdict": verdicts[1]}
    return result


def test_the_verdict_says_what_was_gained_and_what_was_forgotten():
    text = report.verdict(example())
    assert (
        "fell from 60.0 % to 20.0 % (better)" in text
        and "went from 20.0 % to 21.0 % (not distinguishable, +1.0 points)" in text
        and "MORE THAN" not in text
    )


def test_the_verdict_is_loud_when_more_than_the_tolerance_is_forgotten():
    assert "MORE THAN THE TOLERANCE of 2.0 points" in report.verdict(example(guard=(0.2, 0.3)))


def test_without_guard_the_verdict_says_that_forgetting_is_unknown():
    assert "not known" in report.verdict(example(guard=None))


def test_the_last_line_has_both_changes_with_their_intervals_in_80_columns():
    found = example(domain=(0.61, 0.123), guard=(0.241, 0.249))
    assert words.summary_line(found) == "domain WER 61.0 -> 12.3 % | guard 24.1 -> 24.9 %"
    found["comparison"]["domain"] |= {"low": -0.512, "high": -0.461}
    found["comparison"]["guard"] |= {"low": -0.0004, "high": 0.0173}
    line = words.summary_line(found)
    assert line == ("domain WER 61.0 -> 12.3 % [-51.2, -46.1] | guard 24.1 -> 24.9 % [-0.0, +1.7]")
    assert len(line) <= 80


def with_guards(**guards):
    """A report of some guards: WER before and after, tolerance."""
    result = example(guard=None) | {"guard_tolerances": {}}
    for name, (before, after, tolerance) in guards.items():
        result["guard_tolerances"][name] = tolerance
        for when, rate in (("baseline", before), ("tuned", after)):
            result[when][name] = {"wer": rate, "words": 100, "cer": 0.1, "wer_normalized": rate}
        result["comparison"][name] = {"verdict": "worse", "low": 0.01, "high": 0.05}
    return result


def test_of_several_guards_each_has_its_sentence_by_its_own_tolerance():
    text = report.verdict(with_guards(guard=(0.2, 0.21, 0.02), kids=(0.3, 0.33, 0.01)))
    assert "; guard WER rose from 20.0 % to 21.0 % (worse, +1.0 points); guard kids WER " in text
    assert text.endswith(": MORE THAN THE TOLERANCE of 1.0 points was forgotten.")
    assert text.count("MORE THAN") == 1


def test_the_last_line_names_the_guard_that_used_most_of_its_tolerance():
    several = with_guards(guard=(0.2, 0.23, 0.1), kids=(0.3, 0.31, 0.01), free=(0.1, 0.9, None))
    line = words.summary_line(several)
    assert line.endswith(" | guard kids (worst of 3) 30.0 -> 31.0 % [+1.0, +5.0]")
    only = words.summary_line(with_guards(kids=(0.3, 0.31, 0.01)))
    assert only.endswith(" | guard kids 30.0 -> 31.0 % [+1.0, +5.0]")


def test_the_rows_of_guards_tell_tolerance_and_outcome():
    found = with_guards(guard=(0.2, 0.21, 0.02), kids=(0.3, 0.33, 0.01), free=(0.1, 0.9, None))
    rows = {name: page.guard_row(found, name) for name in ("guard", "kids", "free")}
    assert [row["outcome"] for row in rows.values()] == ["kept", "MORE THAN TOLERATED", "-"]
    assert [row["tolerated"] for row in rows.values()] == ["2.0", "1.0", "-"]
    assert rows["kids"]["name"] == "guard kids" and rows["kids"]["change"] == "+1.0 to +5.0: worse"


def test_a_report_of_an_earlier_version_has_one_guard_and_its_tolerance():
    assert page.guard_row(example(guard=(0.2, 0.3)), "guard")["outcome"] == "MORE THAN TOLERATED"
    assert page.rates_of({"val_wer": 0.5, "guard_wer": 0.2}) == {"domain": 0.5, "guard": 0.2}


def test_the_curve_has_a_line_for_each_guard_and_names_that_do_not_touch():
    history = [
        {"step": s, "val_wer": 0.5, "guard_wers": {"a<b": 0.2, "radio": 0.2, "kids": 0.21}}
        for s in (0, 10)
    ]
    svg = page.learning_curve(history, best_step=-1)
    assert svg.count("<polyline") == 4 and svg.count('<polyline class="guard"') == 3
    assert "a&lt;b 20.0 %" in svg
    names = re.findall(r'<text class="\w+ end" x="[\d.]+" y="([\d.]+)"', svg)
    heights = sorted(map(float, names))
    assert len(heights) == 4
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 17.9


def test_names_stay_where_they_are_if_nothing_touches():
    assert page.apart([10, 40, 90], least=18) == [10, 40, 90]
    assert page.apart([40, 44], least=18) == [33, 51]
    assert page.apart([40, 44, 60], least=18) == [30, 48, 66]


def test_a_diff_marks_missed_invented_and_wrong_words_and_escapes_text():
    shown = page.diff_html("a b <c> d", "a x d e")
    assert (
        "<del>" in shown
        and "<ins>e</ins>" in shown
        and 'class="sub"' in shown
        and "<c>" not in shown
    )
    assert page.diff_html("", "") == "<i>nothing</i>"


def test_utterances_are_listed_worst_first_and_the_changed_by_errors_won_or_lost():
    utterances = [
        Utterance("a.wav", 1, "one two", speaker="s"),
        Utterance("b.wav", 1, "three", speaker="t"),
        Utterance("c.wav", 1, "a b c d"),
    ]
    rows = report.utterance_rows(
        utterances, ["one two", "three", "x x c d"], ["one two", "tree", "a b c d"]
    )
    assert [(row["reference"], row["errors_before"], row["errors_after"]) for row in rows] == [
        ("three", 0, 1),
        ("a b c d", 2, 0),
        ("one two", 0, 0),
    ]
    assert [row["reference"] for row in words.most_changed(rows, most=5)] == ["a b c d", "three"]
    assert len(words.most_changed(rows, most=1)) == 1


def test_a_breakdown_pairs_each_groups_figures_before_and_after():
    utterances = [Utterance("a.wav", 1, "one two"), Utterance("b.wav", 7, "three")]
    rows = report.groups_before_after(
        *(breakdown.by_duration(utterances, texts) for texts in (["", ""], ["one two", "tree"]))
    )
    assert [(row["group"], row["wer_before"], row["wer_after"]) for row in rows] == [
        ("below 2 s", 1, 0),
        ("5 to 10 s", 1, 1),
    ]


def test_an_interval_of_one_speaker_says_so():
    found = {"low": -0.05, "high": -0.012, "verdict": "better", "speakers": 1}
    assert words.interval_words(found).startswith("-5.0 to -1.2: better (for this one speaker")


def test_an_interval_is_told_in_points_and_words():
    assert (
        words.interval_words({"low": -0.05, "high": -0.012, "verdict": "better"})
        == "-5.0 to -1.2: better"
    )
    assert (
        words.interval_words({"low": None, "high": None, "verdict": "not distinguishable"})
        == "not distinguishable from before"
    )


def test_remarks_of_validations_and_bad_batches_are_told_once():
    history = [
        {"step": 10, "remarks": ["babbles"]},
        {"step": 20, "remarks": ["babbles", "guard worse"], "alarms": {"guard": "guard worse"}},
    ]
    history += [{"step": 30, "remarks": ["stopped"]}, {"step": 40}]
    bad = {"bad_batches": {"count": 2}}
    assert report.remarks(history, bad, ended_well=False) == [
        "While training, at 2 validations, steps 10 to 20: babbles",
        "While training, at step 20: guard worse",
        "While training, at step 30: stopped",
        "This is about the weights during training; the figures are of best.nemo, which was chosen "
        "after it.",
        "2 training batches had no finite loss or gradient and taught nothing: see "
        "bad_batches.jsonl.",
    ]
    assert report.remarks([{"step": 0}], {}, ended_well=False) == []
    well = report.remarks(history, bad, ended_well=True)
    assert not any("guard worse" in line for line in well), "the alarm was false"
    assert any("babbles" in line for line in well)


def judged(gain, loss, score, *, refused=False):
    judgement = {"gain": gain, "loss": loss, "refused": refused}
    return {"description": f"gain {gain}", "selection_score": score, "judgement": judgement}


def told_of(rows, tolerance):
    return report._selection(rows, 3, tolerances={"guard": tolerance})


def test_the_choice_says_how_far_the_tolerance_would_have_let_the_domain_go():
    rows = [judged(0.5, 0.002, 0.49), judged(0.6, 0.016, 0.2), judged(0.9, 0.1, 0.0, refused=True)]
    told = told_of(rows, 0.02)
    assert "removed, reduced by how much of the guard's tolerance is used)." in told
    assert "It gained 50.0 % in validation, the guard at +0.2 points; the most" in told
    assert "within the tolerance gained is 60.0 %, the guard at +1.6 points. The " in told
    assert told.endswith("1 was refused: they probably forget more than is tolerated.")
    assert "No candidate within the tolerance gained more." in told_of(rows[::2], 0.02)
    assert "tolerance" not in told_of(rows[:2], None), "nothing was limited"


def test_the_curve_has_a_point_for_every_validation():
    history = [{"step": s, "val_wer": 0.5, "guard_wer": 0.2} for s in (0, 10, 20)]
    svg = page.learning_curve(history, best_step=10)
    assert svg.count("<circle") == 6 and svg.startswith("<svg") and svg.endswith("</svg>")


def test_the_curve_draws_the_baseline_and_what_was_exported():
    history = [{"step": 0, "val_wer": 0.5}, {"step": 10, "val_wer": 0.2}]
    svg = page.learning_curve(history, best_step=10, chosen={"val_wer": 0.2})
    assert (
        svg.count("baseline") == 1
        and svg.count("<path") == 1
        and "dev 20.0 %" in svg
        and "guard" not in svg
    )


def row(path, seconds, offset=0.0):
    return {"audio_filepath": str(path), "offset": offset, "duration": seconds}


def test_a_player_holds_just_the_utterance_and_what_is_left_out_is_said(tmp_path):
    soundfile.write(
        tmp_path / "a.wav", numpy.sin(numpy.arange(48000) / 10)[:, None] * [0.2, 0.2], 8000
    )
    players = page.Players()
    shown = players.player(row(tmp_path / "a.wav", 2.0, offset=1.0))
    content = base64.b64decode(re.search(r"data:audio/mpeg;base64,([^\"]+)", shown).group(1))
    samples, rate = soundfile.read(io.BytesIO(content))
    assert rate == 16000 and abs(len(samples) / rate - 2.0) < 0.15 and "small" not in shown
    missing = players.player(row(tmp_path / "gone.wav", 1.0))
    assert "<audio" not in missing and "no player" in missing and "gone.wav" in missing
    full = page.Players(most_bytes=len(shown)).player(row(tmp_path / "a.wav", 6.0))
    assert "<audio" not in full and "already holds" in full


def test_a_long_recording_is_cut_and_the_player_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PLAYER_SECONDS", 1.0)
    soundfile.write(tmp_path / "a.wav", numpy.zeros(40000), 16000)
    assert "the first 1 of 2 s" in page.Players().player(row(tmp_path / "a.wav", 2.5))


def test_scores_of_parts_add_up_to_the_whole():
    references, texts = ["a b", "c d e"], ["a x", "c d e"]
    whole = wer.score(references, texts)
    parts = [wer.score([r], [t]) for r, t in zip(references, texts, strict=True)]
    assert whole.wer * whole.words == sum(p.wer * p.words for p in parts)


def test_a_test_of_one_speaker_is_named_first_and_unknown_speakers_are_not_counted():
    assert report.few_speakers(["lucas"] * 9) == [
        "The test set has one speaker: the figures and their interval say little of other voices."
    ]
    assert "4 speakers" in report.few_speakers(list("abcd"))[0]
    assert (
        report.few_speakers(list("abcde"))
        == report.few_speakers(["a", None])
        == report.few_speakers([])
        == []
    )


def test_a_page_shows_no_normalised_rate_where_the_normaliser_joined_the_words():
    digits = {"wer": 0.8, "cer": 0.5, "wer_normalized": 3.2, "words": 494, "words_normalized": 100}
    row = page.figures(
        {
            "baseline": {"domain": digits},
            "tuned": {"domain": digits | {"wer": 0.2, "wer_normalized": 0.65}},
        },
        "domain",
    )[1]
    assert (row["before"], row["after"]) == ("-", "-") and "joined 494 words into 100" in row[
        "measure"
    ]


def test_worse_than_the_checkpoint_is_told_only_where_it_is_no_chance():
    utterances = [Utterance("a.wav", 1.0, "one two three four", speaker=f"s{i}") for i in range(40)]
    right, wrong = ["one two three four"] * 40, ["one"] * 40
    assert "0.0 % WER before, 75.0 % after" in report.problem(utterances, right, wrong)
    assert report.problem(utterances, wrong, right) is None
    assert report.problem(utterances, right, [*right[:39], "one two three"]) is None


def test_a_model_that_should_not_be_used_ends_the_recipe_with_3(capsys):
    from parakeet_ft.errors import NotBetter, exit_on_user_error

    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise NotBetter("The run made the model worse.")
    assert ended.value.code == 3 and "error: The run made" in capsys.readouterr().err
