"""Which weights to export: of one validation, between the checkpoint and the tuned model (they
often forget less than they lose: WiSE-FT, arXiv 2109.01903), the mean of the last validations
(arXiv 1803.05407), the moving average of training.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from parakeet_ft.training import states
from parakeet_ft.training.states import State

INTERPOLATED = "checkpoint and last, interpolated"
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
    at: Callable[[float], Candidate],
    alphas: Sequence[float],
    best_step: int,
    recent_steps: Sequence[int],
    read: Callable[[int], State],
    moving_average: tuple[str, Callable[[], State]] | None,
) -> list[Candidate]:
    """What may be exported: the best validation's weights; interpolations; the mean of
    recent_steps, if two or more; the moving average.

    at(alpha): an interpolation. `read` gives the weights of a validated step. moving_average: a few
    words on it, and how to get it.
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
    found += map(at, alphas)
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


def interpolated(base: State, last: State, alpha: float, *, last_step: int) -> Candidate:
    """base + alpha (last - base)."""
    facts = {
        "weights": INTERPOLATED,
        "alpha": alpha,
        "description": f"{alpha:g} of the way from the checkpoint to the last step ({last_step})",
    }
    return facts, functools.partial(interpolate, base, last, alpha)


def alphas_beside(tried: Sequence[float], best: float, *, distance: float) -> list[float]:
    """Alphas at a distance from the best, between 0 and 1, that were not tried."""
    near = (round(best - distance, 4), round(best + distance, 4))
    return [alpha for alpha in near if 0 < alpha <= 1 and alpha not in tried]


def choose_weights(
    model: torch.nn.Module,
    found: Sequence[Candidate],
    *,
    evaluate: Callable[[], dict[str, Any]],
    at: Callable[[float], Candidate] | None = None,
    step: float | None = None,
) -> list[dict[str, Any]]:
    """Score every candidate and load the winner into the model; of equals the safer wins.

    `evaluate` scores the model as it stands and returns at least `selection_score`. at(alpha): an
    interpolation; beside the best of those in `found` others are tried, at half their distance and
    so on, but none nearer than `step`. Returns all candidates' facts with their scores, the winner
    first.
    """
    tried = list(found)
    rows: list[dict[str, Any]] = []

    def score(candidate: Candidate) -> None:
        states.load(model, candidate[1]())
        rows.append(candidate[0] | {"index": len(rows)} | evaluate())

    for candidate in found:
        score(candidate)
    if at and step:
        for alpha in _searched(rows, step):
            tried.append(at(alpha))
            score(tried[-1])
    rows.sort(key=_safest_of_the_best)
    states.load(model, tried[rows[0]["index"]][1]())
    return [{key: value for key, value in row.items() if key != "index"} for row in rows]


def _searched(rows: Sequence[dict[str, Any]], step: float) -> Iterator[float]:
    """Alphas to try next, by what `rows` have by then."""

    def known() -> list[dict[str, Any]]:
        return [row for row in rows if row["weights"] == INTERPOLATED]

    alphas = sorted(row["alpha"] for row in known())
    if len(alphas) < 2:
        return
    distance = min(b - a for a, b in itertools.pairwise(alphas)) / 2
    while distance >= step * (1 - 1e-9):
        best = min(known(), key=_safest_of_the_best)["alpha"]
        yield from alphas_beside([row["alpha"] for row in known()], best, distance=distance)
        distance /= 2


def _safest_of_the_best(row: dict[str, Any]) -> tuple[float, float, int]:
    """The order of choice: the higher score, of equals the smaller loss of the guard, the earlier.

    A thousandth is less than the draws of the bootstrap can tell.
    """
    loss = (row.get("judgement") or {}).get("loss")
    return -round(row["selection_score"], 3), loss or 0.0, row["index"]
