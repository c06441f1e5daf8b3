"""Planned batches as tensors: audio is read and texts are made tokens by a loader's workers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from parakeet_ft.batches import READY_BATCHES
from parakeet_ft.batches.augmentation import Augmentation
from parakeet_ft.batches.plan import Plan
from parakeet_ft.batches.sequence import BatchSequence
from parakeet_ft.data.audio import hold_members, read_utterance
from parakeet_ft.data.audio_file import AudioError, InMemory
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.model import parts
from parakeet_ft.run import signals

# What 16-bit samples are divided by to lie between -1 and 1.
FULL_SCALE = 32768.0


@dataclasses.dataclass(frozen=True)
class Unread:
    """What a worker gives in place of a batch that it could not read. Of an exception, torch would
    tell the trainer the name and the text of a traceback (2.13, _utils.py, ExceptionWrapper).
    """

    reason: str
    message: str

    @classmethod
    def because(cls, error: UserError | OSError) -> Unread:
        """What stands for an exception of reading."""
        reason = error.reason if isinstance(error, AudioError) else "unreachable"
        said = isinstance(error, UserError)
        return cls(reason, str(error) if said else f"Cannot read audio: {error}.")

    def error(self) -> AudioError:
        """The exception that the loader raises for it."""
        return AudioError(self.reason, self.message)


class BatchDataset(torch.utils.data.Dataset):
    """Index list -> (audio (B, T), lengths (B), tokens (B, U), token lengths (B)). Indices count on
    through the passes.

    Audio is int16 where that is exactly what was read, else float32: `as_float` makes both one.
    What cannot be read raises AudioError; a loader's worker returns Unread.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenize: Callable[[str], list[int]],
        *,
        rate_hz: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.utterances = utterances
        self.tokenize = tokenize
        self.rate_hz = rate_hz
        self.augmentation = augmentation

    def read(self, index: int, held: InMemory | None = None) -> np.ndarray:
        """The samples (T) of an utterance as its pass plays them; `held`: the bytes of its file."""
        number, index = divmod(index, len(self.utterances))
        u = self.utterances[index]
        samples = read_utterance(u, rate_hz=self.rate_hz, held=held)
        if self.augmentation is not None:
            samples = self.augmentation.apply(
                samples, rate_hz=self.rate_hz, number=number, index=index
            )
        return samples

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, ...] | Unread:
        try:
            return self.batch(indices)
        except (UserError, OSError) as error:
            unread = Unread.because(error)
            if torch.utils.data.get_worker_info() is None:
                raise unread.error() from error
            return unread

    def batch(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        """What the data set gives for indices. Raises UserError or OSError."""
        held = hold_members([self.utterances[i % len(self.utterances)] for i in indices])
        read = [self.read(i, data) for i, data in zip(indices, held, strict=True)]
        audio = [torch.from_numpy(samples) for samples in in_16_bits(read)]
        tokens = [
            torch.tensor(
                self.tokenize(self.utterances[i % len(self.utterances)].text), dtype=torch.long
            )
            for i in indices
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        return (
            padded(audio),
            torch.tensor([len(a) for a in audio]),
            pad(tokens, batch_first=True),
            torch.tensor([len(t) for t in tokens]),
        )


def in_16_bits(audio: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Float samples (T) each as 16-bit integers, half of the memory, if those are exactly the same:
    what comes from 16-bit files at the model's rate. If one differs, all as they are.
    """
    found = []
    for samples in audio:
        scaled = samples * FULL_SCALE
        with np.errstate(invalid="ignore"):  # beyond full scale the two differ, and all stay
            integers = scaled.astype(np.int16)
        if not np.array_equal(integers, scaled):
            return list(audio)
        found.append(integers)
    return found


def as_float(audio: torch.Tensor) -> torch.Tensor:
    """The float32 samples that the data set's audio stands for, on its device."""
    return audio.float().mul_(1 / FULL_SCALE) if audio.dtype == torch.int16 else audio


class TimedLoader(torch.utils.data.DataLoader):
    """A loader that knows how long it was waited for, from the second batch on: the first waits for
    the workers to start.
    """

    batches, first_seconds, waited, busy = 0, 0.0, 0.0, 0.0
    given: float | None = None  # when the batch came that is being learnt

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Not in the generator: torch draws the workers' seed here, before the first step.
        return self._timed(super().__iter__())

    def _timed(self, found: Iterator[Any]) -> Iterator[Any]:
        try:
            while True:
                begun = time.perf_counter()
                try:
                    batch = next(found)
                except StopIteration:
                    return
                if isinstance(batch, Unread):
                    raise batch.error()
                self.given = time.perf_counter()
                self._count(self.given - begun)
                yield batch
                self.busy += time.perf_counter() - self.given
                self.given = None
        finally:
            end_workers(found)

    def _count(self, seconds: float) -> None:
        self.batches += 1
        if self.batches == 1:
            self.first_seconds = seconds
        else:
            self.waited += seconds

    def leave_out(self, seconds: float) -> None:
        """Time between two batches that was no step's, such as a validation's."""
        self.busy -= seconds

    def waiting_share(self) -> float:
        """Of the time of the steps, what went by until their batches came."""
        busy = self.busy
        if self.given is not None:
            busy += time.perf_counter() - self.given
        return self.waited / max(self.waited + busy, 1e-9)


def end_workers(found: Iterator[Any]) -> None:
    """End the workers of a loader's iterator, which an exception's traceback would keep alive: at
    exit Python waits for them, who leave its signal to their parent, for ever.
    """
    # torch 2.13, utils/data/dataloader.py: what the iterator does when nobody holds it any more.
    if isinstance(found, torch.utils.data.dataloader._MultiProcessingDataLoaderIter):
        found._shutdown_workers()


def padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows (T) of samples as one tensor (B, T) with zeros behind the shorter ones. In a worker it
    is made where the main process will read it, as by torch's default_collate, which saves copying
    all of it once more.
    """
    shape = (len(rows), max(map(len, rows)))
    if torch.utils.data.get_worker_info() is None:
        batch = rows[0].new_zeros(shape)
    else:
        shared = rows[0]._typed_storage()._new_shared(shape[0] * shape[1], device="cpu")
        batch = rows[0].new(shared).resize_(shape)  # new shared memory is all zeros
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    return batch


def train_loader(
    plan: Plan, model, *, num_batches: int, num_workers: int, rank: int = 0, start: int = 0
) -> TimedLoader:
    """Loader of this rank's batches from `start` to num_batches for a NeMo model. An unreadable
    file raises AudioError: nothing is skipped silently.
    """
    return TimedLoader(
        train_set(plan, model),
        sampler=BatchSequence(plan, rank=rank, start=start, stop=num_batches),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=READY_BATCHES if num_workers else None,
        worker_init_fn=signals.leave_to_parent,
    )


def train_set(plan: Plan, model: Any) -> BatchDataset:
    """What a plan's batches are read from, for a NeMo model."""
    return BatchDataset(
        plan.utterances,
        model.tokenizer.text_to_ids,
        rate_hz=parts.rate_hz(model),
        augmentation=plan.augmentation,
    )


def augmentation_facts(loader: torch.utils.data.DataLoader) -> dict[str, Any] | None:
    """What the live data set does to its audio; None if nothing."""
    augmentation = loader.dataset.augmentation  # type: ignore[attr-defined]
    return augmentation.facts() if augmentation else None
