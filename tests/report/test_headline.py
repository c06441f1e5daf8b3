"""The first lines of a report claim what was measured, and nothing else."""

import pytest

from parakeet_ft.report.headline import figures, headline, size_of_change


def example(*, domain="better", guards=(), effective=None, alpha=1.0):
    """A report; guards: name, WER before, after and tolerance."""
    score = {"domain": (0.6, 0.2)} | {name: (before, after) for name, before, after, _ in guards}
    return {
        "baseline": {name: {"wer": before} for name, (before, _) in score.items()},
        "tuned": {name: {"wer": after} for name, (_, after) in score.items()},
        "comparison": {
            name: {"verdict": domain if name == "domain" else "worse", "low": -0.5, "high": -0.3}
            for name in score
        },
        "guard_tolerances": {name: tolerance for name, _, _, tolerance in guards},
        "effective": effective or {},
        "candidates": [{"alpha": alpha}],
        "model": "best.nemo",
    }


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        ([], "what was forgotten is not known"),
        ([("guard", 0.2, 0.21, 0.02)], "guard kept within its tolerance"),
        ([("guard", 0.2, 0.3, 0.02)], "guard lost more than is tolerated"),
        ([("guard", 0.2, 0.3, None)], "guard worse"),
        ([("a", 0.2, 0.2, 0.02), ("b", 0.2, 0.2, 0.1)], "all 2 guards kept within their tolera"),
        ([("a", 0.2, 0.3, 0.02), ("b", 0.2, 0.2, 0.1)], "guard a lost more than is tolerated"),
    ],
)
def test_the_headline_says_what_became_of_the_guards(guards, said):
    assert headline(example(guards=guards)).startswith(f"Better on the domain; {said}")


@pytest.mark.parametrize(
    ("verdict", "begins"), [("worse", "Worse"), ("not distinguishable", "No change on the domain")]
)
def test_a_change_that_may_be_chance_is_not_called_better(verdict, begins):
    assert headline(example(domain=verdict)).startswith(begins)


def test_the_figures_have_their_intervals_and_the_worst_guard_its_cure():
    guards = [("a", 0.2, 0.21, 0.02), ("b", 0.1, 0.2, 0.02)]
    domain, guard = figures(example(guards=guards))
    assert (domain.value, domain.alarm) == ("60.0 % → 20.0 %", False)
    assert domain.meaning == ("-40.0 points", "95 % interval -50.0 to -30.0: better")
    assert (guard.title, guard.value) == ("Guard b WER (worst of 2)", "10.0 % → 20.0 %")
    assert guard.alarm and "data.replay.ratio" in guard.meaning[-1]
    assert "MORE THAN TOLERATED; tolerated: 2.0 points" in guard.meaning


def test_without_a_guard_the_second_figure_says_what_to_give():
    guard = figures(example())[1]
    assert guard.value == "not measured" and "data.guard_validation" in guard.meaning[0]


def test_the_size_counts_what_learned_and_how_much_of_it_is_kept():
    effective = {
        "adaptation": {"learning": 186_000, "frozen": 3_684_000},
        "learned": {"moved_share_of_weights": 0.995},
        "vocabulary": {"new": ["▁6", "%"]},
    }
    assert size_of_change(example(effective=effective, alpha=0.35)) == (
        "0.186 of 3.9 M",
        "99.5% of them moved",
        "best.nemo holds 0.35 of the way that they went",
        "2 pieces are new",
    )
    assert size_of_change(example()) == ()
