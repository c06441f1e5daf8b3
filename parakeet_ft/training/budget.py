"""How long to train: epochs, hours of audio or steps, in optimiser steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parakeet_ft.batches.plan import Plan


def num_steps(
    plan: Plan, *, epochs: float | None, hours: float | None, steps: int | None, accumulate: int
) -> int:
    """Optimiser steps of the one budget that is given. `hours` count audio with replay, over all
    ranks.
    """
    if steps is not None:
        return int(steps)
    if hours is not None:
        epochs = hours / plan.hours_of_pass
    assert epochs is not None, "settings hold one of the three"
    whole = int(epochs)
    plan.plan_ahead(range(math.ceil(epochs)))
    batches = sum(plan.steps_of_pass(number) for number in range(whole)) + round(
        (epochs - whole) * plan.steps_of_pass(whole)
    )
    return max(1, math.ceil(batches / accumulate))


def validation_steps(num_steps: int, *, validations: int) -> list[int]:
    """About `validations` steps at equal distances, the last one always; a step that stands right
    before the last, nearer than half a distance, is left out.
    """
    every = max(1, round(num_steps / validations))
    nearest = 1 if every == 1 else max(2, every / 2)
    steps = range(every, num_steps, every)
    return [step for step in steps if num_steps - step >= nearest] + [num_steps]


def describe(plan: Plan, *, num_steps: int, accumulate: int) -> dict[str, Any]:
    """Effective budget: steps and hours a pass, and passes of this run."""
    steps_per_pass = math.ceil(plan.steps_of_pass(0) / accumulate)
    return {
        "steps": num_steps,
        "steps_per_pass": steps_per_pass,
        "passes": num_steps / steps_per_pass,
        "hours_per_pass": plan.hours_of_pass,
        "batch_seconds": plan.batch_seconds,
        "accumulate": accumulate,
        "num_ranks": plan.num_ranks,
        "replay_ratio": float(sum(plan.replay_ratios().values())),
        "replay_ratios": plan.replay_ratios(),
        "seed": plan.seed,
    }
