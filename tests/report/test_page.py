"""report.html in a real browser: on a desk and on a phone, by day and by night, with audio that
plays and without network.
"""

import dataclasses

import numpy
import pytest
import soundfile

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.report import headline, report
from parakeet_ft.scoring import wer

TEXTS = ["descend flight level one niner zero", "cleared to land", "say again", "good morning"]
BEFORE = ["descent light level one nine zero", "cleared land", "say a gain", "good morning"]
AFTER = ["descend flight level one nine zero", "cleared to to land", "say <again>", "good morning"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of four utterances (tones, the last one's audio gone), written by write_report."""
    folder = tmp_path_factory.mktemp("report")
    utterances = []
    for i, text in enumerate(TEXTS):
        soundfile.write(folder / f"{i}.wav", 0.2 * numpy.sin(numpy.arange(24000) / (8 + i)), 16000)
        utterances.append(
            Utterance(
                str(folder / f"{i}.wav"),
                1.5,
                text,
                speaker=f"a speaker with a long name, number {i % 2}" * 2,
            )
        )
    (folder / "2.wav").unlink()
    sets = {
        "train": utterances[:1],
        "validation": utterances,
        "test": utterances,
        "guard_validation": utterances,
        "guard_test": utterances,
    }
    scores = [dict.fromkeys(sets, wer.score(TEXTS, heard)) for heard in (BEFORE, AFTER)]
    history = [
        {
            "step": s,
            "val_wer": 0.2 + 1 / s,
            "guard_wer": 0.3,
            "selection_score": 0.1,
            "remarks": ["the model babbles"] if s == 20 else [],
        }
        for s in (10, 20, 30)
    ]
    candidate = {
        "weights": "best checkpoint",
        "alpha": 1.0,
        "description": "the weights of step 30",
        "val_wer": 0.2,
        "guard_wer": 0.31,
        "selection_score": 0.3,
        "judgement": {
            "score": 0.3,
            "gain": 0.5,
            "gain_low": 0.4,
            "gain_high": 0.6,
            "loss": 0.01,
            "loss_low": -0.01,
            "loss_high": 0.03,
            "risk": 0.2,
            "refused": False,
        },
    }
    refused = candidate["judgement"] | {"gain": 0.7, "loss": 0.04, "refused": True}
    found = report.build_report(
        name="example",
        command="python recipes/finetune.py",
        run={
            "commit": "abc",
            "manifests": {"train": {"sha256": "0" * 64, "path": "x.jsonl"}},
            "config": {"a": 1},
            "effective": {
                "adaptation": {"learning": 90_000, "frozen": 2_910_000},
                "learned": {"moved_share_of_weights": 0.5},
            },
        },
        sets=sets,
        before=dict.fromkeys(sets, BEFORE),
        after=dict.fromkeys(sets, AFTER),
        base=scores[0],
        base_watched=scores[0],
        tuned=scores[1],
        history=history,
        candidates=[candidate, candidate | {"description": "the mean", "judgement": refused}],
        best_step=30,
        steps=30,
        guard_tolerance=0.02,
        guard_tolerances={"guard": 0.02},
    )
    report.write_report(found, folder, examples=30)
    assert dataclasses.asdict(scores[1]["test"]) == found["tuned"]["domain"]
    return folder, found


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_fits_the_screen_complains_of_nothing_and_asks_nobody(
    width, dark, written, open_page
):
    folder, found = written
    page, complaints, foreign = open_page(f"file://{folder}/report.html", width=width, dark=dark)
    assert (complaints, foreign) == ([], [])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate("""[...document.querySelectorAll("svg.curve text")].filter(text =>
        text.getBoundingClientRect().right > text.closest("svg").getBoundingClientRect().right)
        .map(text => text.textContent)""")
        == []
    )
    assert page.inner_text(".verdict") == headline.headline(found)
    for words in (
        "not distinguishable from before",
        "95 % interval",
        "characters inserted",
        "a speaker with a long name",
        "below 2 s",
        "the weights of step 30",
        "the model babbles",
        "niner",
        "000000",
        "Commit abc",
        "The test set has 2 speakers",
    ):
        assert words in page.text_content("body"), words
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark


@pytest.mark.parametrize("width", [390, 1280])
def test_verdict_figures_picture_and_sound_come_in_this_order(width, written, open_page):
    page, *_ = open_page(f"file://{written[0]}/report.html", width=width)
    tops = page.evaluate("""[".verdict", ".first", ".frontier", ".utterance", "#figures table"].map(
        what => document.querySelector(what).getBoundingClientRect().top)""")
    assert tops == sorted(tops) and len(set(tops)) == 5
    titles = page.eval_on_selector_all(".first dt", "all => all.map(e => e.textContent)")
    assert titles == ["Domain WER", "Guard WER", "Weights that learned"]
    last = page.eval_on_selector(".first > :last-child", "e => e.getBoundingClientRect().bottom")
    assert last < 850, "the three figures are on the first screen"


def test_what_needs_nothing_done_is_no_alarm(written, tmp_path, open_page):
    _, found = written
    page, *_ = open_page(f"file://{written[0]}/report.html")
    assert page.inner_text(".alarms").strip() == found["warnings"][0]
    assert "Give data.test" in found["warnings"][0] and "speakers" not in found["warnings"][0]
    report.write_report(found | {"warnings": []}, tmp_path, examples=30)
    page, *_ = open_page(f"file://{tmp_path}/report.html")
    assert page.query_selector(".alarms") is None
    notes = page.inner_text("#figures .notes")
    assert "The test set has 2 speakers" in notes
    assert "1 of 2 speakers of data.validation is in data.train" in notes


def test_an_utterance_is_shown_once_and_those_beyond_five_on_a_click(written, tmp_path, open_page):
    _, found = written
    rows = [
        row | {"reference": f"{row['reference']} {n}"}
        for n in range(4)
        for row in found["utterances"]
    ]
    report.write_report(found | {"utterances": rows}, tmp_path, examples=7)
    page, *_ = open_page(f"file://{tmp_path}/report.html")
    said = "all => all.map(e => e.querySelector('dd').textContent)"
    shown = page.eval_on_selector_all(".utterance", said)
    assert len(shown) == len(set(shown)) == 7 + 5
    assert page.locator("#changed .utterance:visible").count() == 5
    page.click("#changed summary")
    assert page.locator("#changed .utterance:visible").count() == 7


def test_what_was_heard_wrong_stands_out_in_colour(written, open_page):
    page, *_ = open_page(f"file://{written[0]}/report.html")

    def colour(selector):
        return page.eval_on_selector(
            f"#changed .utterance {selector}", "e => getComputedStyle(e).color"
        )

    colours = {colour(selector) for selector in ("dd", "ins", "del", ".sub")}
    assert len(colours) == 4
    assert page.inner_text("#changed").count("<again>") == 1


def test_a_player_holds_the_utterance_and_what_has_none_says_why(written, open_page):
    page, *_ = open_page(f"file://{written[0]}/report.html")
    assert page.eval_on_selector_all(
        ".utterance audio", "all => all.length"
    ) == 2 and "No audio at" in page.inner_text("#changed")
    seconds = page.eval_on_selector(
        "#changed audio",
        """player => new Promise((done, fail) => {
        player.onloadedmetadata = () => done(player.duration);
        player.onerror = () => fail(player.error.message);
        player.load(); player.preload = "auto"; })""",
    )
    assert seconds == pytest.approx(1.5, abs=0.15)


def test_a_run_without_guard_speakers_or_errors_has_its_page_too(written, tmp_path, open_page):
    _, found = written
    bare = found | {
        "speakers": [],
        "confusions": [],
        "notes": [],
        "manifests": {},
        "commit": None,
        "utterances": [
            row | {"after": row["reference"], "errors_after": 0} for row in found["utterances"]
        ],
    }
    for key in ("baseline", "tuned", "comparison"):
        bare[key] = {"domain": found[key]["domain"]}
    bare["history"] = [{"step": 0, "val_wer": 0.0, "selection_score": 0.0}]
    report.write_report(bare, tmp_path, examples=30)
    page, complaints, _ = open_page(f"file://{tmp_path}/report.html")
    assert (
        complaints == []
        and "No other has an error." in page.inner_text("#worst")
        and "Guard:" not in page.inner_text("#figures")
    )
