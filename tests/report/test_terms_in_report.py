"""The report's figures of terms follow the transcripts, and show hostile terms as text."""

import re

import pytest

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.report.terms import (
    compare_terms,
    figures,
    markdown,
    most_gained,
    still_missed,
)

SAID = ["squawk seven", "gate two", "flight level"] * 8
BEFORE = ["quack seven", "gate two", "light level"] * 8
AFTER = ["squawk seven", "date two", "flight level squawk"] * 8
TERMS = ["squawk", "gate", "flight level", "taxi"]


def compared(terms=TERMS, after=AFTER, speakers=None):
    utterances = [
        Utterance(f"{i}.wav", 1.0, text, speaker=speakers and f"s{i % speakers}")
        for i, text in enumerate(SAID)
    ]
    return compare_terms(utterances, BEFORE, after, terms=terms)


def test_figures_before_and_after_are_as_counted_by_hand():
    found = compared()
    assert found["before"]["error_rate"] == pytest.approx(16 / 24)
    assert found["after"]["error_rate"] == pytest.approx(8 / 24)
    assert (found["before"]["false"], found["after"]["false"]) == (0, 8)
    assert found["comparison"]["difference"] == pytest.approx(-8 / 24)
    assert found["comparison"]["low"] < -8 / 24 < found["comparison"]["high"]
    assert [row["term"] for row in most_gained(found["rows"])] == ["squawk", "flight level"]
    assert [row["term"] for row in still_missed(found["rows"])] == ["squawk", "gate"]
    assert "66.7 % were missed before and 33.3 % after" in found["verdict"]
    rows = {row["measure"]: row for row in figures(found)}
    assert rows["keyword error rate (missed)"]["change"] == "-33.3"
    assert rows["heard where not said"]["after"] == "8"


def test_the_interval_is_over_speakers_where_they_are_known():
    found = compared(after=SAID, speakers=8)
    assert (found["comparison"]["resampled"], found["comparison"]["units"]) == ("speakers", 8)
    assert found["comparison"]["verdict"] == "better"
    assert compared()["comparison"]["resampled"] == "utterances"


def test_a_test_set_without_terms_is_told():
    found = compared(terms=["taxi", "lufthansa"])
    assert found["verdict"] == "None of the 2 terms is said in the domain's test set."
    assert markdown(found) == ["", found["verdict"]] and markdown(None) == []
    assert found["comparison"]["verdict"] == "not distinguishable"


def test_hostile_terms_are_shown_as_text():
    bad = "<b>|`x`"
    said = [Utterance("a.wav", 1.0, bad)] * 3
    found = compare_terms(said, [""] * 3, [bad] * 3, terms=[bad])
    shown = "\n".join(markdown(found))
    assert "<b>" not in shown and not re.search(r"(?<!\\)`", shown)
    assert r"&lt;b&gt;\|\`x\`" in shown
