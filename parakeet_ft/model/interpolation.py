"""Between the checkpoint and the tuned model: averages of their weights often forget less than they lose (WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

State = dict[str, torch.Tensor]


def copy_state(model: torch.nn.Module) -> State:
    """The model's state dict, copied to the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def interpolate(base: State, tuned: State, alpha: float) -> State:
    """base + alpha (tuned - base) for floating-point tensors, BatchNorm statistics included; counters are the tuned model's.

    Raises ValueError if the two have not the same tensors: interpolation needs one vocabulary.
    """
    if base.keys() != tuned.keys() or any(base[key].shape != tuned[key].shape for key in base):
        raise ValueError("The two models have not the same tensors.")
    return {key: torch.lerp(base[key], value, alpha) if value.is_floating_point() else value for key, value in tuned.items()}


def choose_weights(model: torch.nn.Module, *, base: State, best: State, last: State, alphas: Sequence[float],
                   evaluate: Callable[[], dict[str, float]]) -> list[dict[str, Any]]:
    """Score the best checkpoint as it is, and base + alpha (last - base) for each alpha; load the winner into the model.

    `evaluate` scores the model as it stands and returns at least `selection_score`. Returns all candidates, the winner first.
    """
    candidates: list[tuple[dict[str, Any], State]] = [({"weights": "best checkpoint", "alpha": 1.0}, best)]
    candidates += [({"weights": "checkpoint and last, interpolated", "alpha": alpha}, interpolate(base, last, alpha)) for alpha in alphas]
    rows = []
    for index, (row, state) in enumerate(candidates):
        model.load_state_dict(state)
        rows.append(row | {"index": index} | evaluate())
    rows.sort(key=lambda row: (-row["selection_score"], row["index"]))
    model.load_state_dict(candidates[rows[0]["index"]][1])
    return [{key: value for key, value in row.items() if key != "index"} for row in rows]
