"""The loader of a run, with as many workers as feed the device, and how long it was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from parakeet_ft.batches import loaders, workers
from parakeet_ft.batches.plan import Plan
from parakeet_ft.distributed import ranks
from parakeet_ft.model import parts
from parakeet_ft.run.console import Narrator
from parakeet_ft.training.host import SHARED_MEMORY, free_on_disk

# Of a step's time; beyond it is said what to do.
MUCH_WAITING = 0.1


def choose_workers(
    asked: int | str, plan: Plan, model: Any, batching: dict[str, Any]
) -> workers.Choice:
    """What data.num_workers means here: a number stands, `auto` is measured. `batching`: what was
    found for the batches.
    """
    if isinstance(asked, int):
        return workers.Choice(asked, "given")
    reading = workers.measure(loaders.train_set(plan, model))
    wanted, who = workers.device_rate(
        batching,
        num_weights=sum(p.numel() for p in model.parameters()),
        on_gpu=parts.device(model).type == "cuda",
    )
    return workers.choose(
        reading,
        wanted=wanted,
        wanted_is=who,
        batch_seconds=plan.batch_seconds,
        rate_hz=parts.rate_hz(model),
        cores=ranks.cores(),
        shared_memory=free_on_disk(SHARED_MEMORY) / ranks.find_place().ranks_per_node,
    )


class Waiting(pl.Callback):
    """Says and records what share of the steps' time audio was waited for, in the rank that waited
    longest. On a GPU the host is ahead of the device, which may be busy meanwhile.
    """

    def __init__(
        self,
        narrator: Narrator,
        record: Callable[..., None],
        loader: loaders.TimedLoader,
        choice: workers.Choice,
    ) -> None:
        self.narrator, self.record, self.loader, self.choice = narrator, record, loader, choice
        self.validation_started = 0.0

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.loader.leave_out(time.perf_counter() - self.validation_started)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        share = max(
            ranks.divide(
                lambda mine: [self.loader.waiting_share() for _ in mine], range(ranks.num_ranks())
            )
        )
        self.record(
            feeding=self.choice.facts()
            | {
                "first_batch_seconds": round(self.loader.first_seconds, 2),
                "waiting_share": round(share, 4),
            }
        )
        if trainer.is_global_zero:
            self.narrator.lines([waiting_line(share, self.loader.num_workers)])


def waiting_line(share: float, num_workers: int) -> str:
    """How much of the steps was waiting, and what helps if it was much."""
    said = f"{100 * share:.0f} % of the steps' time was waiting for audio"
    if share <= MUCH_WAITING:
        return said
    return (
        f"warning: {said} that {num_workers} process(es) read. Use more data.num_workers where "
        "there are cores; else make 16 kHz FLAC of what is Opus, MP3 or of another rate "
        "(data_prep/nemo_manifest.py), and shards of many small files (data_prep/shard.py)."
    )
