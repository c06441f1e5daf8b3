"""AdamW with a warm-up and a cosine."""

from __future__ import annotations

import math
from typing import Any

import torch

from parakeet_ft.errors import UserError


def learning_rate_factor(step: int, *, num_steps: int, warmup_steps: int, min_lr_ratio: float) -> float:
    """Linear warm-up over warmup_steps, then a half cosine down to min_lr_ratio at num_steps."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def choose_lr(lr: float | str, lr_table: list[dict[str, float]], *, weights: int, hours: float) -> tuple[float, str]:
    """The peak learning rate and why: a number stands; `auto` takes the table's first row that fits the weights and hours of a pass."""
    if lr != "auto":
        return float(lr), "given"
    row = next((row for row in lr_table if weights <= row["max_million_weights"] * 1e6 and hours >= row["min_hours"]), None)
    if row is None:
        raise UserError(f"optim.lr_table has no row for {weights / 1e6:.0f} million weights and {hours:.1f} h a pass; give optim.lr.")
    return row["lr"], f"auto: {weights / 1e6:.0f} M weights, {hours:.1f} h a pass"


def settings(model: torch.nn.Module, *, lr: float | str, lr_table: list[dict[str, float]], betas: list[float], weight_decay: float,
             warmup_ratio: float, min_lr_ratio: float, hours_per_pass: float, num_steps: int, gradient_clip: float,
             accumulate: int) -> dict[str, Any]:
    """Effective settings of the optimiser and its schedule. warmup_ratio is a share of num_steps, so the warm-up always ends."""
    peak, reason = choose_lr(lr, lr_table, weights=sum(p.numel() for p in model.parameters()), hours=hours_per_pass)
    return {"name": "AdamW", "lr": peak, "lr_reason": reason, "betas": list(betas), "weight_decay": weight_decay,
            "warmup_steps": max(1, round(warmup_ratio * num_steps)), "min_lr_ratio": min_lr_ratio, "num_steps": num_steps,
            "gradient_clip": gradient_clip, "accumulate": accumulate}


def build_optimizer(model: torch.nn.Module, *, lr: float, betas: list[float], weight_decay: float, warmup_steps: int, min_lr_ratio: float,
                    num_steps: int) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over what learns, and its schedule. Weight decay spares vectors (biases, norms)."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay, "name": "matrices"},
              {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0, "name": "vectors"}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=tuple(betas), fused=learning[0].is_cuda)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, num_steps=num_steps, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio))
