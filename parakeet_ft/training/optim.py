"""AdamW with a warm-up and a cosine, and a learning rate for each part of the model."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import torch

from parakeet_ft.errors import UserError

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel


def learning_rate_factor(
    step: int, *, num_steps: int, warmup_steps: int, min_lr_ratio: float
) -> float:
    """Linear warm-up over warmup_steps, then a half cosine down to min_lr_ratio at num_steps."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def choose_lr(
    lr: float | str, lr_table: list[dict[str, float]], *, weights: int, hours: float
) -> tuple[float, str]:
    """The peak learning rate and why: a number stands; `auto` takes the table's first row that fits
    the weights and hours of a pass.
    """
    if lr != "auto":
        return float(lr), "given"
    row = next(
        (
            row
            for row in lr_table
            if weights <= row["max_million_weights"] * 1e6 and hours >= row["min_hours"]
        ),
        None,
    )
    if row is None:
        raise UserError(
            f"optim.lr_table has no row for {weights / 1e6:.0f} million weights and {hours:.1f} h "
            f"a pass; give optim.lr."
        )
    return row["lr"], f"auto: {weights / 1e6:.0f} M weights, {hours:.1f} h a pass"


def settings(
    model: torch.nn.Module,
    *,
    lr: float | str,
    lr_table: list[dict[str, float]],
    decoder_lr_ratio: float,
    new_pieces_lr_ratio: float,
    adapter_lr_ratio: float,
    layer_decay: float,
    betas: list[float],
    weight_decay: float,
    warmup_ratio: float,
    min_lr_ratio: float,
    hours_per_pass: float,
    num_new_pieces: int,
    num_steps: int,
    gradient_clip: float,
    accumulate: int,
    max_bad_batches: int,
) -> dict[str, Any]:
    """Effective settings of the optimiser and its schedule. warmup_ratio is a share of num_steps,
    so the warm-up always ends.
    """
    peak, reason = choose_lr(
        lr, lr_table, weights=sum(p.numel() for p in model.parameters()), hours=hours_per_pass
    )
    return {
        "name": "AdamW",
        "lr": peak,
        "lr_reason": reason,
        "decoder_lr_ratio": new_pieces_lr_ratio if num_new_pieces else decoder_lr_ratio,
        "adapter_lr_ratio": adapter_lr_ratio,
        "layer_decay": layer_decay,
        "betas": list(betas),
        "weight_decay": weight_decay,
        "warmup_steps": max(1, round(warmup_ratio * num_steps)),
        "min_lr_ratio": min_lr_ratio,
        "num_steps": num_steps,
        "gradient_clip": gradient_clip,
        "accumulate": accumulate,
        "max_bad_batches": max_bad_batches,
    }


def part_of(
    name: str,
    *,
    num_layers: int,
    decoder_lr_ratio: float,
    adapter_lr_ratio: float,
    layer_decay: float,
) -> tuple[str, float]:
    """The part of the model that a parameter belongs to, and its learning rate as a multiple of the
    top encoder layer's.

    Each encoder layer has layer_decay times the rate of the layer above it, the subsampling that of
    a layer below the first.
    """
    beside = any(mark in name for mark in (".lora_A.", ".lora_B.", ".adapter_layer."))
    kind, ratio = (" (added)", adapter_lr_ratio) if beside else ("", 1.0)
    if not name.startswith("encoder."):
        return f"decoder{kind}", ratio * decoder_lr_ratio
    if layer_decay == 1:
        return f"encoder{kind}", ratio
    _, module, index, *_ = [*name.split("."), ""]
    if module == "layers":
        return f"encoder.layers.{index}{kind}", ratio * layer_decay ** (num_layers - 1 - int(index))
    return f"encoder.{module}{kind}", ratio * layer_decay ** (
        num_layers if module == "pre_encode" else 0
    )


def build_optimizer(
    model: ASRModel,
    *,
    lr: float,
    decoder_lr_ratio: float,
    adapter_lr_ratio: float,
    layer_decay: float,
    betas: list[float],
    weight_decay: float,
    warmup_steps: int,
    min_lr_ratio: float,
    num_steps: int,
    rounding_seed: int | None = None,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over what learns, in groups by part of the model, and its schedule. Weight decay spares
    vectors (biases, norms).

    rounding_seed: for weights that are trained in bfloat16 (see RoundingAdamW), None for others.
    The groups of the encoder come first, from the top: the first group's rate is the one to show.
    """
    num_layers = len(model.encoder.layers)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part, ratio = part_of(
                name,
                num_layers=num_layers,
                decoder_lr_ratio=decoder_lr_ratio,
                adapter_lr_ratio=adapter_lr_ratio,
                layer_decay=layer_decay,
            )
            is_matrix = parameter.ndim > 1
            group = groups.setdefault(
                (part, is_matrix),
                {
                    "name": f"{part} {'matrices' if is_matrix else 'vectors'}",
                    "lr": lr * ratio,
                    "weight_decay": weight_decay if is_matrix else 0.0,
                    "params": [],
                },
            )
            group["params"].append(parameter)
    ordered = sorted(
        groups.values(),
        key=lambda group: (group["name"].startswith("decoder"), -group["lr"], group["name"]),
    )
    if rounding_seed is None:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            ordered, betas=(betas[0], betas[1]), fused=ordered[0]["params"][0].is_cuda
        )
    else:
        optimizer = RoundingAdamW(ordered, betas=(betas[0], betas[1]), seed=rounding_seed)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(
            step, num_steps=num_steps, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio
        ),
    )


class RoundingAdamW(torch.optim.Optimizer):
    """AdamW for weights that are stored in bfloat16: every result is rounded at random, up or down,
    so that it is right on average (stochastic rounding, https://arxiv.org/abs/2010.06192).

    Rounded to the nearest, a step below half a unit of bfloat16 is lost each time: at a rate of
    3e-5 that is every step of every weight above 0.016. The arithmetic is in float32, one tensor at
    a time; moments are kept in the weights' type. The random bits depend on seed, step and the
    tensor's number alone: they are the same on every rank, and after a resume.
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
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.seed = seed

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
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2) = state["step"], group["betas"]
        kept = [_local(tensor) for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"])]
        gradient = _local(grad).float()
        weight, mean, square = (tensor.float() for tensor in kept)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        spread = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, spread, value=-group["lr"] / (1 - beta1**step))
        generator = torch.Generator(weight.device)
        # A checksum, as the CPU's generator looks at the lower 32 bits of its seed alone.
        generator.manual_seed(zlib.crc32(f"{self.seed} {step} {number}".encode()))
        for target, value in zip(kept, (weight, mean, square), strict=True):
            target.copy_(round_at_random(value, generator))


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that FSDP divides."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


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


def describe(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups of a live optimiser: name, peak learning rate, weight decay, numbers of tensors
    and weights.
    """
    return [
        {
            "name": group["name"],
            "lr": group["initial_lr"],
            "weight_decay": group["weight_decay"],
            "tensors": len(group["params"]),
            "weights": sum(p.numel() for p in group["params"]),
        }
        for group in optimizer.param_groups
    ]
