"""When a run saves, and what waits for it: rank 0 copies what stands at a step, a thread writes the
copy, and training goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from parakeet_ft.distributed import ranks
from parakeet_ft.errors import Stopped, UserError
from parakeet_ft.run import signals
from parakeet_ft.training import checkpoints, lightning_2_4, saving
from parakeet_ft.training.random_states import random_states, restore_random_states

# What ranks agree on, the highest of what each wants. SIGHUP is 1 as well, so a signal is told as
# SAVE + its number.
SAVE = 1
FAILED = 1000
# Ranks that wait for the disk ask each other so often; the first says so after, and then again.
POLL_SECONDS = 0.5
FIRST_WORDS_AFTER, WORDS_EVERY = 10.0, 60.0
# How long a rank that fails lets a write go on while others wait for it.
LAST_SECONDS = 20.0


class Checkpointer(pl.Callback):
    """Saves at the next step when it is time, after each validation, when a signal asks for it, and
    at the end. A thread of rank 0 writes a copy while training goes on.

    keep: how many checkpoints to continue from; keep_weights: of how many of the last validations
    the weights, besides the best's; say: hears lines of what takes long. After a signal that asks
    to end (run.signals) it saves, waits until the file is whole, and raises Stopped on every rank.
    What the disk refuses is raised on every rank at the next step.
    """

    def __init__(
        self,
        directory: Path,
        *,
        every_minutes: float | None,
        every_steps: int | None,
        keep: int,
        keep_weights: int,
        say: Callable[[list[str]], None] = lambda lines: None,
    ) -> None:
        self.directory, self.every_minutes, self.every_steps = directory, every_minutes, every_steps
        self.keep, self.keep_weights, self.say = keep, keep_weights, say
        self.signal: int | None = None
        self.writer = saving.Background()
        self._due, self._saved_position, self._random_states = False, -1, None
        self._validated = False
        self._group = None
        self._saves, self._without_copy, self._bytes, self._standing = 0, 0, 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._last_save = time.monotonic()
        for number in signals.answered():
            signal.signal(number, self._on_signal)
        self.signal = signals.take_swallowed()
        if trainer.world_size > 1:
            # Flags travel on the CPU, so that no GPU waits for them.
            self._group = torch.distributed.new_group(backend="gloo")
        if self._saved_position >= 0:
            leave_file(trainer.optimizers)

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
            self._wait()
            raise Stopped(
                f"{signal.Signals(wanted - SAVE).name}: saved at step {trainer.global_step} of "
                f"{trainer.max_steps} and stopped. "
                "The same command continues."
            )

    def _agreed(self, trainer: pl.Trainer, position: int) -> int:
        """0: go on; SAVE; above: by how much, the signal for which to save and stop. The same on
        every rank. Raises on every rank what the thread could not write.
        """
        wanted = SAVE + self.signal if self.signal else 0
        if not wanted and (self._due or self._is_time(trainer, position)):
            wanted = SAVE
        wanted = self._highest(FAILED if self.writer.failed else wanted)
        if wanted == FAILED:
            ranks.on_first(self.writer.check)
        return wanted

    def _highest(self, number: int) -> int:
        """Of the numbers that the ranks give, the highest."""
        if self._group is None:
            return number
        flag = torch.tensor(number)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return int(flag)

    def _is_time(self, trainer: pl.Trainer, position: int) -> bool:
        if position == self._saved_position or not position:
            return False
        if self.every_steps and trainer.global_step % self.every_steps == 0:
            return True
        # What goes by the clock waits for the disk, not training: rank 0, which writes, decides.
        if not self.every_minutes or not trainer.is_global_zero or self.writer.busy:
            return False
        return time.monotonic() - self._last_save >= 60 * self.every_minutes

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What was validated is saved before the next step changes it."""
        self._due = self._validated = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save(trainer)
        self._wait()
        self._stop_if_asked(trainer, self._agreed(trainer, self._saved_position))
        saving.free_pinned_memory()
        self.say([self._summary()])

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """What is being written is a step that the next attempt need not repeat."""
        self.writer.wait(LAST_SECONDS if self._group else None)

    def _save(self, trainer: pl.Trainer) -> None:
        """Begin to write what stands at this step, unless that is on the disk or on its way."""
        position = lightning_2_4.completed_batches(trainer)
        if position == self._saved_position and not self._due:
            return
        self._wait()  # one copy in memory, and the older checkpoint first
        begun = time.monotonic()
        content = lightning_2_4.checkpoint_of(trainer)
        copied = False
        if trainer.is_global_zero:
            copied = self._begin(trainer, content)
        self._standing += time.monotonic() - begun
        if not self._highest(copied):
            self._wait()
        self._due = self._validated = False
        self._saved_position, self._last_save = position, time.monotonic()

    def _begin(self, trainer: pl.Trainer, content: dict[str, Any]) -> bool:
        """Have the thread write this step; whether training may go on meanwhile."""
        step, validated = trainer.global_step, self._validated
        size = saving.num_bytes(content)
        copied = saving.fits_beside(size)
        if copied:
            content = saving.host_copy(content, live=_live(trainer.lightning_module))
        elif not self._without_copy:
            self.say(
                [f"saving stops training: no room in memory for a copy of {size / 1e9:.1f} GB"]
            )
        self._saves, self._bytes = self._saves + 1, size
        self._without_copy += not copied

        def work() -> None:
            if validated:
                weights = {key: content[key] for key in ("state_dict", "global_step")}
                path = self.directory / f"weights-step={step:06d}.ckpt"
                checkpoints.write(weights, path, on_bytes=self.writer.add)
            path = self.directory / f"resume-step={step:06d}.ckpt"
            checkpoints.write(content, path, on_bytes=self.writer.add)
            self._prune(content["history"])

        total = size + (saving.num_bytes(content["state_dict"]) if validated else 0)
        self.writer.start(work, name=f"resume-step={step:06d}.ckpt", total=total)
        return copied

    def _wait(self) -> None:
        """Until what is being written is whole, on every rank, with words where that takes long; no
        rank waits in a collective call for longer than it takes to ask. Raises on every rank what
        the disk refused.
        """
        begun, next_words = time.monotonic(), FIRST_WORDS_AFTER
        while self._highest(self.writer.busy):
            self.writer.wait(POLL_SECONDS)
            if self.writer.busy and time.monotonic() - begun > next_words:
                self.say([f"waiting for the disk: {self.writer.progress()}"])
                next_words += WORDS_EVERY
        self._standing += time.monotonic() - begun
        if self._highest(self.writer.failed):
            ranks.on_first(self.writer.check)

    def facts(self) -> dict[str, Any]:
        """Of this process's saves: how many, the last one's GB, seconds for which training stood
        still, seconds of the disk, and how many had no room for a copy in memory.
        """
        return {
            "saves": self._saves,
            "gb": round(self._bytes / 1e9, 3),
            "seconds_standing_still": round(self._standing, 2),
            "seconds_writing": round(self.writer.seconds, 2),
            "without_copy": self._without_copy,
        }

    def _summary(self) -> str:
        return (
            f"checkpoints: {self._saves} saved, {self.writer.seconds:.1f} s of writing, for which "
            f"training stood still {self._standing:.1f} s"
        )

    def _prune(self, history: list[dict[str, Any]]) -> None:
        """Delete what nothing can need any more. Only after a save: until then an older checkpoint
        may need older weights.
        """
        for path in checkpoints.find(self.directory, "resume")[: -self.keep]:
            path.unlink()
        kept = {
            checkpoints.best_step(history),
            *(point["step"] for point in history[-max(1, self.keep_weights) :]),
        }
        for path in checkpoints.find(self.directory, "weights"):
            if checkpoints.step_of(path) not in kept:
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


def _live(module: Any) -> set[int] | None:
    """Under FSDP, the addresses of what was not gathered; None where nothing was."""
    if module.model is module.whole:
        return None
    states = [value for state in module.optimizer.state.values() for value in state.values()]
    tensors = [*module.buffers(), *(value for value in states if isinstance(value, torch.Tensor))]
    return {tensor.data_ptr() for tensor in tensors if type(tensor) is torch.Tensor}


def leave_file(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Copy optimiser states on the CPU out of the checkpoint that they were loaded from: they would
    hold on to it, and to its place on the disk, after it is deleted.
    """
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.device.type == "cpu":
                    state[key] = value.clone()
