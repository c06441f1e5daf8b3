"""Parts of a set add up to the whole, and every row is what the scorer gives for its part."""

import pytest

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.scoring import breakdown, wer
from parakeet_ft.scoring.normalization import Normalizer

SET = [
    Utterance("a.wav", 1.0, "one two three", speaker="ann", extra={"gate": 3}),
    Utterance("b.wav", 2.0, "four five", speaker="bob"),
    Utterance("c.wav", 4.9, "six", speaker="ann", extra={"gate": 4}),
    Utterance("d.wav", 30.0, "", speaker="bob"),
    Utterance("e.wav", 90.0, "", speaker="bob"),
]
HEARD = ["one too three", "four", "six seven", "hallo there", ""]


def test_rows_by_duration_are_in_order_and_an_edge_belongs_to_the_longer_side():
    rows = breakdown.by_duration(SET, HEARD, edges=(2, 5, 20))
    assert [(row["group"], row["utterances"]) for row in rows] == [
        ("below 2 s", 1),
        ("2 to 5 s", 2),
        ("20 s and above", 2),
    ]


def test_every_row_is_what_the_scorer_says_of_its_part_and_the_parts_add_up():
    whole = wer.score([u.text for u in SET], HEARD)
    for rows in (
        breakdown.by_duration(SET, HEARD),
        breakdown.by_field(SET, HEARD, "speaker"),
        breakdown.by_level(SET, HEARD, [-60, -45, -35, -25, 0]),
    ):
        assert sum(row["words"] for row in rows) == whole.words and sum(
            row["utterances"] for row in rows
        ) == len(SET)
        assert (
            sum(row["errors"] for row in rows)
            == whole.substitutions + whole.deletions + whole.insertions
        )
    ann = next(row for row in breakdown.by_field(SET, HEARD, "speaker") if row["group"] == "ann")
    expected = wer.score(["one two three", "six"], ["one too three", "six seven"])
    assert (ann["wer"], ann["substitutions"], ann["deletions"], ann["insertions"]) == (
        expected.wer,
        expected.substitutions,
        expected.deletions,
        expected.insertions,
    )


def test_any_field_of_the_manifest_makes_groups_and_those_without_it_are_named():
    assert {row["group"] for row in breakdown.by_field(SET, HEARD, "gate")} == {
        "3",
        "4",
        breakdown.UNKNOWN,
    }
    assert breakdown.by_field(SET, HEARD, "nothing") == []


def test_levels_are_grouped_quietest_first():
    assert [row["group"] for row in breakdown.by_level(SET, HEARD, [-10, -55, -35, -35, -50])] == [
        "below -50 dBFS",
        "-50 to -40 dBFS",
        "-40 to -30 dBFS",
        "-20 dBFS and above",
    ]


def test_confusions_count_what_was_heard_instead_most_frequent_first():
    rows = breakdown.confusions(["a b c", "a b", "d"], ["a x c", "a x", "d d"], top=2)
    assert rows == [
        {"reference": "b", "hypothesis": "x", "count": 2},
        {"reference": "", "hypothesis": "d", "count": 1},
    ]


def test_a_normaliser_is_applied_to_both_sides():
    rows = breakdown.by_group(
        ["g"], ["Mr. Brown's colour"], ["mister brown's color"], normalizer=Normalizer("en")
    )
    assert rows[0]["errors"] == 0
    assert breakdown.confusions(["Colour"], ["color"], normalizer=Normalizer("en")) == []


def test_words_heard_in_silence_are_counted_by_the_minute():
    assert breakdown.non_speech(SET, HEARD) == {
        "utterances": 2,
        "with_words": 1,
        "minutes": 2.0,
        "words": 2,
        "words_per_minute": 1.0,
    }
    assert breakdown.non_speech(SET[:2], HEARD[:2]) is None


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="5 references but 2"):
        breakdown.by_duration(SET, HEARD[:2])
