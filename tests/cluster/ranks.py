"""What tests run on several ranks, in processes that are forked from one which has imported NeMo;
and the sets and settings of all cluster tests.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600  # until a process is given up: a busy machine needs minutes to import NeMo


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def demo_settings(folder: Path, *, steps: int) -> list[str]:
    """Overrides for a run of the bundled tiny model on a few utterances of the demo, a checkpoint
    after each step; writes the manifests.
    """
    from parakeet_ft.data.manifest import read_manifest, write_manifest

    folder.mkdir(parents=True, exist_ok=True)
    for name, size in {"train": 16, "dev": 3, "guard": 2, "replay": 8}.items():
        write_manifest(
            read_manifest(ROOT / "parakeet_ft" / "demo" / f"{name}.jsonl")[:size],
            folder / f"{name}.jsonl",
        )
    return [
        "model=tiny",
        f"data.train={folder / 'train.jsonl'}",
        f"data.validation={folder / 'dev.jsonl'}",
        f"data.guard_validation={folder / 'guard.jsonl'}",
        f"data.replay.manifest={folder / 'replay.jsonl'}",
        "data.num_workers=0",
        "data.batch_seconds=10",
        f"budget.steps={steps}",
        "logger=csv",
        "evaluation.batch_seconds=5",
        "evaluation.validations=1",
        "evaluation.interpolation=[]",
        "evaluation.average_last=null",
        "checkpoint.every_steps=1",
        "trainer.accelerator=cpu",
    ]


def on_ranks(
    function: Callable[..., None], *arguments: Any, outputs: Path, count: int = 2
) -> list[int]:
    """Call function(*arguments) on `count` ranks that have joined; returns their exit codes. What
    rank n prints is in outputs/n.txt.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nemo.collections.asr.models", "lightning.pytorch"])
    outputs.mkdir(parents=True, exist_ok=True)
    port = free_port()
    ranks = [
        context.Process(
            target=_run, args=(rank, count, port, outputs / f"{rank}.txt", function, arguments)
        )
        for rank in range(count)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(SECONDS)
    hanging = [rank for rank in ranks if rank.is_alive()]
    for rank in hanging:
        rank.kill()
    printed = "\n".join(
        f"--- rank {rank} ---\n{(outputs / f'{rank}.txt').read_text()}" for rank in range(count)
    )
    assert not hanging, f"{len(hanging)} ranks did not end\n{printed}"
    return [rank.exitcode for rank in ranks]


def _run(
    rank: int, count: int, port: int, output: Path, function: Callable[..., None], arguments: tuple
) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    from parakeet_ft.distributed import ranks

    # As of a run: workers of loaders are forked.
    multiprocessing.set_start_method("fork", force=True)
    # Longer than the tests wait: what ends must not end by this.
    ranks.join(timeout_minutes=60)
    function(*arguments)


def finetune(config: dict[str, Any], run_dir: Path, stop_before_batch: int | None = None) -> None:
    """The recipe on this rank. Leaves <rank>.json with the indices of all utterances that it
    trained on, and <rank>.pt with its weights.

    stop_before_batch: rank 1 gets SIGUSR1 then.
    """
    import lightning.pytorch as pl
    import torch

    from parakeet_ft.batches import loaders
    from parakeet_ft.distributed import ranks
    from parakeet_ft.errors import exit_on_user_error
    from parakeet_ft.settings.finetune import read_finetune
    from recipes import finetune as recipe

    seen: list[int] = []
    read = loaders.BatchDataset.__getitem__

    def read_and_note(self, indices):
        # Indices count on through the passes.
        seen.extend(i % len(self.utterances) for i in indices)
        return read(self, indices)

    class Watching(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            if batch_index == stop_before_batch and ranks.rank() == 1:
                os.kill(os.getpid(), signal.SIGUSR1)

        def on_fit_end(self, trainer, module):
            torch.save(module.whole.state_dict(), run_dir / f"{ranks.rank()}.pt")

    loaders.BatchDataset.__getitem__ = read_and_note
    with exit_on_user_error(), ranks.ending_together(run_dir):
        settings = read_finetune(config)
        recipe.finetune(settings, run_dir=run_dir, command=["x"], callbacks=[Watching()])
        (run_dir / f"{ranks.rank()}.json").write_text(json.dumps(seen))


def finetune_short_of_memory(config: dict[str, Any], run_dir: Path) -> None:
    """The recipe on this rank; at its second batch rank 1 alone runs out of memory in the forward
    pass.

    Behind the beginning of the encoder, where NeMo 3.0.0 lets the ranks agree on the longest audio
    (conformer_encoder.py, update_max_seq_length).
    """
    import torch

    from parakeet_ft.distributed import ranks
    from parakeet_ft.training import fine_tuner

    losses = fine_tuner.FineTuner._losses

    def fail_once(self, batch):
        found = losses(self, batch)
        if ranks.rank() == 1 and self.trainer.fit_loop.epoch_loop.batch_idx == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    fine_tuner.FineTuner._losses = fail_once
    finetune(config, run_dir)


def finetune_on_a_disk(
    config: dict[str, Any], run_dir: Path, bytes_per_second: float | None, timeout_seconds: float
) -> None:
    """The recipe on this rank, which gives the others up after timeout_seconds; checkpoints are
    written at that rate, or None: what continues a run is refused, as by a full disk.
    """
    import datetime
    import errno
    import time

    import torch

    from parakeet_ft.training import saving

    write = saving.CountedFile.write_block

    def write_block(self, block):
        if bytes_per_second:
            time.sleep(len(block) / bytes_per_second)
        elif "resume" in str(self.name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, block)

    saving.CountedFile.write_block = write_block
    timeout = datetime.timedelta(seconds=timeout_seconds)
    torch.distributed.distributed_c10d._set_pg_timeout(timeout)
    finetune(config, run_dir)


def finetune_without_reserved_positions(config: dict[str, Any], run_dir: Path) -> None:
    """The recipe on this rank, whose table of positions grows with what it alone has scored."""
    from parakeet_ft.distributed import ranks
    from parakeet_ft.model import attention
    from parakeet_ft.training import fine_tuner

    begin = fine_tuner.FineTuner.on_train_start

    def note(self):
        size = self.model.encoder.pos_enc.pe.shape[1]
        (run_dir / f"{ranks.rank()}.positions").write_text(str(size))
        begin(self)

    attention.reserve_positions = lambda model, *, seconds: None
    fine_tuner.FineTuner.on_train_start = note
    finetune(config, run_dir)
