"""Trained weights to `.nemo` files that plain NeMo restores."""

from __future__ import annotations

from pathlib import Path

from parakeet_ft.files import atomic_path


def save_nemo(model, path: Path) -> Path:
    """Save as `.nemo`: written under a temporary name, renamed when whole."""
    with atomic_path(path) as temporary:
        model.save_to(str(temporary))
    return path


def check_reproduced(dev_wer: float, chosen_wer: float, *, tolerance: float = 1e-3) -> None:
    """Raise RuntimeError if best.nemo, re-read from disk, has not the validation WER for which it
    was chosen.
    """
    if abs(dev_wer - chosen_wer) > tolerance:
        raise RuntimeError(
            f"best.nemo read back from disk has a validation WER of {dev_wer:.4f}, but it was "
            f"chosen for {chosen_wer:.4f}: "
            "the export is not the model that was chosen."
        )
