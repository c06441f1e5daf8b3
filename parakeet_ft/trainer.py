"""Training: a Lightning module around a NeMo model, and the Trainer that fits it."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from parakeet_ft import watch
from parakeet_ft.checkpoints import WholeFiles, signals_restored
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.evaluation import wer
from parakeet_ft.evaluation.transcribe import transcribe
from parakeet_ft.model.objective import training_loss
from parakeet_ft.optim import build_optimizer


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, loader workers included."""
    pl.seed_everything(seed, workers=True, verbose=False)


def resolve(*, accelerator: str, devices: int, num_nodes: int, strategy: str, precision: str) -> dict[str, Any]:
    """What `auto` means on this machine: accelerator, device, ranks and precision. Raises UserError if there is no such GPU."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise UserError(f"trainer.accelerator={accelerator!r}: expected auto, cpu or gpu.")
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu, but torch sees no GPU here. Use trainer=auto, or install a CUDA build of torch.")
    if precision == "auto":
        precision = "bf16-mixed" if accelerator == "gpu" else "32-true"
    return {"accelerator": accelerator, "device": "cuda" if accelerator == "gpu" else "cpu", "devices": devices, "num_nodes": num_nodes,
            "num_ranks": devices * num_nodes, "strategy": strategy, "precision": precision}


def use_loss_for(model, *, device: str) -> str | None:
    """On a CPU, transducers get this project's exact loss, as NeMo's takes seconds (RNNT) or refuses (TDT). Returns what was done."""
    if device != "cpu" or not hasattr(model, "joint"):
        return None
    from parakeet_ft.model.transducer_loss import use_wavefront_loss

    return use_wavefront_loss(model)


class FineTuner(pl.LightningModule):
    """Trains `model` (a NeMo ASR model) and scores it at each validation with the project's own scorer.

    The NeMo model's own Lightning hooks are not used: its loaders, metrics and schedulers stay out of the run.
    sets and base are the utterances and the untouched checkpoint's scores by role.
    """

    def __init__(self, model, *, settings: dict[str, Any], sets: dict[str, list[Utterance]], base: dict[str, wer.Score],
                 guard_tolerance: float | None, batch_seconds: float) -> None:
        super().__init__()
        self.model, self.settings, self.sets, self.base = model, settings, sets, base
        self.guard_tolerance, self.batch_seconds = guard_tolerance, batch_seconds
        self.history: list[dict[str, Any]] = []
        self.hypotheses: dict[str, list[str]] = {}

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_index: int) -> torch.Tensor:
        losses = training_loss(self.model, *batch)
        if not torch.isfinite(losses["loss"]):
            raise UserError(f"The loss is {losses['loss'].item()} at step {self.global_step} (batch of {len(batch[1])}, longest "
                            f"{batch[1].max().item()} samples, {batch[3].max().item()} tokens). Lower optim.lr, or look at this batch's data.")
        self.log_dict({f"train_{name}": value.detach() for name, value in losses.items()}, batch_size=len(batch[1]))
        return losses["loss"]

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        # Lightning 2.4 validates at multiples of val_check_interval only; the last step must be validated too.
        last = self.settings["num_steps"] * self.settings["accumulate"]
        if self.trainer.fit_loop.epoch_loop.total_batch_idx + 1 == last:
            self.trainer.val_check_batch = last

    def configure_optimizers(self) -> dict[str, Any]:
        keys = ("lr", "betas", "weight_decay", "warmup_steps", "min_lr_ratio", "num_steps")
        optimizer, scheduler = build_optimizer(self.model, **{key: self.settings[key] for key in keys})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Nothing: the validation sets are decoded whole at the end, sorted by length."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def on_validation_epoch_end(self) -> None:
        if self.history and self.history[-1]["step"] == self.global_step:
            # Lightning 2.4 validates again when it continues from a checkpoint written after a validation, and then counts a step of it.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped -= 1
            return
        metrics = self.evaluate()
        self.log_dict(metrics)
        self.history.append({"step": self.global_step, **metrics})

    def evaluate(self) -> dict[str, float]:
        """Score the model as it stands on the validation sets of domain and guard."""
        domain, signs = self._score("validation")
        metrics = {"val_wer": domain.wer, "val_cer": domain.cer, **signs}
        guard = self._score("guard_validation")[0] if "guard_validation" in self.sets else None
        if guard:
            metrics["guard_wer"] = guard.wer
        metrics["selection_score"] = wer.selection_score(
            domain_wer=domain.wer, base_domain_wer=self.base["validation"].wer, guard_wer=guard.wer if guard else None,
            base_guard_wer=self.base["guard_validation"].wer if guard else None, guard_tolerance=self.guard_tolerance)
        return metrics

    def _score(self, key: str) -> tuple[wer.Score, dict[str, float]]:
        """Score a set and look for signs of a collapse, divided over the ranks; every rank gets the whole set's figures."""
        utterances, ranks, counts = self.sets[key], self.trainer.world_size, []
        texts = transcribe(self.model, utterances[self.global_rank::ranks], batch_seconds=self.batch_seconds,
                           on_frames=lambda silent, frames: counts.append((silent, frames)))
        if ranks > 1:
            gathered: list[Any] = [None] * ranks
            torch.distributed.all_gather_object(gathered, (texts, counts))
            texts = [gathered[i % ranks][0][i // ranks] for i in range(len(utterances))]
            counts = [count for _, counts_of_rank in gathered for count in counts_of_rank]
        self.hypotheses[key], references = texts, [u.text for u in utterances]
        silent, frames = (sum(numbers) for numbers in zip(*counts, strict=True))
        return wer.score(references, texts), watch.signs(references, texts, silent_frames=silent, frames=frames)


def build_loggers(names: list[str], *, run_dir: Path, project: str, experiment: str, resume_step: int) -> list[pl.loggers.Logger]:
    """Loggers by name (csv, tensorboard, wandb). W&B without key or network works offline and says so in one line.

    resume_step: what was logged from this step on is forgotten, as it will be logged again.
    """
    loggers: list[pl.loggers.Logger] = []
    for name in names:
        if name == "csv":
            from lightning.pytorch.loggers import CSVLogger

            path = run_dir / "metrics.csv"
            rows = [row for row in csv.DictReader(path.open()) if int(row["step"]) < resume_step] if path.exists() else []
            loggers.append(CSVLogger(run_dir, name="", version="", flush_logs_every_n_steps=10))
            # Lightning's writer begins by deleting the file.
            loggers[-1].experiment.metrics = rows
            loggers[-1].save()
        elif name == "tensorboard":
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=resume_step or None))
        elif name == "wandb":
            loggers.append(_wandb_logger(run_dir, project=project, experiment=experiment))
        else:
            raise UserError(f"logger.names holds {name!r}; expected csv, tensorboard or wandb.")
    return loggers


def _wandb_logger(run_dir: Path, *, project: str, experiment: str):
    import os
    import socket

    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE") == "offline"
    if not offline:
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.exists() and "wandb" in netrc.read_text())
        try:
            socket.create_connection(("api.wandb.ai", 443), timeout=3).close()
            reason = "" if has_key else "no API key"
        except OSError:
            reason = "no network"
        if reason:
            print(f"W&B: {reason}, so this run is logged offline; `wandb sync {run_dir}/wandb/offline-*` uploads it later.")
            offline = True
    identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]
    return WandbLogger(project=project, name=experiment, save_dir=run_dir, offline=offline, id=identity, resume="allow")


def fit(tuner: FineTuner, loader: torch.utils.data.DataLoader, *, num_steps: int, validations: int, gradient_clip: float, accumulate: int,
        devices: dict[str, Any], loggers: list[pl.loggers.Logger], callbacks: list[pl.Callback], resume_from: Path | None) -> None:
    """Fit for num_steps optimiser steps with about `validations` validations, one of them at the end; from a checkpoint on, if one is given."""
    every = max(1, round(num_steps / validations))
    trainer = pl.Trainer(
        **{key: devices[key] for key in ("accelerator", "devices", "num_nodes", "strategy", "precision")}, max_steps=num_steps, max_epochs=1,
        val_check_interval=every * accumulate, check_val_every_n_epoch=None, gradient_clip_val=gradient_clip or None,
        accumulate_grad_batches=accumulate, use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=max(1, every // 10),
        logger=loggers, callbacks=[pl.callbacks.LearningRateMonitor("step"), *callbacks], plugins=[WholeFiles()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False)
    with signals_restored():
        # Lightning runs its validation hooks only with a loader; one dummy batch serves, as the tuner decodes whole sets.
        trainer.fit(tuner, loader, torch.utils.data.DataLoader([0], batch_size=None), ckpt_path=resume_from)
