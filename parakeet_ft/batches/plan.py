"""Manifests to batches: a deterministic plan of which utterances every step sees, on any number of
ranks.

The plan is a pure function of durations, seed and pass. So the number of steps is known before the
first one, ranks have equal steps by construction, and a run that resumes at batch n sees exactly
what it would have seen.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from parakeet_ft.batches.augmentation import Augmentation
from parakeet_ft.data.manifest import Utterance


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
