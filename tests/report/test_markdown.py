"""Text of others comes out of a Markdown renderer as it went in."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.evaluation import tables
from parakeet_ft.report import report
from parakeet_ft.report.markdown import code, plain, table_row
from parakeet_ft.scoring import wer
from parakeet_ft.scoring.normalization import Normalizer

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)> & &lt;b&gt;",
    "`` code ` and *stars* _lines_ **bold** __bold__ ~~gone~~ snake_case_name",
    "a | b \\| c \\",
    "[link](javascript:alert(1)) ![picture](x) [ref][1] [1]: x",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "> quotation",
    "==== ----",
    "one\ntwo\r\n\n# three\u2028four",
    "https://example.org/x mailto:me@example.org <https://example.org>",
    "air_traffic (gate 4) -50.0 to -30.0: better",
    "-",
    "1.",
    "-13.8 [-18.2, -9.4] better",
]
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())


def tags_of(page: str) -> set[str]:
    return set(re.findall(r"<(\w+)", page))


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_is_shown_letter_by_letter_and_makes_no_element(text):
    page = RENDERER.render(plain(text))
    assert tags_of(page) == {"p"} and text_of(page) == " ".join(text.split())
    page = RENDERER.render(f"- {plain(text)}")
    assert tags_of(page) == {"ul", "li"} and text_of(page) == " ".join(text.split())


@pytest.mark.parametrize("figure", ["65.8", "100.0 % of them", "-13.8", "+1.5", "0.5 of the way"])
def test_figures_stay_readable_without_a_renderer(figure):
    assert plain(figure) == figure


@pytest.mark.parametrize("text", HOSTILE)
def test_code_holds_any_backticks(text):
    page = RENDERER.render(code(text))
    assert tags_of(page) == {"p", "code"} and text_of(page) == " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_one_cell(text):
    lines = [table_row(["head", "other"]), "|---|---|", table_row([plain(text), "second"])]
    page = RENDERER.render("\n".join(lines))
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert [text_of(cell) for cell in cells] == [" ".join(text.split()), "second"]


def test_reports_show_hostile_transcripts_speakers_and_names_as_text():
    bad = "<script>x</script> `a` | [b](c)\n# d"
    sets = {
        "test": [Utterance("a.wav", 1.0, bad, speaker=bad)] * 2,
        "validation": [Utterance("b.wav", 1.0, bad)],
    }
    texts = {role: [bad + " more"] * len(found) for role, found in sets.items()}
    scores = {role: wer.score([u.text for u in found], texts[role]) for role, found in sets.items()}
    judgement = {"gain": 0.1, "loss": None, "refused": False}
    candidate = {
        "description": bad,
        "val_wer": 0.1,
        "selection_score": 0.2,
        "judgement": judgement,
    }
    found = report.build_report(
        name=bad,
        command=bad,
        run={"commit": "", "manifests": {}, "config": {}, "effective": {}},
        sets=sets,
        before=texts,
        after=texts,
        base=scores,
        base_watched=scores,
        tuned=scores,
        history=[{"step": 1, "remarks": [bad]} | candidate],
        candidates=[candidate],
        best_step=1,
        steps=1,
        guard_tolerance=None,
        guard_tolerances={},
    )
    check_shown(report.render_markdown(found), bad)
    heard = {"texts": texts["test"], "levels_dbfs": [-20.0, -20.0], "seconds": 1.0, "rtfx": 1.0}
    content = tables.compare_models(
        {bad: {bad: heard | {"decoding": {}, "device": "cpu"}}},
        {bad: sets["test"]},
        normalizer=Normalizer("none", ()),
        scored="raw",
        fields=["speaker"],
        terms=(),
        confusions=5,
    )
    check_shown(tables.render_markdown(content | {"command": bad, "benchmark": None}), bad)


def check_shown(markdown: str, bad: str) -> None:
    page = RENDERER.render(markdown)
    assert tags_of(page) <= set("h1 h2 p table thead tbody tr th td ul li code strong".split())
    assert page.count("<h1>") == 1 and text_of(page).count(" ".join(bad.split())) >= 4
