"""Checkpoints as files: whole or absent, and exact: the run that continues from one ends with the
weights of the run that was never stopped.

    checkpoints/resume-step=000040.ckpt     everything: weights, optimiser, schedule, position in
                                            the data, random states, history
    checkpoints/weights-step=000040.ckpt    weights alone, one per validation that may still be
                                            chosen for best.nemo
    checkpoints/base.ckpt                   weights before the first step, until that is done
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from parakeet_ft.distributed import ranks
from parakeet_ft.errors import UserError
from parakeet_ft.files import damaged_member, misfit
from parakeet_ft.training import saving

NAME = re.compile(r"(?:resume|weights)-step=([0-9]+)\.ckpt")
WEIGHTS = {"state_dict": {"*": torch.Tensor}, "global_step": int}
# What continuing reads of a checkpoint.
RESUME = WEIGHTS | {
    "position": int,
    "random_states": list,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": {"fit_loop": dict},
}


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def find(directory: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind (`resume` or `weights`) by step, complete or not."""
    found = [path for path in directory.glob(f"{kind}-step=*.ckpt") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def is_whole(path: Path) -> bool:
    """Whether every byte reads back as it was written."""
    return damaged_member(path) is None


def clear_half_written(run_dir: Path) -> None:
    """Delete the temporary files that a killed process left behind; only for the process that holds
    the directory.
    """
    for path in run_dir.rglob(".*.tmp"):
        if path.is_symlink() or path.is_file():
            path.unlink()


def newest(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint to continue from, and a line for each damaged one that was passed
    over. Raises UserError if no checkpoints can be kept there.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        raise UserError(
            f"{directory} is no folder, and checkpoints are to be kept there. Delete it or move it "
            "away, and give the same command again."
        )
    named = find(directory, "resume")
    lines = [
        f"{path.name} has no step in its name and is passed over"
        for path in sorted(directory.glob("resume-step=*.ckpt"))
        if path not in named
    ]
    for path in reversed(named):
        problem = damage(path, RESUME)
        if not problem:
            return path, lines
        lines.append(f"{path.name} is damaged ({problem}) and is passed over")
    return None, lines


def damage(path: Path, shape: dict[str, Any]) -> str | None:
    """Why what a run reads of this file cannot be read; None if it can."""
    if not is_whole(path):
        return "it does not read back as written"
    try:
        content = read(path, lazily=True)
    # Whatever torch says of a zip file that torch.save did not write.
    except Exception as error:
        return f"it is no checkpoint: {' '.join(str(error).split())[:100]}"
    if problem := misfit(content, shape):
        return problem
    if content["global_step"] != step_of(path):
        return f"it is of step {content['global_step']}"
    return None


def read(path: Path, *, lazily: bool = False) -> dict[str, Any]:
    """A checkpoint's content on the CPU: tensors and plain values, no code is run. lazily: tensors
    stay on disk until they are used.
    """
    return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)


def read_weights(directory: Path, step: int) -> dict[str, torch.Tensor]:
    """The model's state dict as it was validated at a step, in its file. Raises UserError, on every
    rank, if the file is damaged, gone, or of another model than the checkpoints beside it.
    """
    path = directory / f"weights-step={step:06d}.ckpt"
    ranks.on_first(lambda: _check_weights(path), patient=True)
    return model_state(path)


def _check_weights(path: Path) -> None:
    problem = damage(path, WEIGHTS)
    beside = find(path.parent, "resume")[-1:]
    if not problem and beside and _shapes(path) != _shapes(*beside):
        problem = f"it is of another model than {beside[0].name}"
    if problem:
        raise UserError(
            f"{path} is missing or damaged ({problem}), and best.nemo cannot be chosen without it. "
            "last.nemo beside its folder holds the weights of the last step. Put the file back "
            "and give the same command again, or begin anew with resume=never."
        )


def model_state(path: Path) -> dict[str, torch.Tensor]:
    """The model's state dict in a checkpoint, mapped: the ranks of a node share its memory."""
    state = read(path, lazily=True)["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items()}


def keep_base(model: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The model's state dict as it stands, in a file as `model_state` reads it: a copy in the
    memory of every rank would stay there through all of training.
    """
    ranks.on_first(lambda: write({"state_dict": model.state_dict()}, path), patient=True)
    return model_state(path)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's tensors in a checkpoint."""
    state = read(path, lazily=True)["state_dict"]
    return {key: tuple(value.shape) for key, value in state.items()}


def write(
    content: dict[str, Any], path: Path, *, on_bytes: Callable[[int], None] = lambda size: None
) -> None:
    """Write under a temporary name, rename what is whole; `on_bytes` hears of each block. Raises
    UserError, with nothing half-written, if the disk refuses.
    """
    try:
        saving.save(content, path, on_bytes=on_bytes)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent if path.parent.exists() else path.parent.parent).free
        kept = [p.name for p in find(path.parent, "resume")]
        raise UserError(
            f"{path.name} cannot be saved: {str(error).splitlines()[0]} ({free / 1e9:.2f} GB free "
            f"at {path.parent}). Expected room for one "
            f"checkpoint. Kept: {', '.join(kept) or 'none yet'}. Make room and give the same "
            f"command again: it continues."
        ) from error


def check_same_model(path: Path, model: torch.nn.Module) -> None:
    """Raise UserError if a checkpoint is of another model: other tensors, or other shapes."""
    found = {
        key.removeprefix("model."): tuple(value.shape)
        for key, value in read(path, lazily=True)["state_dict"].items()
    }
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if found != expected:
        key = next(key for key in {**expected, **found} if found.get(key) != expected.get(key))
        raise UserError(
            f"{path} is a checkpoint of another model: {key} is {found.get(key, 'absent')} there, "
            f"expected {expected.get(key, 'absent')}. "
            "Give the model it was made with, or begin anew with resume=never."
        )


def position_of(path: Path | None) -> int:
    """How many batches a rank had consumed; 0 for None."""
    return int(read(path, lazily=True)["position"]) if path else 0


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoints through `write` and `read`; loaded tensors stay in the file until
    they are copied to where they are needed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str, storage_options: Any = None
    ) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: str, map_location: Any = None) -> dict[str, Any]:
        return read(Path(path), lazily=True)


def best_step(history: list[dict[str, Any]]) -> int:
    """The step of the highest selection score, the earliest of equals; -1 where nothing was
    validated.
    """
    return (
        max(history, key=lambda point: (point["selection_score"], -point["step"]))["step"]
        if history
        else -1
    )
