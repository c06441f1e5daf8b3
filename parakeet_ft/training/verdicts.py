"""Whether a step may count, decided on the device: the host hears of a batch while the next one is
in work, so that neither waits for the other.

    training step n     flags, losses -> one tensor, its copy to the host begins; a bad step's
                        update is masked by the flag (training.optim)
    training step n + 1 all of it is begun; only then is step n's copy read: told, counted, logged
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch

from parakeet_ft.distributed import ranks
from parakeet_ft.errors import UserError
from parakeet_ft.training.bad_batches import REASONS, BadBatches

MEMORY, LOSS, GRADIENT = (REASONS.index(reason) for reason in REASONS[1:])


class Fetched:
    """A tensor's values on their way to the host. `read` waits for this copy, not for what the
    device was given after it.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event = torch.cuda.Event() if tensor.is_cuda else None
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._host.copy_(tensor, non_blocking=True)
        if self._event:
            self._event.record()

    def read(self) -> list[float]:
        """The values."""
        if self._event:
            self._event.synchronize()
        return self._host.tolist()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a batch stands: optimiser steps before it, its position, how many utterances it has,
    whether a step ends with it, and the positions of all batches of that step so far.
    """

    step: int
    position: int
    utterances: int
    ends_step: bool
    of_step: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Known:
    """What the host knows of a batch once the device is through with it. samples: of audio, without
    padding. lost: it was bad, or its step's gradient.
    """

    place: Place
    losses: Mapping[str, float]
    samples: int
    lost: bool


class Verdicts:
    """Flags of the step in work, as tensors, and the batch whose flags are on their way.

    listeners get what is Known of each batch, in order. Without bad_batches the first bad one
    raises UserError.
    """

    def __init__(self, bad_batches: BadBatches | None) -> None:
        self.bad_batches = bad_batches
        self.listeners: list[Callable[[Known], None]] = []
        self.lost: torch.Tensor | None = None
        self._codes = self._gradient = self._samples = torch.zeros(())
        self._losses: dict[str, torch.Tensor] = {}
        self._positions: list[int] = []
        self._waiting: tuple[Place, list[str], Fetched] | None = None
        self._step_is_named = False

    def judge(
        self, losses: dict[str, torch.Tensor] | None, *, samples: torch.Tensor
    ) -> torch.Tensor:
        """Whether any rank's batch is bad: a flag on the device. losses: None where memory ran
        out. A collective call: each rank's code travels as a number.
        """
        if losses is None:
            code = torch.full((), MEMORY, device=samples.device)
        else:
            code = torch.where(torch.isfinite(losses["loss"].detach()), 0, LOSS)
        self._codes = torch.zeros(ranks.num_ranks(), dtype=torch.int64, device=samples.device)
        self._codes[ranks.rank()] = code
        if ranks.num_ranks() > 1:
            torch.distributed.all_reduce(self._codes)
        self._gradient = torch.zeros((), dtype=torch.bool, device=samples.device)
        self._samples = samples
        self._losses = {name: value.detach() for name, value in (losses or {}).items()}
        bad = self._codes.any()
        self._lose_if(bad)
        return bad

    def memory_ran_out(self) -> None:
        """In the backward pass of the batch that `judge` has seen; of the only rank."""
        self._codes = torch.full_like(self._codes, MEMORY)
        self._lose_if(self._codes.any())

    def judge_gradient(self, norm: torch.Tensor) -> None:
        """The step's gradient, by its norm over all ranks."""
        self._gradient = ~torch.isfinite(norm)
        self._lose_if(self._gradient)

    def _lose_if(self, bad: torch.Tensor) -> None:
        self.lost = bad if self.lost is None else self.lost | bad

    def end_batch(self, *, step: int, position: int, utterances: int, ends_step: bool) -> None:
        """All of a batch has been given to the device: begin to fetch what it finds, and look at
        the batch before.
        """
        self._positions.append(position)
        place = Place(step, position, utterances, ends_step, tuple(self._positions))
        numbers = [*self._codes, self._gradient, self._samples, *self._losses.values()]
        fetched = Fetched(torch.stack([number.double() for number in numbers]))
        self.flush()
        self._waiting = place, list(self._losses), fetched
        if ends_step:
            self.lost, self._positions = None, []

    def flush(self) -> None:
        """Look at the batch that is on its way, if there is one: before a validation, a checkpoint
        and the end. Raises UserError for one bad batch too many.
        """
        if self._waiting is None:
            return
        (place, names, fetched), self._waiting = self._waiting, None
        num_ranks = ranks.num_ranks()
        numbers = fetched.read()
        reasons = [REASONS[int(number)] for number in numbers[:num_ranks]]
        gradient, samples, *values = numbers[num_ranks:]
        losses = dict(zip(names, values, strict=True))
        if any(reasons):
            self._step_is_named = True
            self._skip(place, reasons, (place.position,))
        elif gradient and not self._step_is_named:
            self._skip(place, [REASONS[GRADIENT]] * num_ranks, place.of_step)
        if place.ends_step:
            self._step_is_named = False
        known = Known(place, losses, int(samples), any(reasons) or bool(gradient))
        for listener in self.listeners:
            listener(known)

    def _skip(self, place: Place, reasons: list[str | None], positions: tuple[int, ...]) -> None:
        if self.bad_batches is None:
            reason = next(reason for reason in reasons if reason)
            raise UserError(f"At step {place.step} {reason} (batch of {place.utterances}).")
        self.bad_batches.skip(place.position, step=place.step, reasons=reasons, positions=positions)
