"""Activation checkpointing: what a layer of the encoder computes is not kept for the backward pass,
which computes it again from the layer's input. Less memory for about a third more work; the
results are the same to the bit.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def layers_computed_twice(model: Any, on: bool = True) -> Iterator[None]:
    """Inside, with `on`, each encoder layer of a NeMo model is checkpointed.

    The layers get a class of their own, not a wrapper around them: names of weights, hooks and
    copies (FSDP makes one) are as without.
    """
    layers = list(model.encoder.layers) if on else []
    before: list[Any] = [type(layer) for layer in layers]
    for layer, kind in zip(layers, before, strict=True):
        layer.__class__ = _checkpointed(kind)
    try:
        yield
    finally:
        for layer, kind in zip(layers, before, strict=True):
            layer.__class__ = kind


def is_on(model: Any) -> bool:
    """Whether the live layers are checkpointed."""
    return all(hasattr(layer, "computed_twice") for layer in model.encoder.layers)


@functools.cache
def _checkpointed(kind: Any) -> Any:
    """`kind`, whose forward pass keeps its inputs alone."""

    def forward(self: Any, *inputs: Any, **named: Any) -> Any:
        run = functools.partial(kind.forward, self)
        if not torch.is_grad_enabled():
            return run(*inputs, **named)
        # Random states are kept and autocast is entered again by torch's function.
        contexts = functools.partial(_contexts, self)
        return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts, **named)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward, "computed_twice": 1})


def _contexts(layer: torch.nn.Module) -> tuple[Any, Any]:
    """Of the forward pass and of its repetition."""
    return contextlib.nullcontext(), _statistics_apart(layer)


@contextlib.contextmanager
def _statistics_apart(layer: torch.nn.Module) -> Iterator[None]:
    """Inside, BatchNorm moves copies of its statistics: they know this batch already."""
    norms = [
        (module, dict(module._buffers))
        for module in layer.modules()
        if isinstance(module, _BatchNorm) and module.training
    ]
    for module, buffers in norms:
        module._buffers.update(
            (name, buffer if buffer is None else buffer.clone()) for name, buffer in buffers.items()
        )
    try:
        yield
    finally:
        for module, buffers in norms:
            module._buffers.update(buffers)
