"""What a user runs without this project: NeMo 3.0.0's own way to fine-tune, with the values of its
fine-tuning YAML.

    python benchmarks/_stock.py base.nemo --train a.jsonl --validation b.jsonl --epochs 3 --out DIR

restore_from, the classic dataset in batches of 16, AdamW at 1e-4 with 5,000 warm-up steps and a
cosine, float32, no clipping, exp_manager, validation and a checkpoint each epoch; the best by
val_wer ends as DIR/best.nemo. Prints a JSON line at the first step and per validation. The
transducer losses of tiny models on a CPU are this project's: NeMo's are minutes a step there, or
refuse.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import _quiet
import lightning.pytorch as pl
import torch
from omegaconf import OmegaConf

STARTED = time.time()


class Events(pl.Callback):
    """One JSON line to stdout per event; stops the training at target_wer."""

    def __init__(self, started: float, target_wer: float | None, first_step_only: bool) -> None:
        self.started, self.target_wer, self.first_step_only = started, target_wer, first_step_only

    def tell(self, event: str, **facts) -> None:
        print(
            json.dumps({"event": event, "seconds": round(time.time() - self.started, 2), **facts}),
            flush=True,
        )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if trainer.global_step == 1:
            self.tell("first_step")
            if self.first_step_only:
                os._exit(0)

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking:
            found = float(trainer.callback_metrics["val_wer"])
            self.tell("validation", step=trainer.global_step, val_wer=found)
            trainer.should_stop |= self.target_wer is not None and found <= self.target_wer


class KeptWeights(pl.Callback):
    """The weights of each validation, as parakeet_ft.training.checkpoints reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer, module) -> None:
        from parakeet_ft.training import checkpoints

        step = trainer.global_step
        content = {"state_dict": module.state_dict(), "global_step": step}
        checkpoints.write(content, self.folder / f"weights-step={step:06d}.ckpt")


def train(
    base: str,
    *,
    out: Path,
    train: str,
    validation: str,
    epochs: int,
    lr: float,
    warmup_steps: int,
    seed: int,
    started: float,
    target_wer: float | None = None,
    first_step_only: bool = False,
    keep_weights: bool = False,
    num_workers: int = 1,
) -> Path:
    """Fine-tune as NeMo's speech_to_text_finetune.py does; returns out/best.nemo."""
    _quiet.silence_nemo()
    from nemo.collections.asr.models import ASRModel
    from nemo.utils.exp_manager import exp_manager

    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=epochs,
        log_every_n_steps=10,
        val_check_interval=1.0,
        precision=32,
        gradient_clip_val=0.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            Events(started, target_wer, first_step_only),
            *([KeptWeights(out / "weights")] if keep_weights else []),
        ],
    )
    exp_manager(
        trainer,
        OmegaConf.create(
            {
                "explicit_log_dir": str(out),
                "create_tensorboard_logger": True,
                "create_checkpoint_callback": True,
                "checkpoint_callback_params": {
                    "monitor": "val_wer",
                    "mode": "min",
                    "save_top_k": 5,
                    "always_save_nemo": True,
                },
            }
        ),
    )
    model = ASRModel.restore_from(base, map_location="cpu")
    if hasattr(model, "joint"):
        from parakeet_ft.training.fine_tuner import use_loss_for

        use_loss_for(model, device="cpu" if not torch.cuda.is_available() else "cuda")
    model.set_trainer(trainer)
    data = {
        "sample_rate": model.preprocessor._sample_rate,
        "batch_size": 16,
        "num_workers": num_workers,
        "pin_memory": True,
    }
    model.setup_training_data(
        OmegaConf.create(
            {
                **data,
                "manifest_filepath": train,
                "shuffle": True,
                "max_duration": 20,
                "min_duration": 0.1,
            }
        )
    )
    model.setup_multiple_validation_data(
        OmegaConf.create({**data, "manifest_filepath": validation, "shuffle": False})
    )
    model.setup_optimization(
        OmegaConf.create(
            {
                "name": "adamw",
                "lr": lr,
                "betas": [0.9, 0.98],
                "weight_decay": 1e-3,
                "sched": {"name": "CosineAnnealing", "warmup_steps": warmup_steps, "min_lr": 5e-6},
            }
        )
    )
    trainer.fit(model)
    # This process has just written it; Lightning keeps more than tensors in it.
    best = torch.load(
        trainer.checkpoint_callback.best_model_path, map_location="cpu", weights_only=False
    )["state_dict"]
    model.load_state_dict(best)
    model.save_to(str(out / "best.nemo"))
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return out / "best.nemo"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base")
    for name in ("--train", "--validation"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--warmup-steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target-wer", type=float)
    parser.add_argument("--first-step-only", action="store_true")
    parser.add_argument(
        "--keep-weights", action="store_true", help="those of each validation, in OUT/weights"
    )
    parser.add_argument(
        "--started",
        type=float,
        default=STARTED,
        help="when the command was given, in seconds since 1970",
    )
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
