"""AdamW whose step can be undone on the device: torch's own, and a lean one for weights in bfloat16
and for moments in 8 bits.

Both have `lost`: None, or a flag on the device. Where it is true a step changes nothing, neither
weights nor moments nor step counts, and the host need not know.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import zlib
from collections.abc import Iterator
from typing import Any

import torch

BLOCK, LEAST = 256, 4096  # numbers with one scale, and of the smallest tensor in 8 bits: torchao's


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW, which knows such a flag as `found_inf`, GradScaler's."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings, fused=True)
        self.lost: torch.Tensor | None = None
        self.found_inf: torch.Tensor | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["fused"] = True  # whatever a checkpoint says

    def step(self, closure: Any = None) -> Any:
        """One step, unless it is lost."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.lost is not None:
            overflown, lost = getattr(self, "found_inf", None), self.lost.float()
            self.found_inf = lost if overflown is None else torch.maximum(overflown, lost)
        super().step()
        self.found_inf = None
        return loss


class LeanAdamW(torch.optim.Optimizer):
    """AdamW one tensor at a time, in float32, of what is kept in less.

    Weights in bfloat16: every result is rounded at random, up or down, so that it is right on
    average (stochastic rounding, https://arxiv.org/abs/2010.06192). Rounded to the nearest, a step
    below half a unit of bfloat16 is lost each time: at a rate of 3e-5 that is every step of every
    weight above 0.016. The random bits depend on seed, number of steps tried and the tensor's
    number alone: they are the same on every rank, and after a resume.

    Moments: in the weights' type, or in 8 bits (codes and a scale for each block of 256,
    https://arxiv.org/abs/2110.02861) by torchao's quantisation, kept as plain tensors; those of
    small tensors stay in the weights' type.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        in_8_bits: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.seed, self.in_8_bits = seed, in_8_bits
        if in_8_bits:
            _values(True), _values(False)  # not in the first step
        self.lost: torch.Tensor | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but every state keeps its own type: torch would give it the weight's."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = {
                    key: value.to(parameter.device) if isinstance(value, torch.Tensor) else value
                    for key, value in state_dict["state"][number].items()
                }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group, number)
        return loss

    def _update(
        self, parameter: torch.Tensor, grad: torch.Tensor, group: dict[str, Any], number: int
    ) -> None:
        state = self.state[parameter] or self._begin(parameter)
        state["tried"] += 1
        step, (beta1, beta2) = state["step"] + 1, group["betas"]
        gradient, kept = _local(grad).float(), _local(parameter)
        moments = [_Moment(state, name) for name in ("exp_avg", "exp_avg_sq")]
        mean, square = (moment.read() for moment in moments)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weight = kept.float() * (1 - group["lr"] * group["weight_decay"])
        weight -= (mean / spread).mul_(group["lr"] / (1 - beta1**step))
        generator = torch.Generator(weight.device)
        # A checksum, as the CPU's generator looks at the lower 32 bits of its seed alone.
        generator.manual_seed(zlib.crc32(f"{self.seed} {state['tried']} {number}".encode()))
        self._keep(kept, _rounded(weight, kept.dtype, generator))
        for moment, value in zip(moments, (mean, square), strict=True):
            for target, new in moment.pieces(value, generator):
                self._keep(target, new)
        self._keep(state["step"], step)

    def _keep(self, target: torch.Tensor, value: torch.Tensor) -> None:
        target.copy_(value if self.lost is None else torch.where(self.lost, target, value))

    def _begin(self, parameter: torch.Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        # In float64, as 1 - 0.999**step is not exact enough in float32.
        state["step"] = torch.zeros((), dtype=torch.float64, device=parameter.device)
        state["tried"] = 0
        small = parameter.numel() < LEAST or parameter.numel() % BLOCK
        for name in ("exp_avg", "exp_avg_sq"):
            if small or not self.in_8_bits:
                state[name] = torch.zeros_like(parameter)
            else:
                state[name] = torch.zeros_like(parameter, dtype=torch.uint8)
                scales = parameter.numel() // BLOCK
                state[f"{name}_scale"] = torch.zeros(
                    scales, dtype=torch.float32, device=parameter.device
                )
        return state


class _Moment:
    """One moment of one tensor, in whichever form it is kept."""

    def __init__(self, state: dict[str, Any], name: str) -> None:
        self.kept, self.scale = _local(state[name]), state.get(f"{name}_scale")
        self.signed = name == "exp_avg"

    def read(self) -> torch.Tensor:
        """In float32, a copy."""
        if self.scale is None:
            return self.kept.to(torch.float32, copy=True)
        table = _table(self.signed, self.kept.device)
        return _torchao().dequant_with_qmap(self.kept, table, self.scale)

    def pieces(
        self, value: torch.Tensor, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What is kept, and what it shall become."""
        if self.scale is None:
            return [(self.kept, _rounded(value, self.kept.dtype, generator))]
        scaled, scale = _torchao().scale_tensor(value, BLOCK)
        table = _table(self.signed, value.device)
        codes = _torchao().quantize_8bit_with_qmap(scaled, table)
        return [(self.kept, codes), (self.scale, scale)]


@functools.cache
def _table(signed: bool, device: torch.device) -> torch.Tensor:
    """The 256 values of 8 bits."""
    return torch.tensor(_values(signed), dtype=torch.float32, device=device)


@functools.cache
def _values(signed: bool) -> list[float]:
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # in which torchao counts, and bf16-true is none
    try:
        return _torchao().create_dynamic_map(signed)
    finally:
        torch.set_default_dtype(kind)


@functools.cache
def _torchao() -> Any:
    """torchao's quantisation of optimiser states; only who asks for it imports torchao, which at
    its import warns of kernels that it lacks and of names that torch will drop.
    """
    with _quiet("torchao"), _quiet("torch.utils._pytree"):
        from torchao.optim import quant_utils
    return quant_utils


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Inside, a library does not warn."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that FSDP divides."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _rounded(value: torch.Tensor, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return round_at_random(value, generator) if dtype is torch.bfloat16 else value


def round_at_random(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 -> bfloat16, up or down with probabilities whose mean is `value`.

    A bfloat16 is the upper half of a float32: random bits are added to the lower half, which is
    then cut off.
    """
    noise = torch.randint(
        0, 1 << 16, value.shape, dtype=torch.int32, device=value.device, generator=generator
    )
    bits = (value.view(torch.int32) + noise) & -(1 << 16)
    rounded = bits.view(torch.float32)
    return torch.where(torch.isfinite(value), rounded, value).bfloat16()
