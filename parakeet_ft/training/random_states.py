"""Where the random generators of a rank stand, so that a run which continues draws what the run
that was never stopped would have drawn.
"""

from __future__ import annotations

from typing import Any

import torch


def random_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, as plain values and tensors."""
    import random

    import numpy

    version, numbers, gauss = random.getstate()
    state: Any = numpy.random.get_state()
    name, keys, *rest = state
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype("int64")), *rest],
        "torch": torch.get_rng_state(),
        # Of this rank's device alone: fewer may be visible when the run continues.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """The reverse of random_states."""
    import random

    import numpy

    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        # Earlier versions kept the states of all devices, in their order.
        kept = states["cuda"]
        torch.cuda.set_rng_state(kept[min(torch.cuda.current_device(), len(kept) - 1)])
