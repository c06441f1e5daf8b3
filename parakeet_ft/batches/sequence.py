"""The batches of one rank in the order of a plan, as a loader asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from parakeet_ft.batches.plan import Plan


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
        first = number = 0  # the position at which pass `number` begins
        while first < self.stop:
            batches = self.plan.batches_of_pass(number)
            steps = len(batches) // self.plan.num_ranks
            shift = number * len(self.plan.utterances)
            for step in range(max(0, self.start - first), min(steps, self.stop - first)):
                batch = batches[step * self.plan.num_ranks + self.rank]
                yield [index + shift for index in batch]
            first += steps
            number += 1
