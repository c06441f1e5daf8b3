"""State dicts that are not in memory: tensors are made, or read from a mapped file, one by one when
they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

State = Mapping[str, torch.Tensor]


class MadeWhenAsked(Mapping[str, torch.Tensor]):
    """A state dict of these keys, whose tensors `make` makes, each time anew."""

    def __init__(self, keys: Iterable[str], make: Callable[[str], torch.Tensor]) -> None:
        self._keys, self._make = dict.fromkeys(keys), make

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys  # Mapping's own would make the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def copy_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state dict, copied to the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def float32(state: State) -> State:
    """A state as `Module.float` would make it."""

    def make(key: str) -> torch.Tensor:
        value = state[key]
        return value.float() if value.is_floating_point() else value

    return MadeWhenAsked(state, make)


def over(upper: State, lower: State) -> State:
    """The tensors of `upper`, and those of `lower` that it lacks."""
    return MadeWhenAsked(lower, lambda key: upper[key] if key in upper else lower[key])


def check_same_keys(one: State, other: State) -> None:
    """Raise ValueError if two states have not the same tensors."""
    if one.keys() != other.keys():
        raise ValueError("The two models have not the same tensors.")


@torch.no_grad()
def load(model: torch.nn.Module, state: State) -> None:
    """Load a state into the model, with one of its tensors in memory at a time. Raises ValueError
    if they have not the same tensors.
    """
    own = model.state_dict()
    check_same_keys(own, state)
    for key, target in own.items():
        value = state[key]
        if value.shape != target.shape:
            raise ValueError(f"{key} is {tuple(value.shape)}, expected {tuple(target.shape)}.")
        target.copy_(value)
