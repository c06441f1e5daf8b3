"""Near-duplicate texts: as many as comparing all pairs finds."""

import random

from parakeet_ft.data.leaks import NEAR, _shingles, near_duplicates


def test_one_changed_word_in_nine_is_near_and_an_exact_copy_is_not_listed():
    mine = "the cat sat on the mat and looked at me"
    near = "the cat sat on the mat and looked at you"
    assert [
        (a, b)
        for a, b, _ in near_duplicates(
            [mine], [near, mine, "something else that has nothing to do with it"]
        )
    ] == [(mine, near)]


def test_short_sentences_are_never_near():
    assert list(near_duplicates(["turn left heading two one"], ["turn left heading two two"])) == []


def test_the_index_finds_what_all_pairs_find():
    rng = random.Random(1)
    words = [f"w{i}" for i in range(30)]
    base = [[rng.choice(words) for _ in range(rng.randrange(6, 14))] for _ in range(60)]

    def varied(sentence):
        return " ".join(rng.choice(words) if rng.random() < 0.1 else word for word in sentence)

    mine, others = [varied(s) for s in base], [varied(s) for s in base]
    expected = set()
    for a in mine:
        for b in others:
            x, y = _shingles(a), _shingles(b)
            if a != b and len(x & y) / len(x | y) >= NEAR:
                expected.add((a, b))
    assert {(a, b) for a, b, _ in near_duplicates(mine, others)} == expected and len(expected) > 10
