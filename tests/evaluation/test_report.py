"""The report's words and pictures follow its figures."""

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.evaluation import report, wer


def example(domain=(0.6, 0.2), guard=(0.2, 0.21), verdicts=("better", "not distinguishable")):
    def score(value):
        return {"wer": value, "words": 100, "cer": value / 2, "wer_normalized": value}
    result = {"baseline": {"domain": score(domain[0])}, "tuned": {"domain": score(domain[1])}, "guard_tolerance": 0.02,
              "comparison": {"domain": {"verdict": verdicts[0]}}}
    if guard:
        result["baseline"]["guard"], result["tuned"]["guard"] = score(guard[0]), score(guard[1])
        result["comparison"]["guard"] = {"verdict": verdicts[1]}
    return result


def test_the_verdict_says_what_was_gained_and_what_was_forgotten():
    text = report.verdict(example())
    assert "60.0 % -> 20.0 % (better)" in text and "20.0 % -> 21.0 % (not distinguishable, +1.0 points)" in text and "MORE THAN" not in text


def test_the_verdict_is_loud_when_more_than_the_tolerance_is_forgotten():
    assert "MORE THAN THE TOLERANCE of 2.0 points" in report.verdict(example(guard=(0.2, 0.3)))


def test_without_guard_the_verdict_says_that_forgetting_is_unknown():
    assert "not known" in report.verdict(example(guard=None))


def test_the_last_line_has_the_promised_form():
    assert report.summary_line(example(domain=(0.61, 0.123), guard=(0.241, 0.249)), "outputs/demo/latest/best.nemo") == (
        "domain WER 61.0% -> 12.3% | guard WER 24.1% -> 24.9% | outputs/demo/latest/best.nemo")


def test_a_diff_marks_missed_invented_and_wrong_words_and_escapes_text():
    shown = report.diff_html("a b <c> d", "a x d e")
    assert "<del>" in shown and "<ins>e</ins>" in shown and 'class="sub"' in shown and "<c>" not in shown
    assert report.diff_html("", "") == "<i>nothing</i>"


def test_utterances_are_listed_worst_first_and_speakers_too():
    utterances = [Utterance("a.wav", 1, "one two", speaker="s"), Utterance("b.wav", 1, "three", speaker="t")]
    rows = report.utterance_rows(utterances, ["one two", "three"], ["one two", "tree"])
    assert [row["reference"] for row in rows] == ["three", "one two"] and rows[0]["wer_after"] == 1
    assert [row["speaker"] for row in report.by_speaker(utterances, ["", ""], ["one two", "tree"])] == ["t", "s"]


def test_the_curve_has_a_point_for_every_validation():
    history = [{"step": s, "val_wer": 0.5, "guard_wer": 0.2} for s in (0, 10, 20)]
    svg = report.learning_curve(history, best_step=10)
    assert svg.count("<circle") == 6 and svg.startswith("<svg") and svg.endswith("</svg>")


def test_an_audio_file_is_inside_the_page_unless_it_is_large(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.wav").write_bytes(b"0" * (report.LARGEST_PLAYER_BYTES + 1))
    assert "data:audio/wav;base64,UklGRg==" in report.player(str(tmp_path / "a.wav"))
    assert "<audio" not in report.player(str(tmp_path / "b.wav")) and "b.wav" in report.player(str(tmp_path / "b.wav"))


def test_scores_of_parts_add_up_to_the_whole():
    references, texts = ["a b", "c d e"], ["a x", "c d e"]
    whole = wer.score(references, texts)
    parts = [wer.score([r], [t]) for r, t in zip(references, texts, strict=True)]
    assert whole.wer * whole.words == sum(p.wer * p.words for p in parts)
