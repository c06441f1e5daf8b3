"""How many processes read audio: as many as feed the device, by the measured speed of reading, and
no more than cores and shared memory allow.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet_ft.batches import READY_BATCHES

if TYPE_CHECKING:
    from parakeet_ft.batches.loaders import BatchDataset

# Of the training files, for the measurement: so many, or as many as are read in that time.
SAMPLE_FILES = 24
SAMPLE_SECONDS = 2.0
# Workers hold batches ready for a step that is faster than the mean.
SPARE = 1.25
# Seconds of audio a second that an H100 learns from with 600 M weights, at 30 % of what it can
# compute (an estimate: 45.5 GFLOP for a second of audio). Others are slower.
GPU_RATE = 6000.0
GPU_WEIGHTS = 600e6
# The tiny checkpoint on two cores; larger ones are slower.
CPU_RATE = 200.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """What reading a sample of the training files showed: seconds of audio that one process reads a
    second, and the bytes of a sample on its way to the trainer.
    """

    audio_per_second: float
    sample_bytes: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """How many workers, why, and what was measured for it."""

    num_workers: int
    reason: str
    reads: float | None = None
    wanted: float | None = None

    def line(self) -> str:
        """For people."""
        return f"{self.num_workers} reading process(es) ({self.reason})"

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return dataclasses.asdict(self)


def measure(dataset: BatchDataset) -> Reading:
    """How fast this process reads a sample of the files, augmentation included. The first file is
    not counted, as it brings libraries into memory.
    """
    count = len(dataset.utterances)
    indices = np.unique(np.linspace(0, count - 1, SAMPLE_FILES + 1).astype(int)).tolist()
    dataset.batch(indices[:1])
    samples, sample_bytes = 0, 2
    begun = time.perf_counter()
    for index in indices[1:] or indices:
        audio, lengths, *_ = dataset.batch([index])
        samples += int(lengths.sum())
        sample_bytes = max(sample_bytes, audio.element_size())
        if time.perf_counter() - begun > SAMPLE_SECONDS:
            break
    seconds = max(time.perf_counter() - begun, 1e-6)
    return Reading(samples / dataset.rate_hz / seconds, sample_bytes)


def device_rate(batching: dict[str, Any], *, num_weights: int, on_gpu: bool) -> tuple[float, str]:
    """Seconds of audio a second that the device learns from, and who says so: the trial of batches
    where there was one.
    """
    tried = [row.get("audio_per_second", 0.0) for row in batching.get("tried", [])]
    if any(tried):
        return max(tried), "measured"
    if on_gpu:
        return GPU_RATE * GPU_WEIGHTS / num_weights, "estimated for an H100"
    return CPU_RATE, "at most, on a CPU"


def choose(
    reading: Reading,
    *,
    wanted: float,
    wanted_is: str,
    batch_seconds: float,
    rate_hz: int,
    cores: int,
    shared_memory: float,
) -> Choice:
    """`cores`: this rank's, of which one is the trainer's; `shared_memory`: its free bytes, which
    hold READY_BATCHES of each worker.
    """
    needed = math.ceil(SPARE * wanted / reading.audio_per_second)
    batch_bytes = batch_seconds * rate_hz * reading.sample_bytes
    held = int(shared_memory / READY_BATCHES / batch_bytes)
    limits = {
        f"there are {cores} core(s)": max(1, cores - 1),
        "shared memory holds no more batches": max(1, held),
    }
    number = min(needed, *limits.values())
    reason = (
        f"auto: one reads {reading.audio_per_second:.0f} s of audio a second, the device learns "
        f"from {wanted:.0f} ({wanted_is})"
    )
    if number < needed:
        # The tightest limit says why.
        reason += f"; {needed} would feed it, {min(limits, key=lambda key: limits[key])}"
    return Choice(number, reason, round(reading.audio_per_second, 1), round(wanted, 1))
