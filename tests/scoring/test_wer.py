"""The scorer against jiwer, an independent package."""

import random
from importlib.metadata import version

import jiwer
import kaldialign
import numpy as np
import pytest

from parakeet_ft.scoring import wer
from parakeet_ft.scoring.normalization import Normalizer

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "ran",
    "one",
    "two",
    "three",
    "red",
    "blue",
    "and",
    "then",
]


def random_pairs(count, seed):
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]
    hypotheses = []
    for reference in references:
        words = [w for w in reference.split() if rng.random() > 0.15]
        words = [rng.choice(WORDS) if rng.random() < 0.15 else w for w in words]
        for _ in range(rng.randint(0, 2)):
            words.insert(rng.randint(0, len(words)), rng.choice(WORDS))
        hypotheses.append(" ".join(words))
    return references, hypotheses


def test_the_scorer_agrees_with_jiwer_on_1000_pairs():
    references, hypotheses = random_pairs(1000, seed=0)
    ours, theirs = wer.score(references, hypotheses), jiwer.process_words(references, hypotheses)
    assert ours.wer == pytest.approx(theirs.wer, abs=1e-12)
    assert ours.cer == pytest.approx(
        jiwer.process_characters(references, hypotheses).cer, abs=1e-12
    )
    assert ours.words == sum(len(r.split()) for r in references)
    total = theirs.substitutions + theirs.deletions + theirs.insertions
    assert ours.substitutions + ours.deletions + ours.insertions == total


def test_every_pair_alone_agrees_with_jiwer():
    for reference, hypothesis in zip(*random_pairs(200, seed=1), strict=True):
        assert wer.score([reference], [hypothesis]).wer == pytest.approx(
            jiwer.wer(reference, hypothesis), abs=1e-12
        )


def test_the_normalised_rate_forgives_case_punctuation_and_spelling():
    score = wer.score(["Mr. Brown's colour, please!"], ["mister brown's color please"])
    assert score.wer > 0.5 and score.wer_normalized == 0


def test_words_in_silence_are_never_free():
    assert wer.score([""], ["two words"]).wer == 2
    assert wer.score([""], [""]).wer == 0


def test_sets_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 references but 1"):
        wer.score(["a", "b"], ["a"])


def test_a_clear_gain_is_better_and_its_reverse_worse_and_a_tie_neither():
    references, hypotheses = random_pairs(200, seed=2)
    assert wer.compare(references, hypotheses, references)["verdict"] == "better"
    assert wer.compare(references, references, hypotheses)["verdict"] == "worse"
    assert wer.compare(references, hypotheses, hypotheses)["verdict"] == "not distinguishable"
    one_word = [*hypotheses[:-1], references[-1]]
    assert wer.compare(references, hypotheses, one_word)["verdict"] == "not distinguishable"


def test_sub_del_ins_agree_with_jiwer_where_only_one_kind_is_possible():
    references, heard = ["a b c d", "a b", "x y z"], ["a x c d", "a b q", "x z"]
    ours, theirs = wer.score(references, heard), jiwer.process_words(references, heard)
    assert (
        (ours.substitutions, ours.deletions, ours.insertions)
        == (theirs.substitutions, theirs.deletions, theirs.insertions)
        == (1, 1, 1)
    )
    assert (
        ours.character_substitutions + ours.character_deletions + ours.character_insertions
    ) / ours.characters == ours.cer


# Forms that the Open ASR Leaderboard's normaliser names in its rules, and what they must become.
LEADERBOARD = [
    ("Mr. Brown won't go.", "mister brown will not go"),
    ("I'm gonna, uh, pay twenty dollars", "i am going to pay $20"),
    ("It's the 21st [laughter] of May (noise)", "it is the 21st of may"),
    ("they've organised 1,000 colours", "they have organized 1000 colors"),
    ("Dr. Who's been to St. Ives", "doctor who has been to saint ives"),
    ("ten thousand two hundred and five", "10205"),
]


def test_normalised_scores_agree_with_jiwer_on_the_leaderboards_forms():
    references, wanted = zip(*LEADERBOARD, strict=True)
    assert [" ".join(Normalizer("en")(text).split()) for text in references] == list(wanted)
    heard = [text.replace("will", "would").replace("of ", "") for text in wanted]
    score = wer.score(references, heard)
    assert score.wer_normalized == pytest.approx(
        jiwer.wer(list(wanted), [" ".join(Normalizer("en")(h).split()) for h in heard]), abs=1e-12
    )
    assert (
        score.wer_normalized > 0
        and score.normalizer
        == f"whisper_normalizer {version('whisper_normalizer')} EnglishTextNormalizer"
    )


def test_other_languages_keep_their_marks_and_own_spelling():
    assert (
        wer.score(
            ["Zażółć GĘŚLĄ, jaźń!"], ["zażółć gęślą jaźń"], normalizer=Normalizer("pl")
        ).wer_normalized
        == 0
    )
    assert Normalizer("hi")("हिन्दी।").strip() == "हिन्दी"
    assert Normalizer("de")("colour") == "colour" and Normalizer("none")("A  b.") == "A b."


def test_a_users_replacements_are_whole_words_and_named_in_the_score():
    table = Normalizer("en", (("niner", "nine"), ("tree", "three")))
    score = wer.score(["runway nine three"], ["runway niner tree"], normalizer=table)
    assert score.wer > 0.5 and score.wer_normalized == 0 and "2 replacements" in score.normalizer
    assert table("street") == "street"


def noisy(rng, words, rate):
    return " ".join("x" if rng.random() < rate else w for w in words)


@pytest.mark.parametrize(("num_speakers", "each"), [(None, 60), (4, 12), (12, 5)])
def test_the_95_percent_interval_covers_the_true_difference_in_93_to_97_percent_of_1000_draws(
    num_speakers, each
):
    """Errors by coin: base 30 %, tuned 25 % on average; with speakers, each has its own gain, so
    their utterances go together.
    """
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        counts = []
        for _ in range(num_speakers or 1):
            shift = rng.normal(0, 0.05) if num_speakers else 0.0
            words = rng.integers(5, 12, size=each)
            counts.append(
                np.stack(
                    [
                        rng.binomial(words, np.clip(0.25 + shift, 0, 1))
                        - rng.binomial(words, 0.30),
                        words,
                    ],
                    axis=1,
                )
            )
        values = (
            np.concatenate(counts)
            if num_speakers is None
            else np.stack([c.sum(axis=0) for c in counts])
        )
        draws = wer.resample(values, replications=200, seed=int(rng.integers(1 << 30)))
        low, high = wer.interval(
            draws, estimate=values[:, 0].sum() / values[:, 1].sum(), units=len(values)
        )
        covered += low <= -0.05 <= high
    assert 930 <= covered <= 970, covered


def test_speakers_are_drawn_whole_and_make_the_interval_wider():
    rng = random.Random(4)
    references, before, after, speakers = [], [], [], []
    for s in range(8):
        gain = s % 2
        for _ in range(20):
            words = rng.choices(WORDS, k=8)
            references.append(" ".join(words))
            before.append(noisy(rng, words, 0.5))
            after.append(noisy(rng, words, 0.1 if gain else 0.5))
            speakers.append(f"s{s}")
    single, whole = (
        wer.compare(references, before, after),
        wer.compare(references, before, after, speakers=speakers),
    )
    assert (single["resampled"], single["units"], whole["resampled"], whole["units"]) == (
        "utterances",
        160,
        "speakers",
        8,
    )
    assert single["difference"] == whole["difference"] < 0 and whole["high"] - whole["low"] > 2 * (
        single["high"] - single["low"]
    )
    assert single["verdict"] == "better" and single["probability_better"] == 1.0
    assert (
        wer.compare(references, before, after, speakers=[*speakers[:-1], None])["resampled"]
        == "utterances"
    )


def test_the_bootstrap_agrees_with_kaldialigns():
    references, hypotheses = random_pairs(150, seed=5)
    changed = [
        r if i % 20 == 0 else h for i, (r, h) in enumerate(zip(references, hypotheses, strict=True))
    ]
    changed = [f"{h} again" if i % 25 == 1 else h for i, h in enumerate(changed)]
    ours = wer.compare(references, hypotheses, changed)["probability_better"]
    lists = [[text.split() for text in texts] for texts in (references, hypotheses, changed)]
    assert ours == pytest.approx(
        kaldialign.bootstrap_wer_ci(*lists, replications=2000)["p_s2_improv_over_s1"], abs=0.03
    )


def test_one_utterance_alone_tells_nothing():
    assert wer.compare(["a b"], ["x y"], ["a b"]) | {
        "low": None,
        "verdict": "not distinguishable",
    } == wer.compare(["a b"], ["x y"], ["a b"])
