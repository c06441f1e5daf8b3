"""Interpolation of weights: the ends are the ends, the winner is loaded, different vocabularies are refused."""

import pytest
import torch

from parakeet_ft.model.interpolation import choose_weights, copy_state, interpolate


def test_the_ends_are_the_two_models_and_the_middle_lies_between(tiny_model):
    base, tuned = copy_state(tiny_model("ctc", seed=0)), copy_state(tiny_model("ctc", seed=1))
    for alpha in (0.0, 0.25, 1.0):
        mixed = interpolate(base, tuned, alpha)
        for key, value in mixed.items():
            expected = base[key] + alpha * (tuned[key] - base[key]) if value.is_floating_point() else tuned[key]
            torch.testing.assert_close(value, expected)


def test_models_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="same tensors"):
        interpolate({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, 0.5)


def test_the_winner_is_loaded_and_listed_first():
    model = torch.nn.Linear(1, 1, bias=False)
    states = {name: {"weight": torch.full((1, 1), value)} for name, value in (("base", 0.0), ("best", 5.0), ("last", 10.0))}
    rows = choose_weights(model, **states, alphas=[0.3, 0.7],
                          evaluate=lambda: {"selection_score": -abs(model.weight.item() - 3)})
    assert [row["alpha"] for row in rows] == [0.3, 1.0, 0.7] and model.weight.item() == pytest.approx(3)
    assert "index" not in rows[0]


def test_a_tie_goes_to_the_checkpoint_itself():
    model = torch.nn.Linear(1, 1, bias=False)
    state = copy_state(model)
    rows = choose_weights(model, base=state, best=state, last=state, alphas=[0.5], evaluate=lambda: {"selection_score": 1.0})
    assert rows[0]["weights"] == "best checkpoint"
