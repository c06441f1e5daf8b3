"""What a run needs of its host besides the device: disk, a temporary folder, shared memory for
batches and, beside GPUs, memory for copies of the weights.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from parakeet_ft.batches import READY_BATCHES
from parakeet_ft.data.corpus import durations_of
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.settings.finetune import Finetune
from parakeet_ft.training import memory

SHARED_MEMORY = Path("/dev/shm")
# Of float32 samples: 16-bit ones take half, but a single file of another kind makes its batch so.
BYTES_PER_SECOND = 16_000 * 4
# Python, torch and NeMo of one rank (measured on a CPU: training/memory.py).
SOFTWARE = 1.2e9


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that are needed at a place, what for, and what to do where there are fewer."""

    what: str
    bytes: float
    free: float
    cure: str

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.bytes <= self.free

    def line(self) -> str:
        """What is needed and what is free, in GB."""
        return f"{self.what}: about {self.bytes / 1e9:.1f} GB, free are {self.free / 1e9:.1f} GB"


def free_on_disk(path: Path) -> float:
    """What a user may still write at `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def needs(
    settings: Finetune,
    utterances: Sequence[Utterance],
    *,
    run_dir: Path,
    ranks_per_node: int,
    on_gpu: bool,
) -> list[Need]:
    """All that is known before anything is loaded; nothing for a checkpoint of unknown size."""
    found = [_shared_memory(settings, utterances, ranks_per_node)]
    architecture = memory.architecture_at(settings.model.source)
    if architecture is None:
        return found
    weights = 4.0 * memory.num_weights(architecture)
    share = memory.learning_share(architecture, settings.adaptation.as_config())
    moments = 2 * share * weights
    found.append(_disk(settings, weights, moments, run_dir))
    temporary = Path(tempfile.gettempdir())
    found.append(
        Need(
            f"a .nemo being read or written, in {temporary}",
            weights,
            free_on_disk(temporary),
            "Set TMPDIR to a folder on a larger disk.",
        )
    )
    if on_gpu:
        # The model before it goes to its GPU, and again when training is over; all else is mapped
        # from files. Rank 0 copies a checkpoint where there is room, and else waits for the disk.
        found.append(
            Need(
                f"copies of the weights in memory, {ranks_per_node} rank(s) on this machine",
                ranks_per_node * (weights + SOFTWARE),
                memory.free_bytes(),
                "Use fewer GPUs of this machine (trainer.devices), or adaptation=lora.",
            )
        )
    return found


def _disk(settings: Finetune, weights: float, moments: float, run_dir: Path) -> Need:
    """Checkpoints (one more than are kept, as the oldest goes last), weights of validations and
    before the first step, and both exports.
    """
    average = weights if settings.evaluation.ema_decay else 0.0
    resume = (settings.checkpoint.keep + 1) * (weights + moments + average)
    validated = ((settings.evaluation.average_last or 1) + 2) * weights
    return Need(
        f"checkpoints and exports in {run_dir}",
        resume + validated + 3 * weights,
        free_on_disk(run_dir),
        "Use checkpoint.keep=1, or another disk with hydra.run.dir=DIR.",
    )


def _shared_memory(
    settings: Finetune, utterances: Sequence[Utterance], ranks_per_node: int
) -> Need:
    longest = float(durations_of(utterances).max())
    asked = settings.data.batch_seconds or memory.BATCH_SECONDS
    seconds = longest if isinstance(asked, str) else max(asked, longest)
    # `auto` takes what there is room for.
    workers = 1 if isinstance(settings.data.num_workers, str) else settings.data.num_workers
    batches = ranks_per_node * workers * READY_BATCHES
    return Need(
        f"batches of {workers} loader worker(s) in {SHARED_MEMORY}, the longest utterance being "
        f"{longest:.0f} s",
        batches * seconds * BYTES_PER_SECOND,
        free_on_disk(SHARED_MEMORY),
        "Give a container more (docker run --shm-size=8g), or use fewer data.num_workers.",
    )


def check(found: Sequence[Need]) -> list[str]:
    """A line on the disk. Raises UserError for the first need that is not met."""
    for need in found:
        if not need.fits:
            raise UserError(
                f"This run does not fit: {need.line()}. {need.cure} "
                "`parakeet-ft doctor` looks at the whole machine."
            )
    return [f"disk: {need.line()}" for need in found if need.what.startswith("checkpoints")]
