"""The keyword error rate is what its definition says, found another way; terms are what the domain
says and general speech does not.
"""

import itertools
import random

import pytest

from parakeet_ft.scoring.terms import MOST_PAIRS, count_terms, find_terms, term_scores


def alignments(reference, hypothesis):
    """Every alignment: columns of (index in reference, index in hypothesis), None for a gap."""

    def rest(i, j):
        if i == len(reference) and j == len(hypothesis):
            yield ()
        if i < len(reference):
            yield from (((i, None), *more) for more in rest(i + 1, j))
        if j < len(hypothesis):
            yield from (((None, j), *more) for more in rest(i, j + 1))
        if i < len(reference) and j < len(hypothesis):
            yield from (((i, j), *more) for more in rest(i + 1, j + 1))

    return list(rest(0, 0))


def most_recognised(reference, hypothesis, terms):
    """The definition, word for word: of all alignments with fewest errors the one that recognises
    most; an occurrence is recognised where its words are matched and stand side by side.
    """

    def errors(columns):
        return sum(i is None or j is None or reference[i] != hypothesis[j] for i, j in columns)

    def recognised(columns):
        partner = dict(columns)
        found = 0
        for term in terms:
            for begin in range(len(reference) - len(term) + 1):
                if reference[begin : begin + len(term)] != term:
                    continue
                at = [partner[i] for i in range(begin, begin + len(term))]
                if None in at or at != list(range(at[0], at[0] + len(term))):
                    continue
                found += hypothesis[at[0] : at[0] + len(term)] == term
        return found

    every = alignments(reference, hypothesis)
    fewest = min(map(errors, every))
    return max(recognised(columns) for columns in every if errors(columns) == fewest)


def occurrences(words, terms):
    return sum(words[i : i + len(term)] == term for term in terms for i in range(len(words)))


@pytest.mark.parametrize("seed", range(4))
def test_the_counts_are_those_of_every_alignment_looked_at(seed):
    rng = random.Random(seed)
    every_term = [list(p) for n in (1, 2, 3) for p in itertools.product("abc", repeat=n)]
    for _ in range(60):
        reference = rng.choices("abcd", k=rng.randint(0, 5))
        hypothesis = rng.choices("abcd", k=rng.randint(0, 5))
        terms = rng.sample(every_term, k=rng.randint(1, 8))
        found = count_terms(
            [" ".join(reference)], [" ".join(hypothesis)], [" ".join(term) for term in terms]
        )
        expected = (
            occurrences(reference, terms),
            most_recognised(reference, hypothesis, terms),
            occurrences(hypothesis, terms),
        )
        assert tuple(found.by_utterance[0]) == expected, (reference, hypothesis, terms)
        assert tuple(found.by_term.sum(axis=0)) == expected


@pytest.mark.parametrize(
    ("said", "heard", "terms", "counts"),
    [
        ("climb flight level two", "climb flight level too", ["flight level"], (1, 1, 1)),
        ("climb flight level two", "climb flight the level two", ["flight level"], (1, 0, 0)),
        ("climb flight level two", "level flight climb two", ["flight level"], (1, 0, 0)),
        ("gate", "gate gate", ["gate"], (1, 1, 2)),
        ("gate gate", "gate", ["gate"], (2, 1, 1)),
        # Heard, but elsewhere.
        ("squawk one two three four", "one two three four squawk", ["squawk"], (1, 0, 1)),
        # Each term by itself, inside another and overlapping itself.
        ("flight level", "flight level", ["flight level", "level"], (2, 2, 2)),
        ("flight level", "light level", ["flight level", "level"], (2, 1, 1)),
        ("a a a", "a a", ["a a"], (2, 1, 1)),
        ("a b c", "a b c", ["a b", "b c"], (2, 2, 2)),
        # A word put in that an unlucky alignment would put between those of the term.
        ("speed bird two", "speed speed bird two", ["speed bird"], (1, 1, 1)),
        ("speed bird two", "speed bird bird two", ["speed bird"], (1, 1, 1)),
        # Put in where nothing of the kind was said.
        ("say again", "say squawk again", ["squawk"], (0, 0, 1)),
        ("runways", "runways", ["runway"], (0, 0, 0)),
        ("Squawk two", "Squawk two", ["squawk"], (0, 0, 0)),
        ("", "", ["gate"], (0, 0, 0)),
    ],
)
def test_occurrences_recognised_and_heard_as_counted_by_hand(said, heard, terms, counts):
    assert tuple(count_terms([said], [heard], terms).by_utterance[0]) == counts


def test_rates_of_words_and_phrases_as_counted_by_hand():
    found = term_scores(
        ["cleared to land runway two", "runway two runway three", "hello"],
        ["cleared to land runway to", "runway two one way three", "runway"],
        ["runway", "cleared to land", "squawk", " runway "],
    )
    counts = ("occurrences", "recognised", "claimed", "missed", "false")
    assert [found[key] for key in counts] == [4, 3, 4, 1, 1]
    assert [found[key] for key in ("error_rate", "recall", "precision")] == [0.25, 0.75, 0.75]
    assert found["f_score"] == pytest.approx(0.75)
    rows = {row["term"]: row for row in found["terms"]}
    assert rows["runway"]["recall"] == pytest.approx(2 / 3) and len(rows) == 3
    assert rows["cleared to land"]["f_score"] == 1 and rows["squawk"]["error_rate"] is None
    assert found["terms"][0]["term"] == "runway"


def test_missed_and_false_ones_are_the_errors_of_an_utterance():
    found = count_terms(["gate two three", "gate"], ["date two gate", "gate"], ["gate"])
    assert found.missed.tolist() == [1, 0] and found.errors.tolist() == [2, 0]
    with pytest.raises(ValueError):
        count_terms(["a"], ["a", "b"], ["a"])


def test_an_hour_in_one_utterance_is_counted_too():
    said = ["flight", "level", *"abcdefgh"] * 150
    heard = ["flight", "level", *"abcxefgh"] * 150
    assert len(said) * len(heard) > MOST_PAIRS
    found = count_terms([" ".join(said)], [" ".join(heard)], ["flight level", "d"])
    assert found.by_term.tolist() == [[150, 150, 150], [150, 0, 0]]


def test_terms_are_frequent_in_the_domain_and_rare_elsewhere():
    domain = ["the runway is the runway", "the squawk", "runway squawk squawk", "the the rare"]
    general = ["the cat is on the mat", "the dog is", "is the squirrel"] * 5
    assert find_terms(domain, general) == ["runway", "squawk"]
    assert find_terms(domain, general, most=1) == ["runway"]
    assert find_terms(domain, []) == find_terms(domain, [""])


GENERAL = ["we go to the gate", "the light is on", "to the left and to the right"] * 20


def test_a_phrase_is_a_term_where_its_words_belong_together():
    domain = ["climb to flight level two", "descend to flight level three"] * 4
    found = find_terms(domain, GENERAL)
    assert "flight level" in found
    assert not {"flight", "level"} & set(found), "they occur in it alone"
    assert not {"to", "to flight", "to flight level"} & set(found), "general words begin none"
    assert "level two" not in found, "only half of the levels are two"


def test_a_part_of_a_phrase_is_a_term_if_it_occurs_without_it_often_enough():
    domain = ["flight level two", "flight level six"] * 4 + ["level off"] * 3
    assert {"flight level", "level"} <= set(find_terms(domain, GENERAL))
    assert "level" not in find_terms(domain[:-1], GENERAL)


def test_terms_must_be_frequent_where_they_are_to_be_counted():
    domain = ["squawk seven", "runway two"] * 5
    assert find_terms(domain, GENERAL, among=["squawk seven"] * 3 + ["runway"] * 2) == [
        "squawk seven"
    ]
    assert find_terms(domain, GENERAL, among=["hello"]) == []
