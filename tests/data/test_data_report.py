"""The data report in a real browser: the figures first, each utterance once, no page wider than a
phone.
"""

import re

import numpy
import pytest
import soundfile

from parakeet_ft.data.leaks import Leaks
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.report import write_report
from parakeet_ft.data.summary import Summary

LONG = "/recordings/" + "a_name_without_a_space_" * 12 + ".wav"
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    found = Summary(notes=["Two speakers were too few for three splits."])
    for number in range(12):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * numpy.sin(numpy.arange(8000 + 800 * number) / 9), 16000)
        seconds = 0.5 + 0.05 * number
        utterance = Utterance(str(path), seconds, f"text {'x' * number}", speaker="s")
        found.add(utterance, split="train" if number else "a_set_" * 20)
    found.drop(Utterance(LONG, 0.0, "gone"), reason="missing", detail=LONG)
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_come_first_and_nothing_is_wider_than_the_screen(
    width, summary, tmp_path, open_page
):
    leaks = Leaks(audio={("test", "train"): 2}, text={("dev", "train"): 3}, held_out={"test": 9})
    leaks.held_out["dev"] = 9
    path = write_report(summary, tmp_path / "report.html", title="a -> b", leaks=leaks)
    page, complaints, foreign = open_page(f"file://{path}", width=width)
    assert (complaints, foreign) == ([], [])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first = page.eval_on_selector_all(".first .value", "all => all.map(e => e.textContent)")
    hours = sum(0.5 + 0.05 * n for n in range(12)) / 3600
    assert first == [f"{hours:.3f} h", f"{100 / 13:.1f} %", "2 by audio, 3 by text"]
    assert "take them out" in page.inner_text(".warn")
    top = page.eval_on_selector(".first", "e => e.getBoundingClientRect().bottom")
    assert top < page.eval_on_selector("table", "e => e.getBoundingClientRect().top")


def test_an_alarm_stands_only_where_audio_is_shared(summary, tmp_path):
    leaks = Leaks(text={("dev", "train"): 3}, held_out={"dev": 9})
    text = write_report(summary, tmp_path / "a.html", title="a", leaks=leaks).read_text()
    assert "0 by audio, 3 by text" in text and 'class="warn"' not in text
    assert "Two speakers were too few" in text


def test_what_was_not_looked_for_is_not_claimed(summary, tmp_path):
    text = write_report(summary, tmp_path / "a.html", title="a").read_text()
    assert "shared between splits" not in text.lower()


def test_an_utterance_is_played_once_and_a_path_is_named_once(summary, tmp_path):
    text = write_report(summary, tmp_path / "a.html", title="a").read_text()
    shown = re.findall(r'<div class="path">(.*?)</div>', text)
    assert len(shown) == len(set(shown)) == text.count("<audio") == 12
    assert text.count(LONG) == 1
