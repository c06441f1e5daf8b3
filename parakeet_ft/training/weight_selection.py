"""Which weights to export: of one validation, between the checkpoint and the tuned model (they
often forget less than they lose: WiSE-FT, arXiv 2109.01903), the mean of the last validations
(arXiv 1803.05407), the moving average of training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

State = dict[str, torch.Tensor]
# What it is called, its facts, and how to get it: only one candidate's weights need be in memory.
Candidate = tuple[dict[str, Any], Callable[[], State]]


def copy_state(model: torch.nn.Module) -> State:
    """The model's state dict, copied to the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def interpolate(base: State, tuned: State, alpha: float) -> State:
    """base + alpha (tuned - base) for floating-point tensors, BatchNorm statistics included;
    counters are the tuned model's.

    Raises ValueError if the two have not the same tensors: interpolation needs one vocabulary.
    """
    if base.keys() != tuned.keys() or any(base[key].shape != tuned[key].shape for key in base):
        raise ValueError("The two models have not the same tensors.")
    return {
        key: torch.lerp(base[key], value, alpha) if value.is_floating_point() else value
        for key, value in tuned.items()
    }


def average(states: Iterable[State]) -> State:
    """Mean of floating-point tensors, BatchNorm statistics included; counters are the last state's.
    Holds two states at a time.

    Raises ValueError if there is none, or if they have not the same tensors.
    """
    mean: State = {}
    count = 0
    for count, state in enumerate(states, start=1):
        mean = interpolate(mean, state, 1 / count) if mean else state
    if not count:
        raise ValueError("There is no state to average.")
    return mean


def candidates(
    *,
    base: State,
    last: State,
    last_step: int,
    alphas: Sequence[float],
    best_step: int,
    recent_steps: Sequence[int],
    read: Callable[[int], State],
    moving_average: tuple[str, Callable[[], State]] | None,
) -> list[Candidate]:
    """What may be exported: the best validation's weights; base + alpha (last - base); the mean of
    recent_steps, if two or more; the moving average.

    `read` gives the weights of a validated step. moving_average: a few words on it, and how to get
    it.
    """
    found: list[Candidate] = [
        (
            {
                "weights": "best checkpoint",
                "alpha": 1.0,
                "description": f"the weights of step {best_step}",
            },
            lambda: read(best_step),
        )
    ]
    found += [
        (
            {
                "weights": "checkpoint and last, interpolated",
                "alpha": alpha,
                "description": f"{alpha:g} of the way from the checkpoint to the last step "
                f"({last_step})",
            },
            functools.partial(interpolate, base, last, alpha),
        )
        for alpha in alphas
    ]
    if len(recent_steps) > 1:
        found.append(
            (
                {
                    "weights": "mean of the last validations",
                    "alpha": 1.0,
                    "steps": list(recent_steps),
                    "description": f"the mean of the weights of steps "
                    f"{', '.join(map(str, recent_steps))}",
                },
                lambda: average(map(read, recent_steps)),
            )
        )
    if moving_average:
        words, state = moving_average
        found.append(
            (
                {
                    "weights": "moving average",
                    "alpha": 1.0,
                    "description": f"the moving average of the weights ({words})",
                },
                state,
            )
        )
    return found


def choose_weights(
    model: torch.nn.Module, found: Sequence[Candidate], *, evaluate: Callable[[], dict[str, float]]
) -> list[dict[str, Any]]:
    """Score every candidate and load the winner into the model; the earlier of equals wins.

    `evaluate` scores the model as it stands and returns at least `selection_score`. Returns all
    candidates' facts with their scores, the winner first.
    """
    rows = []
    for index, (facts, state) in enumerate(found):
        model.load_state_dict(state())
        rows.append(facts | {"index": index} | evaluate())
    rows.sort(key=lambda row: (-row["selection_score"], row["index"]))
    model.load_state_dict(found[rows[0]["index"]][1]())
    return [{key: value for key, value in row.items() if key != "index"} for row in rows]
