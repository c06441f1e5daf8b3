"""Checkpoints: whole or absent, and exact: the run that continues from one ends with the weights of
the run that was never stopped.

    checkpoints/resume-step=000040.ckpt     everything: weights, optimiser, schedule, position in
                                            the data, random states, history
    checkpoints/weights-step=000040.ckpt    weights alone, one per validation that may still be
                                            chosen for best.nemo
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from parakeet_ft.errors import Stopped, UserError
from parakeet_ft.files import atomic_path, damaged_member, misfit
from parakeet_ft.run import signals
from parakeet_ft.training import lightning_2_4

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
    """The model's state dict as it was validated at a step. Raises UserError if the file is
    damaged, gone, or of another model than the checkpoints beside it.
    """
    path = directory / f"weights-step={step:06d}.ckpt"
    problem = damage(path, WEIGHTS)
    beside = find(directory, "resume")[-1:]
    if not problem and beside and _shapes(path) != _shapes(*beside):
        problem = f"it is of another model than {beside[0].name}"
    if problem:
        raise UserError(
            f"{path} is missing or damaged ({problem}), and best.nemo cannot be chosen without it. "
            "last.nemo beside its folder holds the weights of the last step. Put the file back "
            "and give the same command again, or begin anew with resume=never."
        )
    state = read(path)["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items()}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's tensors in a checkpoint."""
    state = read(path, lazily=True)["state_dict"]
    return {key: tuple(value.shape) for key, value in state.items()}


def write(content: dict[str, Any], path: Path) -> None:
    """Write under a temporary name, read back, rename. Raises UserError, with nothing half-written,
    if the disk refuses.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
            if not is_whole(temporary):
                raise OSError("what was written does not read back")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
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
    """Lightning's checkpoints through `write` and `read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str, storage_options: Any = None
    ) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: str, map_location: Any = None) -> dict[str, Any]:
        return read(Path(path))


SAVE = 1  # what ranks agree on; SIGHUP is 1 as well, so a signal is told as SAVE + its number


class Checkpointer(pl.Callback):
    """Saves at the next step when it is time, after each validation, when a signal asks for it, and
    at the end.

    keep: how many checkpoints to continue from; keep_weights: of how many of the last validations
    the weights, besides the best's. After a signal that asks to end (run.signals) it saves and
    raises Stopped on every rank.
    """

    def __init__(
        self,
        directory: Path,
        *,
        every_minutes: float | None,
        every_steps: int | None,
        keep: int,
        keep_weights: int,
    ) -> None:
        self.directory, self.every_minutes, self.every_steps = directory, every_minutes, every_steps
        self.keep, self.keep_weights = keep, keep_weights
        self.signal: int | None = None
        self._due, self._saved_position, self._random_states = False, -1, None
        self._group = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._last_save = time.monotonic()
        for number in signals.answered():
            signal.signal(number, self._on_signal)
        self.signal = signals.take_swallowed()
        if trainer.world_size > 1:
            # Flags travel on the CPU, so that no GPU waits for them.
            self._group = torch.distributed.new_group(backend="gloo")

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            signals.end_at_once(number)  # Ctrl-C for the second time
        self.signal = number

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_index: int
    ) -> None:
        if self._random_states is not None:
            # Not earlier: making a loader's iterator draws from the generator.
            restore_random_states(self._random_states[trainer.global_rank])
            self._random_states = None
        position = lightning_2_4.completed_batches(trainer)
        if position % trainer.accumulate_grad_batches:
            return  # half of an optimiser step is in gradients that no checkpoint holds
        wanted = self._agreed(trainer, position)
        if wanted:
            self._save(trainer)
        self._stop_if_asked(trainer, wanted)

    def _stop_if_asked(self, trainer: pl.Trainer, wanted: int) -> None:
        if wanted > SAVE:
            raise Stopped(
                f"{signal.Signals(wanted - SAVE).name}: saved at step {trainer.global_step} of "
                f"{trainer.max_steps} and stopped. "
                "The same command continues."
            )

    def _agreed(self, trainer: pl.Trainer, position: int) -> int:
        """0: go on; SAVE; above: by how much, the signal for which to save and stop. The same on
        every rank.
        """
        wanted = SAVE + self.signal if self.signal else 0
        if not wanted and (self._due or self._is_time(trainer, position)):
            wanted = SAVE
        if self._group is not None:
            flag = torch.tensor(wanted)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._group)
            wanted = int(flag)
        return wanted

    def _is_time(self, trainer: pl.Trainer, position: int) -> bool:
        if position == self._saved_position or not position:
            return False
        return bool(
            (self.every_minutes and time.monotonic() - self._last_save >= 60 * self.every_minutes)
            or (self.every_steps and trainer.global_step % self.every_steps == 0)
        )

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        path = self.directory / f"weights-step={trainer.global_step:06d}.ckpt"
        state = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            write({"state_dict": state, "global_step": trainer.global_step}, path)
        self._due = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save(trainer)
        self._stop_if_asked(trainer, self._agreed(trainer, self._saved_position))

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.directory / f"resume-step={trainer.global_step:06d}.ckpt")
        self._due, self._saved_position, self._last_save = (
            False,
            lightning_2_4.completed_batches(trainer),
            time.monotonic(),
        )
        if trainer.is_global_zero:
            self._prune(trainer.lightning_module.history)
        trainer.strategy.barrier("checkpoint")

    def _prune(self, history: list[dict[str, Any]]) -> None:
        """Delete what nothing can need any more. Only after a save: until then an older checkpoint
        may need older weights.
        """
        for path in find(self.directory, "resume")[: -self.keep]:
            path.unlink()
        kept = {
            best_step(history),
            *(point["step"] for point in history[-max(1, self.keep_weights) :]),
        }
        for path in find(self.directory, "weights"):
            if step_of(path) not in kept:
                path.unlink()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        position = lightning_2_4.completed_batches(trainer)
        checkpoint["position"] = position
        states: list[Any] = [random_states()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_states())
        checkpoint["random_states"] = states
        lightning_2_4.set_position(checkpoint, position)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        ranks = len(checkpoint["random_states"])
        if ranks != trainer.world_size:
            raise UserError(
                f"The checkpoint was saved by {ranks} rank(s), and {trainer.world_size} continue "
                f"it. Its place in the data is that of {ranks}: "
                f"give as many (trainer.devices, trainer.num_nodes), or begin anew with "
                f"resume=never."
            )
        self._random_states = checkpoint["random_states"]
        self._saved_position = checkpoint["position"]


def best_step(history: list[dict[str, Any]]) -> int:
    """The step of the highest selection score, the earliest of equals; -1 where nothing was
    validated.
    """
    return (
        max(history, key=lambda point: (point["selection_score"], -point["step"]))["step"]
        if history
        else -1
    )


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
