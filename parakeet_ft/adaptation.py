"""What learns."""

from __future__ import annotations

import torch

from parakeet_ft.errors import UserError


def set_learning(model: torch.nn.Module, *, frozen: list[str], freeze_batch_norm: bool) -> dict[str, int]:
    """Freeze the modules named in `frozen` (such as `encoder` or `encoder.layers.0`), BatchNorm statistics and dropout included.

    Returns the numbers of learning and frozen weights. Raises UserError for a name that the model has not, or if nothing is left to learn.
    """
    model.train()
    modules = dict(model.named_modules())
    for name in frozen:
        if name not in modules:
            raise UserError(f"adaptation.frozen names {name!r}, which this model has not. Its parts: "
                            f"{', '.join(key for key, _ in model.named_children() if any(True for _ in modules[key].parameters()))}.")
        modules[name].requires_grad_(False)
        modules[name].eval()
    if freeze_batch_norm:
        for module in modules.values():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not learning:
        raise UserError("adaptation.frozen leaves nothing to learn.")
    return {"learning": learning, "frozen": sum(p.numel() for p in model.parameters()) - learning}
