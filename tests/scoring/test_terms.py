"""Recall and F-score of terms by hand; terms are what the domain says and general speech does
not.
"""

import pytest

from parakeet_ft.scoring.terms import find_terms, term_scores


def test_recall_and_f_score_of_words_and_phrases_as_counted_by_hand():
    found = term_scores(
        ["cleared to land runway two", "runway two runway three", "hello"],
        ["cleared to land runway to", "runway two one way three", "runway"],
        ["runway", "cleared to land", "squawk"],
    )
    assert (found["occurrences"], found["recognised"], found["claimed"]) == (4, 3, 4)
    assert (
        found["recall"] == 0.75
        and found["precision"] == 0.75
        and found["f_score"] == pytest.approx(0.75)
    )
    rows = {row["term"]: row for row in found["terms"]}
    assert (
        rows["runway"]["recall"] == pytest.approx(2 / 3)
        and rows["cleared to land"]["f_score"] == 1
        and rows["squawk"]["recall"] is None
    )
    assert found["terms"][0]["term"] == "runway"


def test_a_term_heard_twice_but_said_once_is_recognised_once():
    found = term_scores(["gate"], ["gate gate"], ["gate"])
    assert (found["recognised"], found["claimed"], found["recall"], found["precision"]) == (
        1,
        2,
        1.0,
        0.5,
    )


def test_a_term_is_never_found_inside_a_word():
    assert term_scores(["runways"], ["runways"], ["runway"])["occurrences"] == 0


def test_terms_are_frequent_in_the_domain_and_rare_elsewhere():
    domain = ["the runway is the runway", "the squawk", "runway squawk squawk", "the the rare"]
    general = ["the cat is on the mat", "the dog is", "is the squirrel"] * 5
    assert find_terms(domain, general) == ["runway", "squawk"]
    assert find_terms(domain, general, most=1) == ["runway"]
    assert find_terms(domain, []) == find_terms(domain, [""])
