"""Planned batches as tensors: audio is read and texts are made tokens by a loader's workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from parakeet_ft.batches import READY_BATCHES
from parakeet_ft.batches.augmentation import Augmentation
from parakeet_ft.batches.plan import Plan
from parakeet_ft.batches.sequence import BatchSequence
from parakeet_ft.data.audio import hold_members, read_utterance
from parakeet_ft.data.audio_file import InMemory
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.model import parts
from parakeet_ft.run import signals


class BatchDataset(torch.utils.data.Dataset):
    """Index list -> (audio (B, T) float32, lengths (B), tokens (B, U), token lengths (B)). Indices
    count on through the passes.
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

    def read(self, index: int, held: InMemory | None = None) -> torch.Tensor:
        """The samples (T) of an utterance as its pass plays them; `held`: the bytes of its file."""
        number, index = divmod(index, len(self.utterances))
        u = self.utterances[index]
        samples = read_utterance(u, rate_hz=self.rate_hz, held=held)
        if self.augmentation is not None:
            samples = self.augmentation.apply(
                samples, rate_hz=self.rate_hz, number=number, index=index
            )
        return torch.from_numpy(samples)

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        held = hold_members([self.utterances[i % len(self.utterances)] for i in indices])
        audio = [self.read(i, data) for i, data in zip(indices, held, strict=True)]
        tokens = [
            torch.tensor(
                self.tokenize(self.utterances[i % len(self.utterances)].text), dtype=torch.long
            )
            for i in indices
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        return (
            pad(audio, batch_first=True),
            torch.tensor([len(a) for a in audio]),
            pad(tokens, batch_first=True),
            torch.tensor([len(t) for t in tokens]),
        )


def train_loader(
    plan: Plan, model, *, num_batches: int, num_workers: int, rank: int = 0, start: int = 0
) -> torch.utils.data.DataLoader:
    """Loader of this rank's batches from `start` to num_batches for a NeMo model. An unreadable
    file raises UserError: nothing is skipped silently.
    """
    return torch.utils.data.DataLoader(
        BatchDataset(
            plan.utterances,
            model.tokenizer.text_to_ids,
            rate_hz=parts.rate_hz(model),
            augmentation=plan.augmentation,
        ),
        sampler=BatchSequence(plan, rank=rank, start=start, stop=num_batches),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=READY_BATCHES if num_workers else None,
        worker_init_fn=signals.leave_to_parent,
    )


def augmentation_facts(loader: torch.utils.data.DataLoader) -> dict[str, Any] | None:
    """What the live data set does to its audio; None if nothing."""
    augmentation = loader.dataset.augmentation  # type: ignore[attr-defined]
    return augmentation.facts() if augmentation else None
