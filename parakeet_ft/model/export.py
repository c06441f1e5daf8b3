"""Trained weights to `.nemo` files that plain NeMo restores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from parakeet_ft.data.manifest import atomic_path


def load_weights(model: torch.nn.Module, checkpoint: Path) -> int:
    """Load the model's weights out of a Lightning checkpoint of a FineTuner; returns the checkpoint's step.

    Raises RuntimeError if any tensor is missing or left over.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = {key.removeprefix("model."): value for key, value in content["state_dict"].items()}
    model.load_state_dict(state, strict=True)
    return int(content["global_step"])


def save_nemo(model, path: Path) -> Path:
    """Save as `.nemo`: written under a temporary name, renamed when whole."""
    with atomic_path(path) as temporary:
        model.save_to(str(temporary))
    return path


def check_reproduced(dev_wer: float, history: Sequence[dict[str, float]], *, step: int, tolerance: float = 1e-3) -> None:
    """Raise RuntimeError if best.nemo, re-read from disk, has not the validation WER that was logged at its step."""
    logged = next(point["val_wer"] for point in history if point["step"] == step)
    if abs(dev_wer - logged) > tolerance:
        raise RuntimeError(f"best.nemo read back from disk has a validation WER of {dev_wer:.4f}, but {logged:.4f} was logged at step {step}: "
                           "the export is not the model that was chosen.")
