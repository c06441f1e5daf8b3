"""What learns, when it begins to, and whether it did."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model.rows import row_tensors
from parakeet_ft.training import adapters, lora

# A bias of the keys adds the same to every score of a frame, which softmax does not see: its
# gradient is 0 but for rounding.
WITHOUT_GRADIENT = ".self_attn.linear_k.bias"
BatchNorm = torch.nn.modules.batchnorm._BatchNorm


@dataclasses.dataclass(frozen=True)
class Learning:
    """What learns. `added` are parameters that the checkpoint has not; `statistics` are buffers of
    BatchNorm; `begins` names the modules that wait, with the share of the run at which they begin:
    what lies in several of them waits as the innermost says.
    """

    mode: str
    parameters: frozenset[str]
    added: frozenset[str]
    statistics: frozenset[str]
    begins: dict[str, float]
    weights_learning: int
    weights_frozen: int

    def first_step(self, name: str, *, num_steps: int) -> int:
        """The optimiser step at which a parameter, buffer or module begins to learn; rounded down,
        so that it always comes.
        """
        while name and name not in self.begins:
            name = name.rpartition(".")[0]
        return math.floor(self.begins.get(name, 0.0) * num_steps)

    def facts(self, *, num_steps: int) -> dict[str, Any]:
        """For run.json and the console: numbers of weights and BatchNorm buffers, and the step at
        which each waiting module begins.
        """
        return {
            "mode": self.mode,
            "learning": self.weights_learning,
            "frozen": self.weights_frozen,
            "batch_norm_buffers_learning": len(self.statistics),
            "begins_at_step": {
                name: self.first_step(name, num_steps=num_steps) for name in self.begins
            },
        }


def set_learning(
    model: Any,
    *,
    mode: str,
    frozen: Sequence[str],
    first_layers: float,
    freeze_batch_norm: bool,
    unfreeze: Sequence[float],
    learn_decoder: bool | str,
    lora_rank: int,
    lora_alpha: float,
    adapter_dim: int,
    adapter_name: str,
    num_new_pieces: int,
) -> Learning:
    """Decide in place what learns. Frozen modules are put in evaluation mode, so they neither drop
    out nor move BatchNorm statistics.

    mode: `weights` (all of them), or `lora` or `adapters`, which learn beside the encoder's own
    weights; the decoder's then learn if learn_decoder says so, `auto` being: if there are new
    pieces. frozen: names of modules, such as encoder or encoder.layers.0. first_layers: so many
    first layers of the encoder, below 1 a share of them, are frozen, and the subsampling. unfreeze:
    see `waiting`.

    Raises UserError for a name or number of layers that the model has not, if nothing is left to
    learn, or not the rows of new pieces.
    """
    model.train()
    checkpoints_own = {name for name, _ in model.named_parameters()}
    if mode == "lora":
        with _seeded_aside():
            lora.add(model, rank=lora_rank, alpha=lora_alpha)
    elif mode == "adapters":
        with _seeded_aside():
            adapters.add(model, dim=adapter_dim, name=adapter_name)
    added = {
        name
        for name, _ in model.named_parameters()
        if name.replace(".base_layer.", ".") not in checkpoints_own
    }
    if added:
        decoder_learns = num_new_pieces > 0 if learn_decoder == "auto" else learn_decoder
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(
                name in added or (decoder_learns and not name.startswith("encoder."))
            )
    _freeze(model, [*frozen, *_first(model, first_layers)])
    _settle_statistics(model, freeze_all=freeze_batch_norm)
    parameters = frozenset(
        name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad
    )
    _check_something_learns(model, parameters, num_new_pieces=num_new_pieces)
    num_learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Learning(
        mode,
        parameters,
        frozenset(added),
        _moving_statistics(model),
        waiting(len(model.encoder.layers), unfreeze),
        num_learning,
        sum(p.numel() for p in model.parameters()) - num_learning,
    )


@contextlib.contextmanager
def _seeded_aside() -> Iterator[None]:
    """Draws from the run's seed, but aside of its sequence: the same whether a run begins or
    continues.
    """
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed())
        yield


def _settle_statistics(model: Any, *, freeze_all: bool) -> None:
    """BatchNorm whose weights do not learn keeps its statistics too."""
    for module in model.modules():
        learns = any(p.requires_grad for p in module.parameters())
        if isinstance(module, BatchNorm) and (freeze_all or not learns):
            module.eval()


def _check_something_learns(model: Any, parameters: frozenset[str], *, num_new_pieces: int) -> None:
    """Raise UserError if nothing learns, or not the rows of new pieces."""
    if not parameters:
        raise UserError("adaptation.frozen leaves nothing to learn.")
    if num_new_pieces and (stuck := row_tensors(model) - parameters):
        raise UserError(
            f"The tokenizer brought {num_new_pieces} new pieces, but their rows would not learn: "
            f"{', '.join(sorted(stuck))} are "
            "frozen. Use tokenizer=keep, or let the decoder learn (adaptation.frozen, "
            "adaptation.learn_decoder)."
        )


def _first(model: Any, count: float) -> list[str]:
    layers = len(model.encoder.layers)
    number = round(count * layers) if 0 < count < 1 else count
    if number > layers or number != int(number):
        raise UserError(
            f"adaptation.first_layers={count}: this encoder has {layers} layers; expected a whole "
            f"number up to that, or a share below 1."
        )
    return (
        ["encoder.pre_encode", *(f"encoder.layers.{i}" for i in range(int(number)))]
        if number
        else []
    )


def _freeze(model: Any, names: Sequence[str]) -> None:
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            # A part that two names share is a child of both, and in `modules` once.
            parts = [key for key, part in model.named_children() if list(part.parameters())]
            raise UserError(
                f"adaptation.frozen names {name!r}, and this model has no such part. Its parts: "
                f"{', '.join(parts)}."
            )
        modules[name].requires_grad_(False)
        modules[name].eval()


def _moving_statistics(model: Any) -> frozenset[str]:
    return frozenset(
        f"{name}.{buffer}"
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.training
        for buffer, _ in module.named_buffers()
    )


def waiting(num_layers: int, unfreeze: Sequence[float]) -> dict[str, float]:
    """Modules of the encoder and the shares of the run at which they begin to learn: the top layer
    at the first of the two shares in `unfreeze`, the subsampling at the second, the other layers in
    equal steps between. Nothing waits if `unfreeze` is empty.
    """
    if not unfreeze:
        return {}
    first, last = unfreeze
    layers = {
        f"encoder.layers.{num_layers - 1 - i}": first + (last - first) * i / num_layers
        for i in range(num_layers)
    }
    return layers | {"encoder": last}


class Unfreezing(pl.Callback):
    """Keeps what waits as it is. All of it is in the optimiser and gets gradients from the first
    step on, which are then dropped: memory, and what distributed training has to exchange, are the
    same in every step, and what waits is a function of the step alone.
    """

    def __init__(self, learning: Learning) -> None:
        self.learning = learning

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        def waits(named):
            steps = (
                (part, self.learning.first_step(name, num_steps=trainer.max_steps))
                for name, part in named
            )
            return [(part, first_step) for part, first_step in steps if first_step]

        self.parameters = waits(module.model.named_parameters())
        self.modules = waits(
            (name, child) for name, child in module.model.named_modules() if child.training
        )

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_index: int
    ) -> None:
        for child, first_step in self.modules:
            child.training = trainer.global_step >= first_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if module.step_is_lost:
            return  # there are no gradients, but for the one that tells a GradScaler so
        for parameter, first_step in self.parameters:
            if trainer.global_step < first_step:
                parameter.grad = None


def check_learned(
    before: lora.State,
    after: lora.State,
    *,
    learning: Learning,
    step: int,
    num_steps: int,
    precision: str,
) -> dict[str, Any]:
    """Compare the model's state before and after training (`step` of num_steps done): numbers of
    tensors that moved and that stayed.

    Raises UserError, naming them, if a whole tensor that learns is bit for bit what it was, or one
    that does not learn is not. Rounding to the weights' precision (`bf16-true`) is no move.
    """

    def same(one: torch.Tensor, other: torch.Tensor) -> bool:
        rounds = precision == "bf16-true" and one.is_floating_point()
        return torch.equal(one.to(other), other) or (
            rounds and torch.equal(one.bfloat16().to(other), other)
        )

    moved = {key for key, value in after.items() if not same(before[key], value)}
    due, may = _should_have_moved(learning, step=step, num_steps=num_steps)
    unmoved = sorted(due - moved)
    # In bfloat16 a step is rounded at random: of a short vector, in a short run, perhaps no element
    # moved.
    stuck = unmoved if precision != "bf16-true" or not due & moved else []
    infinite = sorted(key for key, value in after.items() if not torch.isfinite(value).all())
    _check_moves(stuck=stuck, strayed=sorted(moved - may), infinite=infinite)
    return {
        "moved": len(moved),
        "moved_share_of_weights": moved_share(
            before, after, sorted(learning.parameters), precision=precision
        ),
        "unmoved_yet": unmoved,
        "unchanged": len(after) - len(moved),
        "batch_norm_buffers_unchanged": len(
            {key for key in after if "running_" in key or "num_batches_tracked" in key} - moved
        ),
    }


def _should_have_moved(
    learning: Learning, *, step: int, num_steps: int
) -> tuple[set[str], set[str]]:
    """Names of what must have moved after `step` steps, and of what may have."""
    learns = learning.parameters | learning.statistics
    begins = {key: learning.first_step(key, num_steps=num_steps) for key in learns}
    # The first step moves but one side of a product that begins at 0.
    due = {
        key
        for key, first in begins.items()
        if first + (key in learning.added) < step and not key.endswith(WITHOUT_GRADIENT)
    }
    return due, {key for key, first in begins.items() if first < step}


def _check_moves(*, stuck: list[str], strayed: list[str], infinite: list[str]) -> None:
    """Raise UserError naming tensors that did not learn, that should not have, or that are not
    finite.
    """
    problems = []
    if stuck:
        problems.append(
            f"{len(stuck)} tensors should have learned, but are bit for bit what they were: "
            f"{_some(stuck)}. No gradient reaches them, or the "
            "learning rate is too small for the precision: freeze them (adaptation.frozen), or "
            "raise optim.lr."
        )
    if strayed:
        problems.append(
            f"{len(strayed)} tensors should have stayed as they were, but changed: "
            f"{_some(strayed)}. This is a defect of the pipeline; nothing was exported."
        )
    if infinite and not problems:
        problems.append(
            f"{len(infinite)} tensors hold values that are not finite: {_some(infinite)}. Nothing "
            "was exported. Lower optim.lr, or look at optim.gradient_clip and the data."
        )
    if problems:
        raise UserError(" ".join(["After training:", *problems]))


def moved_share(
    before: lora.State, after: lora.State, names: Sequence[str], *, precision: str
) -> float:
    """The share of the named tensors' weights that are no longer what they were (bf16-true: what
    they were, rounded).
    """
    moved = total = 0
    for name in names:
        old = before[name].to(after[name])
        changed = after[name] != old
        if precision == "bf16-true":
            changed &= after[name] != old.bfloat16().to(old)
        moved, total = moved + int(changed.sum()), total + changed.numel()
    return round(moved / max(1, total), 4)


def _some(names: Sequence[str], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )


def learned_line(found: dict[str, Any]) -> str:
    """What `check_learned` found, in words."""
    still = (
        f"; {len(found['unmoved_yet'])} vectors have not moved yet "
        f"({_some(found['unmoved_yet'], 3)})"
        if found["unmoved_yet"]
        else ""
    )
    return (
        f"checked: {found['moved_share_of_weights']:.1%} of the weights that learn have moved, in "
        f"{'all ' if not still else ''}{found['moved']} "
        f"tensors, and all are finite; {found['unchanged']} others are bit for bit the "
        f"checkpoint's, "
        f"{found['batch_norm_buffers_unchanged']} BatchNorm statistics among them{still}"
    )
