"""The console during training: one bar with loss, WER and time left; a line per validation where there is no terminal."""

from __future__ import annotations

import time

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from parakeet_ft.console import Narrator


class ProgressBar(pl.Callback):
    """Rich bar on rank 0. Lightning 2.4's own RichProgressBar fails with rich 15."""

    def __init__(self, narrator: Narrator, *, num_steps: int) -> None:
        self.console, self.num_steps = narrator.console, num_steps
        self.loss, self.audio_seconds, self.started = 0.0, 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.progress = Progress(TextColumn("fine-tuning"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"),
                                 TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, disable=not trainer.is_global_zero,
                                 transient=False)
        self.task = self.progress.add_task("", total=self.num_steps, completed=trainer.global_step)
        if self.console.is_terminal:
            self.progress.start()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self.loss = loss if not self.loss else 0.9 * self.loss + 0.1 * loss
        self.audio_seconds += float(batch[1].sum()) / module.model.preprocessor._sample_rate
        self.progress.update(self.task, completed=trainer.global_step, description=self._description(trainer))

    def _description(self, trainer: pl.Trainer) -> str:
        shown = {name: trainer.callback_metrics.get(key) for name, key in (("domain WER", "val_wer"), ("guard", "guard_wer"))}
        scores = "  ".join(f"{name} {100 * float(value):.1f} %" for name, value in shown.items() if value is not None)
        speed = self.audio_seconds / max(time.monotonic() - self.started, 1e-9)
        return f"loss {self.loss:.3f}  lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}  {scores}  {speed:.0f} audio s/s"

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self.console.is_terminal and trainer.is_global_zero:
            left = (time.monotonic() - self.started) / max(trainer.global_step, 1) * (self.num_steps - trainer.global_step)
            self.console.print(f"  step {trainer.global_step}/{self.num_steps}  {self._description(trainer)}  {left:.0f} s left", highlight=False)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()
