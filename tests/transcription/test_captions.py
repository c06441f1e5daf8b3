"""Captions read back with pysubs2, and properties of cues."""

import itertools
import json

import pysubs2
import pytest

from parakeet_ft.transcription.captions import (
    CUE_SECONDS,
    FORMATS,
    LINE_CHARS,
    cues,
)
from parakeet_ft.transcription.words import Transcript, Word, clip, join

SPOKEN = (
    "Descend flight level one niner zero. Is that <understood> & agreed? Ryanair six four seven "
    "seven descending now to flight level one niner zero "
    "after which we turn left heading two four zero and call you again when we are established on "
    "the localizer"
)
WORDS = tuple(
    Word(
        text, 0.4 * index + (5 if index > 10 else 0), 0.4 * index + 0.35 + (5 if index > 10 else 0)
    )
    for index, text in enumerate(SPOKEN.split())
)
TRANSCRIPT = Transcript(SPOKEN, WORDS, 30.0)


def test_cues_hold_every_word_once_do_not_overlap_and_can_be_read():
    found = cues(WORDS)
    assert " ".join(cue.text for cue in found) == SPOKEN
    assert all(a.end <= b.begin for a, b in itertools.pairwise(found))
    assert all(
        0 < cue.end - cue.begin <= CUE_SECONDS and len(cue.text) <= 2 * LINE_CHARS for cue in found
    )
    assert found[0].text.endswith("zero.") and found[1].text.endswith("agreed?")
    assert not any("Ryanair" in cue.text and "agreed" in cue.text for cue in found)


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_are_what_another_program_reads(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    path.write_text(FORMATS[kind](TRANSCRIPT, name="a", path="a.wav"), encoding="utf-8")
    read = pysubs2.load(str(path))
    found = cues(WORDS)
    assert [(event.start, event.end) for event in read] == [
        (round(1000 * cue.begin), round(1000 * cue.end)) for cue in found
    ]
    texts = [event.text.replace("\\N", " ") for event in read]
    plain = [text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">") for text in texts]
    assert plain[2:] == [cue.text for cue in found][2:]


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_braces_and_long_words_come_out_as_they_were_said(kind):
    said = Transcript("{an8} " + "x&" * 30, (Word("{an8}", 0, 1), Word("x&" * 30, 1, 2)), 2.0)
    written = FORMATS[kind](said, name="a", path="a.wav")
    plain = written.replace("&amp;", "&").replace("\n", "")
    assert "{an8}" in written and "x&" * 30 in plain and "--> 00:00:02" in written


def test_without_words_text_is_an_empty_line_and_subtitles_have_no_cue():
    silent = Transcript("", (), 3.0)
    written = {kind: write(silent, name="a", path="a.wav") for kind, write in FORMATS.items()}
    assert written["txt"] == "\n" and written["srt"] == "" and written["ctm"] == ""
    assert written["vtt"].startswith("WEBVTT") and "-->" not in written["vtt"]
    found = json.loads(written["json"])
    assert "pauses" in found.pop("word_times")
    assert found == {"audio_filepath": "a.wav", "duration": 3.0, "text": "", "words": []}


def test_ctm_has_five_fields_a_word_even_if_the_name_has_blanks():
    rows = [
        line.split(" ")
        for line in FORMATS["ctm"](TRANSCRIPT, name="talk of monday", path="a.wav").splitlines()
    ]
    assert [row[4] for row in rows] == SPOKEN.split() and {row[0] for row in rows} == {
        "talk_of_monday"
    }
    assert all(
        abs(float(row[2]) - word.begin) < 1e-3
        and abs(float(row[3]) - (word.end - word.begin)) < 2e-3
        for row, word in zip(rows, WORDS, strict=True)
    )


def test_parts_are_joined_at_their_times_and_words_stay_inside_the_recording():
    whole = join(
        [
            (0.0, Transcript("a b", (Word("a", 0.1, 0.2), Word("b", 0.3, 0.4)))),
            (10.0, Transcript("", ())),
            (20.0, Transcript("c", (Word("c", 0.5, 2.0),))),
        ],
        duration=21.0,
    )
    assert whole.text == "a b c" and [(w.text, w.begin, w.end) for w in whole.words] == [
        ("a", 0.1, 0.2),
        ("b", 0.3, 0.4),
        ("c", 20.5, 21.0),
    ]


def test_clipped_words_never_go_back():
    found = clip([Word("a", -0.1, 0.5), Word("b", 0.4, 0.2), Word("c", 0.3, 9.0)], 1.0)
    assert [(w.begin, w.end) for w in found] == [(0.0, 0.5), (0.4, 0.4), (0.4, 1.0)]
