"""Manifests to batches: a deterministic plan of which utterances every step sees, on any number of
ranks.

The plan is a pure function of durations, seed and pass. So the number of steps is known before the
first one, ranks have equal steps by construction, and a run that resumes at batch n sees exactly
what it would have seen.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from parakeet_ft.batches import passes
from parakeet_ft.batches.augmentation import Augmentation
from parakeet_ft.batches.passes import Pass, draw_replay, plan_pass, weighted
from parakeet_ft.data import cache
from parakeet_ft.data.corpus import Corpus, durations_of
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.parallel import num_cores, open_executor
from parakeet_ft.files import json_hash

KEPT_PASSES = 2
# Passes of ten million utterances that are planned at once take half a GB each.
MOST_JOBS = 8
# First and last + 1 index, weight.
Span = tuple[int, int, float]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """How many utterances are mixed in, and the seconds of them in a pass for each second of the
    domain.
    """

    count: int
    ratio: float
    name: str = "replay"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on: utterances (domain first, then each replay) and how passes are cut into
    batches. Raises ValueError for another number of utterances.
    """

    utterances: Sequence[Utterance]
    num_domain: int
    batch_seconds: float
    seed: int
    replays: Sequence[Replayed] = ()
    num_ranks: int = 1
    augmentation: Augmentation | None = None
    # The last passes that were asked for.
    _passes: dict[int, Pass] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        counted = self.num_domain + sum(replay.count for replay in self.replays)
        if counted != len(self.utterances):
            raise ValueError(f"{len(self.utterances)} utterances, and a plan for {counted}")

    def durations_of_pass(self, number: int) -> np.ndarray:
        """Seconds (N) of each utterance as a pass plays it."""
        durations = durations_of(self.utterances)
        if self.augmentation is None or self.augmentation.speeds == (1.0,):
            return durations
        return durations / self.augmentation.speeds_of(number, len(durations))

    def batches_of_pass(self, number: int) -> Pass:
        """All ranks' batches of one pass: every domain utterance as often as its weight says (1 if
        it has none), of each replay its ratio times the domain's seconds.

        Of a corpus in the cache, planned by the first process of a node that asks.
        """
        if number not in self._passes:
            while len(self._passes) >= KEPT_PASSES:
                self._passes.pop(next(iter(self._passes)))
            self._passes[number] = self._find(number)
        return self._passes[number]

    def _find(self, number: int) -> Pass:
        name = self._name_of(number)
        if name is None:
            return self._plan(number)
        folder = cache.kept_folder(
            name, lambda folder: self._plan(number).write(folder), passes.problem
        )
        return Pass.read(folder)

    def _name_of(self, number: int) -> str | None:
        """What a pass is called in the cache, by all that it depends on; None if it is not kept."""
        corpus = self.utterances
        if not isinstance(corpus, Corpus) or not corpus.kept:
            return None
        replays = [dataclasses.astuple(replay) for replay in self.replays]
        settings = (self.num_domain, replays, self.batch_seconds, self.seed)
        speeds = self.augmentation and (self.augmentation.seed, self.augmentation.speeds)
        key = json_hash([passes.FORMAT, corpus.key, settings, self.num_ranks, speeds, number])
        return f"pass-{key[:32]}"

    def _plan(self, number: int) -> Pass:
        durations = self.durations_of_pass(number)
        domain, *mixed = self._spans()
        indices = weighted(domain, seed=self.seed, number=number)
        # As Python adds: passes are the same to the last bit.
        seconds = sum(memoryview(durations[indices]))
        drawn = [
            draw_replay(
                durations,
                weighted(spans, seed=self.seed, number=number),
                seed=self.seed,
                number=number,
                seconds=replay.ratio * seconds,
                name=replay.name,
            )
            for replay, spans in zip(self.replays, mixed, strict=True)
        ]
        return plan_pass(
            durations,
            np.concatenate([indices, *drawn]),
            batch_seconds=self.batch_seconds,
            seed=self.seed,
            number=number,
            num_ranks=self.num_ranks,
        )

    def _spans(self) -> list[list[Span]]:
        """Stretches of the domain and of each replay, with their weights."""
        counts = [self.num_domain, *(replay.count for replay in self.replays)]
        bounds = list(itertools.pairwise([0, *itertools.accumulate(counts)]))
        if not isinstance(self.utterances, Corpus):
            return [[(start, stop, 1.0)] for start, stop in bounds]
        spans = self.utterances.spans
        return [
            [span for span in spans if start <= span[0] < span[1] <= stop] for start, stop in bounds
        ]

    def steps_of_pass(self, number: int = 0) -> int:
        """Batches per rank in one pass."""
        return len(self.batches_of_pass(number)) // self.num_ranks

    def batch_at(self, position: int, *, rank: int) -> list[int]:
        """The utterances that a rank learns after `position` batches."""
        number, step = self.place_of(position)
        return self.batches_of_pass(number)[step * self.num_ranks + rank]

    def place_of(self, position: int) -> tuple[int, int]:
        """The pass, and the step in it, of a rank's batch after `position` others."""
        number = 0
        while position >= (steps := self.steps_of_pass(number)):
            position -= steps
            number += 1
        return number, position

    def plan_ahead(self, numbers: Iterable[int]) -> None:
        """Plan passes side by side, a process for each, where planning takes long: of a corpus in
        the cache, by the first process of a node that asks.
        """
        names = {number: self._name_of(number) for number in numbers}
        if len(names) < 2 or None in names.values():
            return
        with cache.locked(f"ahead-{names[min(names)]}") as root:
            waiting = [number for number in names if not (root / str(names[number])).is_dir()]
            jobs = min(num_cores(), len(waiting), MOST_JOBS)
            if jobs < 2:
                return
            bare = dataclasses.replace(self)  # without the passes that this process holds
            with open_executor(jobs=jobs, bare=True) as executor:
                list(executor().map(bare.steps_of_pass, waiting))

    def describe(self, number: int = 0) -> dict[str, Any]:
        """What a pass looks like: numbers of batches and utterances, seconds of audio and their
        share of padding, and the largest batches.
        """
        batches = self.batches_of_pass(number)
        durations = self.durations_of_pass(number)[batches.order]
        padded = np.maximum.reduceat(durations, batches.starts[:-1]) * batches.sizes
        audio = float(durations.sum())
        return {
            "batches": len(batches),
            "utterances": len(batches.order),
            "audio_seconds": round(audio, 2),
            "padding_share": round(1 - audio / float(padded.sum()), 4),
            "largest_batch_seconds": round(float(padded.max()), 2),
            "largest_batch_utterances": int(batches.sizes.max()),
            "longest_utterance_seconds": float(durations.max()),
        }

    @property
    def hours_of_pass(self) -> float:
        """Hours of audio in one pass over all ranks, replay included."""
        durations = durations_of(self.utterances)
        domain, *_ = self._spans()
        seconds = sum(weight * float(durations[a:b].sum()) for a, b, weight in domain)
        return seconds * (1 + sum(self.replay_ratios().values())) / 3600

    def replay_ratios(self) -> dict[str, float]:
        """Seconds of each replay that has utterances for each second of the domain."""
        return {replay.name: replay.ratio for replay in self.replays if replay.count}
