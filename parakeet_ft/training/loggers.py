"""Where a run's numbers are logged: CSV, TensorBoard, W&B, MLflow, each through Lightning."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path

import lightning.pytorch as pl

from parakeet_ft.errors import UserError
from parakeet_ft.model.source import unreachable
from parakeet_ft.training import lightning_2_4

WANDB = "https://api.wandb.ai"


def build(
    names: list[str], *, run_dir: Path, project: str, experiment: str, resume_step: int
) -> list[pl.loggers.Logger]:
    """Loggers by name (csv, tensorboard, wandb, mlflow). W&B without key or network works offline
    and says so in one line.

    resume_step: what was logged from this step on is forgotten, as it will be logged again.
    """
    loggers: list[pl.loggers.Logger] = []
    for name in names:
        if name == "csv":
            from lightning.pytorch.loggers import CSVLogger

            path = run_dir / "metrics.csv"
            rows = [row for row in _logged(path) if int(row["step"]) < resume_step]
            if resume_step and not rows:
                print(f"{path.name} holds nothing of before step {resume_step}.")
            loggers.append(CSVLogger(run_dir, name="", version="", flush_logs_every_n_steps=10))
            lightning_2_4.keep_rows(loggers[-1], rows)
        elif name == "tensorboard":
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(
                TensorBoardLogger(
                    run_dir, name="", version="tensorboard", purge_step=resume_step or None
                )
            )
        elif name == "mlflow":
            from lightning.pytorch.loggers import MLFlowLogger

            loggers.append(
                MLFlowLogger(
                    experiment_name=project,
                    run_name=experiment,
                    save_dir=str(run_dir / "mlruns"),
                    tags={"run_dir": str(run_dir)},
                )
            )
        elif name == "wandb":
            loggers.append(_build_wandb(run_dir, project=project, experiment=experiment))
        else:
            raise UserError(
                f"logger.names holds {name!r}; expected csv, tensorboard, wandb or mlflow."
            )
    return loggers


def _logged(path: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, none if it is not there. Raises UserError if it is damaged."""
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
        whole = not text or (text.endswith("\n") and "step" in (reader.fieldnames or ()))
        for row in rows:
            whole &= row["step"].isdecimal() and None not in row and None not in row.values()
    except (OSError, ValueError, KeyError, AttributeError, csv.Error):
        whole = False
    if not whole:
        raise UserError(
            f"{path} is damaged: expected rows with a step, as this run logged them. Delete it or "
            "move it away, and give the same command again: it continues, and logs anew from "
            "there."
        )
    return rows


def _build_wandb(run_dir: Path, *, project: str, experiment: str):
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE") == "offline"
    if not offline:
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        has_key = bool(os.environ.get("WANDB_API_KEY")) or (
            netrc.exists() and "wandb" in netrc.read_text()
        )
        reason: str | None = None if has_key else "no API key"
        reason = reason or unreachable(os.environ.get("WANDB_BASE_URL") or WANDB)
        if reason:
            print(
                f"W&B: {reason}, so this run is logged offline; `wandb sync "
                f"{run_dir}/wandb/offline-*` uploads it later."
            )
            offline = True
    identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]
    return WandbLogger(
        project=project,
        name=experiment,
        save_dir=run_dir,
        offline=offline,
        id=identity,
        resume="allow",
    )
