"""Every hold on Lightning's insides, all of version 2.4.0: what its interface does not give.

tests/training/test_lightning_2_4.py fails with another version, so that each is looked at again.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import HalfPrecision

from parakeet_ft.model import parts
from parakeet_ft.model.objective import runs_bfloat16_lstm


def completed_batches(trainer: pl.Trainer) -> int:
    """Batches that this rank has finished (loops/training_epoch_loop.py)."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.completed


def current_batch(trainer: pl.Trainer) -> int:
    """The number of the batch in work, from 0."""
    return trainer.fit_loop.epoch_loop.batch_idx


def validate_after_this_batch(trainer: pl.Trainer, due: bool) -> None:
    """Called before a batch: whether a validation follows it. Lightning validates at multiples of
    val_check_batch alone (training_epoch_loop.py, _should_check_val_fx).
    """
    number = next_batch_number(trainer)
    trainer.val_check_batch = number if due else number + 1


def next_batch_number(trainer: pl.Trainer) -> int:
    """Called before a batch: its number, from 1."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def uncount_repeated_validation(trainer: pl.Trainer) -> None:
    """Lightning validates again when it continues from a checkpoint written after a validation,
    and counts a step of it, which would shift the steps of everything that is logged.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped -= 1


def set_position(checkpoint: dict[str, Any], position: int) -> None:
    """In a checkpoint saved between two batches Lightning counts the next one as ready already, and
    would skip its number on continuing.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in ("total", "current"):
        progress[count] = dict.fromkeys(progress[count], position)


def checkpoint_of(trainer: pl.Trainer) -> dict[str, Any]:
    """What Trainer.save_checkpoint would write, on every rank: tensors are those that train, but
    for FSDP's, which are gathered (trainer/connectors/checkpoint_connector.py).
    """
    return trainer._checkpoint_connector.dump_checkpoint()


def ends_step(trainer: pl.Trainer) -> bool:
    """Called after a batch: whether an optimiser step ended with it."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def log(trainer: pl.Trainer, values: dict[str, float], *, step: int) -> None:
    """To all loggers, as self.log would (trainer/connectors/logger_connector)."""
    trainer._logger_connector.log_metrics(values, step=step)


def skip_on_device(optimizer: Any, itself: bool) -> None:
    """With a GradScaler: whether the optimiser skips by itself what has overflown, as torch's fused
    one does on the device, or GradScaler asks.

    Lightning unscales and clips only before optimisers of the second kind (plugins/precision/
    amp.py); between that and the step it is made one of the first.
    """
    optimizer._step_supports_amp_scaling = itself


def keep_rows(logger: Any, rows: list[dict[str, str]]) -> None:
    """Give a CSVLogger what was logged before: its writer begins by deleting the file."""
    logger.experiment.metrics = rows
    logger.save()


class BFloat16Weights(HalfPrecision):
    """bf16-true, but for audio and features: Lightning would round the samples, the filterbank and
    the window to 8 bits as well (plugins/precision/half.py). And but for the prediction network,
    where the device has no bfloat16 LSTM.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__("bf16-true")
        self.device_type = device_type

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_module(self, module: Any) -> Any:
        preprocessor = module.model.preprocessor
        kept: dict[str, torch.Tensor] = {
            name: buffer.clone() for name, buffer in preprocessor.named_buffers() if buffer.numel()
        }
        module = super().convert_module(module)
        if parts.is_transducer(module.model) and not runs_bfloat16_lstm(self.device_type):
            module.model.decoder.float()
        for name, buffer in kept.items():
            owner, _, key = name.rpartition(".")
            setattr(preprocessor.get_submodule(owner), key, buffer)
        return module
