"""Figures side by side are the scorer's, means and sums are what they say, and texts on disk are
asked for once.
"""

import pytest

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.evaluation import hypotheses, tables
from parakeet_ft.scoring import wer
from parakeet_ft.scoring.normalization import Normalizer

SETS = {
    "test": [
        Utterance(
            f"{i}.wav", 2.0 + i, "Land runway nine", speaker=f"s{i % 3}", extra={"gate": i % 2}
        )
        for i in range(12)
    ],
    "quiet": [Utterance("q.wav", 30.0, ""), Utterance("r.wav", 3.0, "the colour red")],
}


def heard(texts):
    return {
        "texts": texts,
        "levels_dbfs": [-30.0] * len(texts),
        "seconds": 2.0,
        "rtfx": 5.0,
        "decoding": {},
        "device": "cpu",
    }


HEARD = {
    "base": {"test": heard(["land one way nine"] * 12), "quiet": heard(["uh", "the color red"])},
    "tuned": {
        "test": heard(["Land runway nine"] * 11 + ["Land runway"]),
        "quiet": heard(["", "the colour read"]),
    },
}


def content(scored="raw"):
    found = tables.compare_models(
        HEARD,
        SETS,
        normalizer=Normalizer("en"),
        scored=scored,
        fields=["speaker", "gate"],
        terms=["runway"],
        confusions=5,
    )
    return {"command": "python recipes/evaluate.py", "benchmark": "Open ASR Leaderboard", **found}


def test_every_figure_is_the_scorers_and_means_are_of_the_sets_which_are_never_pooled():
    found = content()
    for row in found["results"]:
        expected = wer.score(
            [u.text for u in SETS[row["set"]]], HEARD[row["model"]][row["set"]]["texts"]
        )
        assert wer.Score(**row["score"]) == expected
    tuned = found["pooled"][1]
    assert "score" not in tuned and "all" not in {row[0] for row in tables.score_table(found)[2]}
    assert tuned["mean_wer"] == pytest.approx((1 / 36 + 1 / 3) / 2)
    assert tuned["rtfx"] == pytest.approx((5 * 2 + 5 * 2) / 4)


def test_models_are_compared_with_the_first_over_speakers_where_all_are_known():
    rows = {(r["model"], r["set"]): r for r in content()["results"]}
    assert rows["base", "test"]["against_base"] is None
    found = rows["tuned", "test"]["against_base"]
    assert (
        found["raw"]["speakers"]["verdict"] == found["raw"]["utterances"]["verdict"] == "better"
        and found["raw"]["speakers"]["units"] == 3
    )
    assert rows["tuned", "quiet"]["against_base"]["raw"]["speakers"] is None


def test_what_is_scored_decides_breakdowns_confusions_and_terms():
    raw, normalized = content("raw"), content("normalized")
    assert any(c["reference"] == "colour" for r in raw["results"] for c in r["confusions"])
    assert not any(
        c["reference"] == "colour" for r in normalized["results"] for c in r["confusions"]
    )
    gates = next(r for r in raw["results"] if (r["model"], r["set"]) == ("tuned", "test"))["by"][
        "gate"
    ]
    assert {g["group"]: g["errors"] for g in gates} == {"1": 1, "0": 0}
    assert raw["results"][0]["terms"]["recall"] == 0 and raw["results"][1]["terms"]["recall"] == 1


def test_words_in_silence_are_in_the_figures_and_the_tables():
    found = content()
    assert (
        next(r for r in found["results"] if (r["model"], r["set"]) == ("base", "quiet"))[
            "non_speech"
        ]["words_per_minute"]
        == 2.0
    )
    assert tables.silence_tables(found)[0][2] == [
        ["quiet", "base", "1", "0.5", "1", "2.00"],
        ["quiet", "tuned", "1", "0.5", "0", "0.00"],
    ]


def test_the_leaderboards_table_has_the_plain_mean_of_normalised_rates():
    title, head, rows = tables.leaderboard_table(content())
    assert head == ["model", "average", "RTFx", "test", "quiet"]
    # Normalised, the base misses only 24 words of 36; of quiet nothing but the filler, which the
    # normaliser takes away.
    assert rows[0] == ["base", "33.33", "5.0", "66.67", "0.00"]


def test_the_markdown_holds_every_table_and_no_cell_breaks_it():
    found = content()
    found["results"][0]["confusions"][0]["hypothesis"] = "a|b"
    text = tables.render_markdown(found)
    for title in (
        "Error rates in percent",
        "WER of normalised text",
        "Terms of the domain",
        "test: raw WER by duration",
        "test: raw WER by gate",
        "quiet, tuned: most frequent confusions",
    ):
        assert f"## {title}" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.replace("\\|", "").count("|") for line in block}) == 1 for block in blocks)


class Listener:
    def __init__(self):
        self.asked, self.said = [], []

    def __call__(self, name, utterances):
        self.asked.append(name)
        return heard([u.text for u in utterances])

    def lines(self, lines):
        self.said += lines


def test_a_set_is_heard_once_for_each_model_decoding_and_content(tmp_path):
    listener = Listener()

    def ask(name="test", utterances=SETS["test"], **identity):
        return hypotheses.once(
            tmp_path,
            utterances,
            model="a/best",
            name=name,
            identity={"model": "1", "decoding": "greedy"} | identity,
            transcribe=listener,
            say=listener,
        )

    first = ask()
    assert ask() == first and listener.asked == ["test"] and "already in" in listener.said[0]
    assert first["texts"] == [u.text for u in SETS["test"]] and first["rtfx"] == 5.0
    ask(model="2"), ask(decoding="beam"), ask(utterances=SETS["test"][:5])
    assert len(listener.asked) == 4


def test_what_a_killed_run_left_half_written_is_heard_again(tmp_path):
    listener = Listener()
    ask = {
        "utterances": SETS["test"],
        "model": "m",
        "name": "test",
        "identity": {},
        "transcribe": listener,
        "say": listener,
    }
    hypotheses.once(tmp_path, **ask)
    (file,) = tmp_path.glob("*.jsonl")
    file.with_suffix(".json").unlink()
    hypotheses.once(tmp_path, **ask)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    hypotheses.once(tmp_path, **ask)
    assert listener.asked == ["test"] * 3


def test_digits_that_the_normaliser_joins_have_no_normalised_rate_and_say_why():
    """Held against jiwer and whisper_normalizer themselves: 1 of 6 words is wrong, but 1 of the 2
    numbers that they become.
    """
    jiwer = pytest.importorskip("jiwer")
    from whisper_normalizer.english import EnglishTextNormalizer

    plain, texts, wrong = (
        EnglishTextNormalizer(),
        ["six two three", "one four seven"],
        ["six two three", "one four eight"],
    )
    assert sum(len(plain(text).split()) for text in texts) == 2
    sets = {
        "digits": [
            Utterance(f"{i}.wav", 2.0, text, speaker="lucas") for i, text in enumerate(texts)
        ]
    }
    found = tables.compare_models(
        {"base": {"digits": heard(wrong)}, "tuned": {"digits": heard(texts)}},
        sets,
        normalizer=Normalizer("en"),
        scored="normalized",
        fields=[],
        terms=[],
        confusions=5,
    )
    score = found["results"][0]["score"]
    assert score["wer"] == pytest.approx(jiwer.wer(texts, wrong)) and score[
        "wer_normalized"
    ] == pytest.approx(jiwer.wer([plain(t) for t in texts], [plain(t) for t in wrong]))
    rows = tables.score_table(found)[2]
    assert (
        [row[4] for row in rows] == ["-", "-"]
        and rows[0][3] == "16.7"
        and rows[1][-1].endswith("(raw)")
    )
    assert found["remarks"] == [
        "digits: normalised WER is not comparable: the normaliser joined 6 words into 2.",
        "digits: The test set has one speaker: the figures and their interval say little of other "
        "voices.",
    ]
    assert all(
        remark in tables.render_markdown({"command": "", "benchmark": None} | found)
        for remark in found["remarks"]
    )


def test_texts_whose_words_stay_apart_keep_their_normalised_rate():
    assert wer.joined({"words": 10, "words_normalized": 8}) == "" and wer.joined(
        {"words": 10, "words_normalized": 7}
    )
    assert tables.score_table(content())[2][0][4] == "66.7"


def test_the_weight_of_the_language_model_stands_in_the_table():
    found = content()
    assert "LM weight" not in tables.score_table(found)[1]
    for row in found["results"]:
        row["decoding"] = {"language_model": {"weight": 0.0}} if row["model"] == "tuned" else {}
    _, head, rows = tables.score_table(found)
    assert head[-1] == "LM weight" and [row[-1] for row in rows] == ["-", "0", "-", "0"]
