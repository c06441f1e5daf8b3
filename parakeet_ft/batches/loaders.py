"""Manifests to batches: a deterministic plan of which utterances every step sees, on any number of
ranks.

The plan is a pure function of durations, seed and pass. So the number of steps is known before the
first one, ranks have equal steps by construction, and a run that resumes at batch n sees exactly
what it would have seen.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from parakeet_ft.batches import READY_BATCHES
from parakeet_ft.batches.augmentation import Augmentation
from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.model import parts
from parakeet_ft.run import signals


def plan_pass(
    durations: Sequence[float],
    indices: Sequence[int],
    *,
    batch_seconds: float,
    seed: int,
    number: int,
    num_ranks: int = 1,
) -> list[list[int]]:
    """Divide `indices` into batches of similar duration, at most batch_seconds with padding, in
    random order.

    Every index occurs once. The number of batches is a multiple of num_ranks: the largest are
    halved until it is.
    """
    rng = random.Random(f"{seed} {number}")
    # Jitter of 10 % makes other neighbours in each pass and costs little padding.
    ordered = sorted(indices, key=lambda i: durations[i] * rng.uniform(0.9, 1.1))
    batches: list[list[int]] = []
    longest = 0.0
    for index in ordered:
        longest = max(longest, durations[index])
        if batches and longest * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = durations[index]
    while len(batches) % num_ranks:
        largest = max(batches, key=len)
        if len(largest) == 1:
            raise ValueError(
                f"{len(indices)} utterances cannot be divided equally among {num_ranks} ranks"
            )
        batches.remove(largest)
        batches += [largest[::2], largest[1::2]]
    rng.shuffle(batches)
    return batches


def draw_replay(
    durations: Sequence[float], indices: Sequence[int], *, seconds: float, seed: int, number: int
) -> list[int]:
    """Indices of replay utterances for one pass: shuffled anew, and again if they run out, until
    `seconds` are full.
    """
    rng = random.Random(f"replay {seed} {number}")
    drawn: list[int] = []
    filled = 0.0
    while indices and filled < seconds:
        for index in rng.sample(list(indices), len(indices)):
            if filled >= seconds:
                break
            drawn.append(index)
            filled += durations[index]
    return drawn


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on: utterances (domain first, then replay) and how passes are cut into
    batches.
    """

    utterances: list[Utterance]
    num_domain: int
    replay_ratio: float
    batch_seconds: float
    seed: int
    num_ranks: int = 1
    augmentation: Augmentation | None = None

    def durations_of_pass(self, number: int) -> list[float]:
        """Seconds of each utterance as a pass plays it."""
        if self.augmentation is None:
            return [u.duration for u in self.utterances]
        return [
            u.duration / self.augmentation.speed_of(number, index)
            for index, u in enumerate(self.utterances)
        ]

    def batches_of_pass(self, number: int) -> list[list[int]]:
        """All ranks' batches of one pass: every domain utterance once, replay of replay_ratio times
        the domain's seconds.
        """
        durations = self.durations_of_pass(number)
        domain = list(range(self.num_domain))
        replay = draw_replay(
            durations,
            range(self.num_domain, len(durations)),
            seed=self.seed,
            number=number,
            seconds=self.replay_ratio * sum(durations[: self.num_domain]),
        )
        return plan_pass(
            durations,
            domain + replay,
            batch_seconds=self.batch_seconds,
            seed=self.seed,
            number=number,
            num_ranks=self.num_ranks,
        )

    def steps_of_pass(self, number: int = 0) -> int:
        """Batches per rank in one pass."""
        return len(self.batches_of_pass(number)) // self.num_ranks

    def batch_at(self, position: int, *, rank: int) -> list[int]:
        """The utterances that a rank learns after `position` batches."""
        return [
            i % len(self.utterances)
            for i in next(iter(BatchSequence(self, rank=rank, start=position, stop=position + 1)))
        ]

    def describe(self, number: int = 0) -> dict[str, Any]:
        """What a pass looks like: numbers of batches and utterances, seconds of audio and their
        share of padding, and the largest batches.
        """
        durations = self.durations_of_pass(number)
        batches = self.batches_of_pass(number)
        padded = [max(durations[i] for i in batch) * len(batch) for batch in batches]
        audio = sum(durations[i] for batch in batches for i in batch)
        return {
            "batches": len(batches),
            "utterances": sum(map(len, batches)),
            "audio_seconds": round(audio, 2),
            "padding_share": round(1 - audio / sum(padded), 4),
            "largest_batch_seconds": round(max(padded), 2),
            "largest_batch_utterances": max(map(len, batches)),
            "longest_utterance_seconds": max(durations[i] for batch in batches for i in batch),
        }

    @property
    def hours_of_pass(self) -> float:
        """Hours of audio in one pass over all ranks, replay included."""
        return (
            sum(u.duration for u in self.utterances[: self.num_domain])
            * (1 + (self.replay_ratio if self.num_domain < len(self.utterances) else 0))
            / 3600
        )


class BatchSequence(torch.utils.data.Sampler):
    """The batches of one rank, pass after pass, from batch `start` to batch `stop`: the position is
    one number.

    Indices count on through the passes, utterance + pass * number of utterances, so that each tells
    both.
    """

    def __init__(self, plan: Plan, *, rank: int, stop: int, start: int = 0) -> None:
        self.plan = plan
        self.rank = rank
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[list[int]]:
        position = 0
        number = 0
        while position < self.stop:
            for batch in self.plan.batches_of_pass(number)[self.rank :: self.plan.num_ranks]:
                if self.start <= position < self.stop:
                    yield [index + number * len(self.plan.utterances) for index in batch]
                position += 1
            number += 1


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

    def read(self, index: int) -> torch.Tensor:
        """The samples (T) of an utterance as its pass plays them."""
        number, index = divmod(index, len(self.utterances))
        u = self.utterances[index]
        samples = read_audio(
            u.audio_filepath, offset=u.offset, duration=u.duration, rate_hz=self.rate_hz
        )
        if self.augmentation is not None:
            samples = self.augmentation.apply(
                samples, rate_hz=self.rate_hz, number=number, index=index
            )
        return torch.from_numpy(samples)

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        audio = [self.read(i) for i in indices]
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
