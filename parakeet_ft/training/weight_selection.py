"""Which weights to export: of one validation, between the checkpoint and the tuned model (they
often forget less than they lose: WiSE-FT, arXiv 2109.01903), the mean of the last validations
(arXiv 1803.05407), the moving average of training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from parakeet_ft.training import states
from parakeet_ft.training.states import State

# What it is called, its facts, and how to get it.
Candidate = tuple[dict[str, Any], Callable[[], State]]


def interpolate(base: State, tuned: State, alpha: float) -> State:
    """base + alpha (tuned - base) for floating-point tensors, BatchNorm statistics included;
    counters are the tuned model's.

    Raises ValueError if the two have not the same tensors, of other shapes when one is asked for:
    interpolation needs one vocabulary.
    """
    states.check_same_keys(base, tuned)
    return states.MadeWhenAsked(tuned, lambda key: _between(base[key], tuned[key], alpha))


def _between(base: torch.Tensor, tuned: torch.Tensor, alpha: float) -> torch.Tensor:
    if base.shape != tuned.shape:
        raise ValueError("The two models have not the same tensors.")
    return torch.lerp(base, tuned, alpha) if tuned.is_floating_point() else tuned


def average(found: Iterable[State]) -> State:
    """Mean of floating-point tensors, BatchNorm statistics included; counters are the last state's.

    Raises ValueError if there is none, or if they have not the same tensors.
    """
    listed = list(found)
    if not listed:
        raise ValueError("There is no state to average.")
    first, others = listed[0], listed[1:]
    for state in others:
        states.check_same_keys(first, state)

    def mean(key: str) -> torch.Tensor:
        value = first[key]
        for count, state in enumerate(others, start=2):
            value = _between(value, state[key], 1 / count)
        return value

    return states.MadeWhenAsked(first, mean)


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
        states.load(model, state())
        rows.append(facts | {"index": index} | evaluate())
    rows.sort(key=lambda row: (-row["selection_score"], row["index"]))
    states.load(model, found[rows[0]["index"]][1]())
    return [{key: value for key, value in row.items() if key != "index"} for row in rows]
