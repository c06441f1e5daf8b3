"""FSDP: a model's weights, gradients and optimiser states divided among the ranks (torch's
fully_shard under Lightning).
"""

from __future__ import annotations

import copy

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

# What NeMo calls as a module, and so gathers its own weights; layers of the encoder one after the
# other, the rest as a whole.
ROOTS = ("encoder", "decoder", "joint", "ctc_decoder")


def strategy(num_ranks: int) -> ModelParallelStrategy:
    """Lightning's strategy for a module whose configure_model shards: one dimension, checkpoints
    whole in one file.
    """
    return ModelParallelStrategy(
        data_parallel_size=num_ranks, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def sharded(model: torch.nn.Module, *, mesh: torch.distributed.DeviceMesh) -> torch.nn.Module:
    """A twin of a NeMo model, for training only, with every weight divided over the mesh. Raises
    ValueError if a weight would be left out.
    """
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    # NeMo's models cannot be copied whole. Losses and metrics, which hold no weights, are shared.
    joint = model._modules.get("joint")
    losses = [getattr(joint, name, None) for name in ("_loss", "_wer")]
    shared = {id(part): part for part in losses if part is not None}
    parts = {
        name: copy.deepcopy(part, dict(shared)) if any(True for _ in part.parameters()) else part
        for name, part in model.named_children()
    }
    model = copy.copy(model)
    model._modules = {**model._modules, **parts}
    for layer in model.get_submodule("encoder.layers").children():
        fully_shard(layer, mesh=mesh)
    for name in ROOTS:
        module = model._modules.get(name)
        if module is not None and any(True for _ in module.parameters()):
            # The small parts are used several times a step: they stay whole after the forward pass.
            fully_shard(module, mesh=mesh, reshard_after_forward=name == "encoder")
    left = [name for name, weight in model.named_parameters() if not isinstance(weight, DTensor)]
    if left:
        raise ValueError(
            f"{', '.join(left[:3])} would not be divided: FSDP knows {', '.join(ROOTS)}"
        )
    return model


def gather(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Load the weights of a sharded model, whole, into an ordinary one: a collective call, one
    tensor at a time; buffers are rank 0's.
    """
    from torch.distributed.tensor import DTensor

    values = {}
    for name, value in source.state_dict().items():
        if isinstance(value, DTensor):
            value = value.full_tensor()
        elif torch.distributed.is_initialized():
            torch.distributed.broadcast(value, 0)
        values[name] = value.detach().cpu()
    target.load_state_dict(values)
