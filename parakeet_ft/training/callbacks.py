"""During training: the console, the watch over each validation, sample hypotheses, the moving
average of the weights.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from parakeet_ft.batches.loaders import TimedLoader
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.files import atomic_path
from parakeet_ft.model import parts
from parakeet_ft.model.objective import compare_parts, parts_lines
from parakeet_ft.run.columns import fitted
from parakeet_ft.run.console import Narrator
from parakeet_ft.scoring.forgotten import worst_guard
from parakeet_ft.scoring.wer import Score
from parakeet_ft.scoring.words import shortened
from parakeet_ft.settings.guards import roles
from parakeet_ft.training import fine_tuner, states, watch
from parakeet_ft.training.verdicts import Known


class Recorded(pl.Callback):
    """Records how steps are made as they begin, beside where."""

    def __init__(self, devices: fine_tuner.Devices, record: Callable[..., None]) -> None:
        self.devices, self.record = devices, record

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.record(trainer={**self.devices, **fine_tuner.live(trainer, module)})


class LossParts(pl.Callback):
    """Says and records a hybrid's two losses at the first good step of the process."""

    def __init__(self, narrator: Narrator, record: Callable[..., None]) -> None:
        self.narrator, self.record, self.done = narrator, record, False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.weight = float(parts.ctc_loss_weight(module.whole))
        module.verdicts.listeners.append(self._hear)

    def _hear(self, known: Known) -> None:
        if self.done or known.lost or "transducer_loss" not in known.losses:
            return
        self.done = True
        transducer, ctc = (known.losses[f"{name}_loss"] for name in ("transducer", "ctc"))
        compared = compare_parts(transducer, ctc, weight=self.weight)
        self.record(loss_parts=compared)
        self.narrator.lines(parts_lines(compared))


class ProgressBar(pl.Callback):
    """On rank 0 a Rich bar that fits 80 columns and a line per validation; where there is no
    terminal, a line for every tenth of the run too; the loss shown is of up to the batch before,
    and left out where the last line showed it.
    Lightning 2.4's own RichProgressBar fails with rich 15.
    """

    def __init__(self, narrator: Narrator, *, num_steps: int) -> None:
        self.narrator, self.console, self.num_steps = narrator, narrator.console, num_steps
        self.progress: Progress | None = None
        self.loss: float | None = None
        self.heard = False  # a loss since the last line
        self.audio_seconds, self.samples, self.first_step = 0.0, 0, 0
        self.started, self.validation_started, self.validating = 0.0, 0.0, 0.0
        self.tenths = 0
        self.worst: str | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started, self.first_step = time.monotonic(), trainer.global_step
        self.rate_hz = parts.rate_hz(module.model)
        module.verdicts.listeners.append(self._hear)
        self.progress = Progress(
            TextColumn("fine-tuning"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not trainer.is_global_zero,
            transient=True,
        )
        self.task = self.progress.add_task("", total=self.num_steps, completed=trainer.global_step)
        if self.console.is_terminal:
            self.progress.start()

    def _hear(self, known: Known) -> None:
        if not known.lost:
            loss = known.losses["loss"]
            self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
            self.heard = True
        self.audio_seconds += known.samples / self.rate_hz

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        self.samples += batch[0].numel()
        assert self.progress is not None
        self.progress.update(
            self.task,
            completed=trainer.global_step,
            description="  ".join([*self._loss(), *self._speed()]),
        )
        self._tell_tenth(trainer, batch_index)

    def _tell_tenth(self, trainer: pl.Trainer, batch_index: int) -> None:
        tenths = 10 * trainer.global_step // self.num_steps
        if self.console.is_terminal or not trainer.is_global_zero or tenths <= self.tenths:
            return
        if not self.audio_seconds:
            return  # what is known of a batch is known one batch later
        self.tenths = tenths
        if (batch_index + 1) % trainer.val_check_batch:  # a validation has lines of its own
            news = self._loss() if self.heard else []
            self._tell(trainer, [*news, self._rate(trainer), *self._speed()])

    def _tell(self, trainer: pl.Trainer, found: Sequence[str]) -> None:
        self.heard = False
        done = max(trainer.global_step - self.first_step, 1)
        left = (time.monotonic() - self.started) / done * (self.num_steps - trainer.global_step)
        step = f"step {trainer.global_step}/{self.num_steps}"
        waiting = self._waiting(trainer)
        self.narrator.lines(fitted([step, *found, *waiting, f"{left:.0f} s left"]))

    def _loss(self) -> list[str]:
        """The mean loss of late, once there is one."""
        return [] if self.loss is None else [f"loss {self.loss:.3f}"]

    def _rate(self, trainer: pl.Trainer) -> str:
        return f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}"

    def _speed(self) -> list[str]:
        """Seconds of audio a second of training, once there is any."""
        training = time.monotonic() - self.started - self.validating
        speed = self.audio_seconds / max(training, 1e-9)
        return [f"{speed:.0f} audio s/s"] if self.audio_seconds else []

    def _padding(self) -> list[str]:
        padding = 1 - self.audio_seconds * self.rate_hz / max(self.samples, 1)
        return [f"padding {100 * padding:.0f} %"] if self.audio_seconds else []

    def _scores(self, metrics: Mapping[str, Any]) -> list[str]:
        """Domain and guard; of several the worst, by its name."""
        shown = {"domain WER": metrics.get("val_wer"), "guard": metrics.get("guard_wer")}
        if f"guard_wer/{self.worst}" in metrics:
            shown[f"worst guard {shortened(self.worst)}"] = metrics[f"guard_wer/{self.worst}"]
        return [
            f"{name} {100 * float(value):.1f} %"
            for name, value in shown.items()
            if value is not None
        ]

    def _waiting(self, trainer: pl.Trainer) -> list[str]:
        """What share of the steps' time audio was waited for, where the loader can tell."""
        loader = trainer.train_dataloader
        if not isinstance(loader, TimedLoader):
            return []
        return [f"waiting {100 * loader.waiting_share():.0f} %"]

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validation_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validating += time.monotonic() - self.validation_started
        self.worst = worst_guard(module.history[-1]) if module.history else None
        if trainer.is_global_zero:
            scores = self._scores(trainer.callback_metrics)
            pace = [*self._speed(), *self._padding(), f"{memory_gb():.1f} GB"]
            self._tell(trainer, [*scores, *self._loss(), self._rate(trainer), *pace])
            self.narrator.lines(terms_lines(trainer.callback_metrics))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.progress and self.console.is_terminal:
            self.progress.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, module)


def terms_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What a validation found of the domain's terms, on a line; nothing without terms."""
    if "val_ker" not in metrics:
        return []
    return [
        f"terms missed {100 * float(metrics['val_ker']):.1f} %  "
        f"heard where not said {100 * float(metrics['val_false_terms']):.1f} % of what was said"
    ]


def memory_gb() -> float:
    """The most memory this process has used: the GPU's where there is one, else the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


class Watch(pl.Callback):
    """After each validation: alarms, signs of a collapse, and an early stop, in the history and,
    where notable, on the console.

    `alarm_after` and `patience` count validations (see parakeet_ft.training.watch); patience=None
    never stops. tolerances: the absolute WER that each guard may lose. Every rank has the same
    history and so decides the same, also after a resume.
    """

    def __init__(
        self,
        narrator: Narrator,
        *,
        alarm_after: int,
        patience: int | None,
        settling: bool,
        tolerances: Mapping[str, float | None],
    ) -> None:
        self.narrator, self.alarm_after, self.patience, self.settling = (
            narrator,
            alarm_after,
            patience,
            settling,
        )
        self.tolerances = tolerances

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if module.history and module.history[-1].get("stopped"):
            trainer.should_stop = True  # continued after an early stop

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        point = module.history[-1]
        if "phase" in point:
            # Lightning 2.4 validates again when it continues from a checkpoint written after a
            # validation
            return
        point["phase"], words = watch.phase(
            point, num_steps=trainer.max_steps, settling=self.settling
        )
        found = watch.streaks(
            module.history,
            base_wer=module.base["validation"].wer,
            tolerated=self._tolerated(module.base),
        )
        reason = watch.stop_reason(found, patience=self.patience)
        point["stopped"] = reason is not None
        point["alarms"] = watch.alarms(found, module.history, alarm_after=self.alarm_after)
        lines = (words, *point["alarms"].values(), reason)
        point["remarks"] = [line for line in lines if line]
        trainer.should_stop = trainer.should_stop or point["stopped"]
        if trainer.is_global_zero:
            self.narrator.lines(point["remarks"])

    def _tolerated(self, base: Mapping[str, Score]) -> dict[str, float]:
        """The highest WER of each guard that is no trouble."""
        found = {}
        for name, key in roles(base, "validation").items():
            tolerance = self.tolerances[name]
            if tolerance is not None:
                found[name] = base[key].wer + tolerance
        return found


class Hypotheses(pl.Callback):
    """The same few utterances at each validation, hypothesis beside reference: hypotheses.jsonl,
    and TensorBoard or W&B where they log.

    `before`: the untouched checkpoint's transcripts of all `utterances`, which are step 0. A run
    that continues has them from its checkpoint, and writes the file anew.
    """

    def __init__(
        self, path: Path, utterances: Sequence[Utterance], *, before: Sequence[str]
    ) -> None:
        self.path, self.utterances = path, utterances
        self.indices = watch.sample(len(utterances))
        self.rows = self._rows(0, before)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.rows[-1]["step"] == trainer.global_step:
            return
        new = self._rows(trainer.global_step, module.hypotheses["validation"])
        self.rows += new
        self._write(trainer)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                log_texts(logger, new, step=trainer.global_step)

    def _rows(self, step: int, texts: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "step": step,
                "id": Path(u.audio_filepath).name + (f"@{u.offset:g}" if u.offset else ""),
                "reference": u.text,
                "hypothesis": texts[i],
            }
            for i, u in ((i, self.utterances[i]) for i in self.indices)
        ]

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            with atomic_path(self.path) as temporary:
                temporary.write_text(
                    "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows),
                    encoding="utf-8",
                )


def log_texts(logger: pl.loggers.Logger, rows: Sequence[dict[str, Any]], *, step: int) -> None:
    """Hypotheses as text to TensorBoard or W&B; other loggers take none."""
    columns = ["id", "reference", "hypothesis"]
    if isinstance(logger, pl.loggers.TensorBoardLogger):
        lines = [
            f"| {' | '.join(columns)} |",
            "|---|---|---|",
            *(f"| {' | '.join(row[c].replace('|', '/') for c in columns)} |" for row in rows),
        ]
        logger.experiment.add_text("hypotheses", "\n".join(lines), step)
    elif isinstance(logger, pl.loggers.WandbLogger):
        logger.log_text(
            "hypotheses",
            columns=columns,
            data=[[row[c] for c in columns] for row in rows],
            step=step,
        )


class MovingAverage(pl.Callback):
    """Exponential moving average of the weights, BatchNorm statistics included, updated after every
    optimiser step; kept in checkpoints.

    The decay grows to `decay` as min(decay, (1 + n) / (10 + n)) over the first updates n, so that a
    short run forgets where it began.
    """

    def __init__(self, *, decay: float) -> None:
        self.decay, self.effective, self.updates = decay, 0.0, 0
        self.average: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        now = {
            key: value.detach()
            for key, value in module.model.state_dict().items()
            if value.is_floating_point()
        }
        if self.average and {key: value.shape for key, value in self.average.items()} != {
            key: value.shape for key, value in now.items()
        }:
            raise ValueError("The checkpoint's moving average is of another model.")
        self.average = {
            # copied, as what a checkpoint held is still in its file
            key: self.average[key].to(value.device, copy=True) if self.average else value.clone()
            for key, value in now.items()
        }

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if trainer.global_step == self.updates:
            return  # gradients are still being accumulated
        self.updates = trainer.global_step
        self.effective = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = module.model.state_dict()
        torch.optim.swa_utils.get_ema_multi_avg_fn(self.effective)(
            list(self.average.values()), [now[key] for key in self.average], self.updates
        )

    def weights(self) -> states.State:
        """The average on the CPU: a state dict without its counters."""
        return states.MadeWhenAsked(self.average, lambda key: self.average[key].cpu())

    def describe(self) -> str:
        """What was averaged: the decay in force at the last step, and the number of updates."""
        return f"decay {self.effective:.4g} at the last of {self.updates} steps"

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates, "effective": self.effective}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average, self.updates, self.effective = (
            state["average"],
            state["updates"],
            state["effective"],
        )
