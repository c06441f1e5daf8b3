"""Interpolation of weights: the ends are the ends, the winner is loaded, different vocabularies are
refused.
"""

import pytest
import torch

from parakeet_ft.training.states import copy_state
from parakeet_ft.training.weight_selection import (
    alphas_beside,
    average,
    candidates,
    choose_weights,
    interpolate,
    interpolated,
)


def test_the_ends_are_the_two_models_and_the_middle_lies_between(tiny_model):
    base, tuned = copy_state(tiny_model("ctc", seed=0)), copy_state(tiny_model("ctc", seed=1))
    for alpha in (0.0, 0.25, 1.0):
        mixed = interpolate(base, tuned, alpha)
        for key, value in mixed.items():
            expected = (
                base[key] + alpha * (tuned[key] - base[key])
                if value.is_floating_point()
                else tuned[key]
            )
            torch.testing.assert_close(value, expected)


def test_models_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="same tensors"):
        interpolate({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, 0.5)["w"]


def weights(value):
    return {"weight": torch.full((1, 1), float(value))}


def at(alpha):
    return interpolated(weights(0), weights(10), alpha, last_step=40)


def offered(**changes):
    arguments = {
        "at": at,
        "alphas": [0.3, 0.7],
        "best_step": 20,
        "recent_steps": [20, 30, 40],
        "read": {20: weights(5), 30: weights(6), 40: weights(12)}.__getitem__,
        "moving_average": None,
    }
    return candidates(**arguments | changes)


def test_the_winner_is_loaded_and_listed_first():
    model = torch.nn.Linear(1, 1, bias=False)
    rows = choose_weights(
        model, offered(), evaluate=lambda: {"selection_score": -abs(model.weight.item() - 3)}
    )
    assert [row["alpha"] for row in rows] == [
        0.3,
        1.0,
        0.7,
        1.0,
    ] and model.weight.item() == pytest.approx(3)
    assert (
        rows[0]["description"] == "0.3 of the way from the checkpoint to the last step (40)"
        and "index" not in rows[0]
    )


def test_the_mean_of_the_last_validations_can_win():
    model = torch.nn.Linear(1, 1, bias=False)
    rows = choose_weights(
        model, offered(), evaluate=lambda: {"selection_score": -abs(model.weight.item() - 7.6)}
    )
    assert (
        rows[0]["steps"] == [20, 30, 40]
        and "mean of the weights of steps 20, 30, 40" in rows[0]["description"]
    )
    assert model.weight.item() == pytest.approx((5 + 6 + 12) / 3)


def test_one_validation_has_no_mean_and_a_moving_average_is_one_more():
    assert [facts["weights"] for facts, _ in offered(recent_steps=[40], alphas=[])] == [
        "best checkpoint"
    ]
    facts, state = offered(moving_average=("decay 0.9", lambda: weights(1)))[-1]
    assert "decay 0.9" in facts["description"] and state() == weights(1)


def test_the_average_is_the_mean_of_every_float_and_the_last_counter():
    states = [
        {"w": torch.tensor([value, -value]), "seen": torch.tensor(n)}
        for n, value in enumerate([1.0, 2.0, 6.0])
    ]
    mean = average(iter(states))
    torch.testing.assert_close(mean["w"], torch.stack([state["w"] for state in states]).mean(0))
    assert mean["seen"] == 2 and states[0]["w"].tolist() == [1, -1]
    with pytest.raises(ValueError, match="no state"):
        average([])
    with pytest.raises(ValueError, match="same tensors"):
        average([weights(1), {"other": torch.zeros(1)}])


def test_beside_the_best_alpha_others_are_tried_down_to_the_step():
    model = torch.nn.Linear(1, 1, bias=False)
    rows = choose_weights(
        model,
        offered(alphas=[0.2, 0.4, 0.6, 0.8]),
        evaluate=lambda: {"selection_score": -abs(model.weight.item() - 4.6)},
        at=at,
        step=0.05,
    )
    tried = [row["alpha"] for row in rows if "interpolated" in row["weights"]]
    assert sorted(tried) == [0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8]
    assert rows[0]["alpha"] == 0.45 and model.weight.item() == pytest.approx(4.5)


def test_alphas_that_are_tried_lie_between_checkpoint_and_last():
    assert alphas_beside([0.9, 1.0], 1.0, distance=0.05) == [0.95]
    assert alphas_beside([0.05, 0.5], 0.05, distance=0.05) == [0.1]
    assert alphas_beside([0.4, 0.45, 0.5], 0.45, distance=0.05) == []


def test_of_equals_the_one_that_loses_least_of_the_guard_wins():
    model = torch.nn.Linear(1, 1, bias=False)
    rows = choose_weights(
        model,
        offered(),
        evaluate=lambda: {
            "selection_score": 0.5 + 1e-5 * model.weight.item(),
            "judgement": {"loss": 0.001 * model.weight.item()},
        },
    )
    assert rows[0]["alpha"] == 0.3 and model.weight.item() == pytest.approx(3)


def test_a_tie_goes_to_the_checkpoint_itself():
    rows = choose_weights(
        torch.nn.Linear(1, 1, bias=False), offered(), evaluate=lambda: {"selection_score": 1.0}
    )
    assert rows[0]["weights"] == "best checkpoint"
