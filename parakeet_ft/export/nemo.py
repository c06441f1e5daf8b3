"""Trained weights to `.nemo` files that plain NeMo restores."""

from __future__ import annotations

from pathlib import Path

from parakeet_ft.files import atomic_path
from parakeet_ft.model.restore import check_finite


def save_nemo(model, path: Path) -> Path:
    """Save as `.nemo`: written under a temporary name, renamed when whole.

    Raises UserError, and writes nothing, if a weight is NaN or infinite.
    """
    check_finite(model, "Nothing was exported: the model")
    forget_place(model)
    with atomic_path(path) as temporary:
        model.save_to(str(temporary))
    return path


def forget_place(model) -> None:
    """Take the folder out of the configuration where the tokenizer lay when the model was made:
    the .nemo holds the tokenizer itself, and NeMo writes that path, but never reads it.
    """
    from omegaconf import open_dict

    with open_dict(model.cfg):
        model.cfg.tokenizer.dir = ""


def irreproducible(dev_wer: float, chosen_wer: float, *, words: int) -> str | None:
    """What is wrong if best.nemo, re-read from disk, has not the validation WER for which it was
    chosen; None if the two differ by no more than two words of the set, or by 0.001.

    Sums in another order, as batches of other sizes give, move a close decision now and then.
    """
    if abs(dev_wer - chosen_wer) <= max(1e-3, 2 / max(words, 1)) + 1e-9:
        return None
    return (
        f"best.nemo read back from disk has a validation WER of {100 * dev_wer:.2f} %, but it was "
        f"chosen for {100 * chosen_wer:.2f} %: the export is not the model that was chosen. Do not "
        "use it; last.nemo and the checkpoints are there. Please report it."
    )
