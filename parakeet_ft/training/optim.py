"""AdamW with a warm-up and a cosine, and a learning rate for each part of the model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from parakeet_ft.errors import UserError
from parakeet_ft.training.adamw import AdamW, LeanAdamW

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
    states: int | str,
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
        "states": states,
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
    states: int | str = 32,
    rounding_seed: int | None = None,
) -> tuple[AdamW | LeanAdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over what learns, in groups by part of the model, and its schedule. Weight decay spares
    vectors (biases, norms).

    states: 32, or 8bit for moments in 8 bits. rounding_seed: for weights that are trained in
    bfloat16 (see LeanAdamW), None for others.
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
    pair = (betas[0], betas[1])
    optimizer: AdamW | LeanAdamW
    in_8_bits = states == "8bit"
    if rounding_seed is None and not in_8_bits:
        optimizer = AdamW(ordered, betas=pair)
    else:
        optimizer = LeanAdamW(ordered, betas=pair, seed=rounding_seed or 0, in_8_bits=in_8_bits)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(
            step, num_steps=num_steps, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio
        ),
    )


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
