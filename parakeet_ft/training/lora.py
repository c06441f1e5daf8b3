"""LoRA (arXiv 2106.09685): low-rank products beside the encoder's linear layers, added into them
when training is over.

A model with LoRA is only ever inside a run and its checkpoints: what is exported is a plain model
with the checkpoint's own tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from parakeet_ft.training import states
from parakeet_ft.training.states import State

# Linear layers of attention and feed-forward. The convolutions and the projection of positions
# stay: few weights, and the same for all speech.
TARGETS = (
    r".*(linear_q|linear_k|linear_v|linear_out|feed_forward\d\.linear1|feed_forward\d\.linear2)$"
)


def add(model: Any, *, rank: int, alpha: float) -> None:
    """Put products B A of `rank`, scaled by alpha / rank, beside the encoder's linear layers. B is
    0: the model computes what it did.
    """
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS), model.encoder
    )


def merge(model: Any) -> Callable[[State], State]:
    """Add every product into its layer, in place, and make the model plain again; a model without
    LoRA stays as it is.

    Returns the function that makes a state dict of the model as it was before, such as a training
    checkpoint's, one of the plain model.
    """
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    scaling = {name: float(module.scaling["default"]) for name, module in layers.items()}
    state = merge_state(model.state_dict(), scaling=scaling)
    for name, module in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    if layers:
        del model.encoder.peft_config
        states.load(model, state)
    return lambda state: merge_state(state, scaling=scaling)


def merge_state(state: State, *, scaling: dict[str, float]) -> State:
    """The plain state: weight (out, in) + scaling x B (out, rank) A (rank, in), in float32, for
    each layer that `scaling` names.

    Keys and their order are those of the model before LoRA.
    """
    sources = {}
    for key in state:
        layer, _, tensor = key.rpartition(".base_layer.")
        if layer in scaling:
            sources[f"{layer}.{tensor}"] = key
        elif not any(f".lora_{side}." in key for side in "AB"):
            sources[key] = key
    merged = {f"{layer}.weight" for layer in scaling}

    @torch.no_grad()
    def make(key: str) -> torch.Tensor:
        value = state[sources[key]]
        if key not in merged:
            return value
        layer = key.removesuffix(".weight")
        down, up = (state[f"{layer}.lora_{side}.default.weight"].float() for side in "AB")
        return (value.float() + scaling[layer] * (up @ down)).to(value.dtype)

    return states.MadeWhenAsked(sources, make)
