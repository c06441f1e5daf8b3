"""The weights and the loss that depend on the vocabulary: rows move by piece, and the loss stays
the checkpoint's own.

NeMo's `change_vocabulary` supplies the new tokenizer, configuration and decoding; this module
undoes what it breaks (nemo 3.0.0,
asr/models/{ctc_bpe_models,rnnt_bpe_models,hybrid_rnnt_ctc_bpe_models}.py): all weights of decoder
and joint are drawn anew, the prediction network's included, and the transducer loss becomes plain
RNNT with default settings, whose blank is one of the durations of a TDT model.
tests/model/test_vocabulary.py fails when NeMo mends either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet_ft.model import parts

if TYPE_CHECKING:
    import torch


def row_tensors(model: Any) -> set[str]:
    """Names of the tensors with a row for each piece: rows 0..V-1 are the pieces, V the blank,
    those behind it durations.

    CTC head (V+1, D, 1) and (V+1); prediction embedding (V+1, P); joint output (V+1+durations, J)
    and (V+1+durations).
    """
    names = []
    if parts.is_transducer(model):
        output = f"joint.joint_net.{len(model.joint.joint_net) - 1}"
        names = ["decoder.prediction.embed.weight", f"{output}.weight", f"{output}.bias"]
    if head := parts.ctc_decoder_name(model):
        names += [f"{head}.decoder_layers.0.weight", f"{head}.decoder_layers.0.bias"]
    return set(names)


def move_rows(
    old: torch.Tensor, *, starts: Sequence[Sequence[int]], num_before: int
) -> torch.Tensor:
    """Rows (V + tail, ...) -> (len(starts) + tail, ...): row i is the mean of the old rows
    starts[i], one row is copied bit for bit.

    The tail (blank, durations) moves along unchanged.
    """
    import torch

    new = old.new_empty((len(starts) + old.shape[0] - num_before, *old.shape[1:]))
    new[len(starts) :] = old[num_before:]
    single = [(i, ids[0]) for i, ids in enumerate(starts) if len(ids) == 1]
    new[[i for i, _ in single]] = old[[j for _, j in single]]
    for i, ids in enumerate(starts):
        if len(ids) > 1:
            new[i] = torch.mean(old[list(ids)].float(), dim=0).to(old.dtype)
    return new


def swap_tokenizer(
    model: Any,
    folder: Path,
    *,
    starts: Sequence[Sequence[int]],
    num_before: int,
    lowered: range,
    margin: float,
) -> None:
    """Give the model the tokenizer in `folder`: row i of each piece starts as `starts[i]` says, all
    else in decoder and joint stays.

    The output biases of the rows in `lowered` are reduced by `margin`. Random state, device,
    precision, train or eval mode and requires_grad are as before. Raises RuntimeError if the new
    modules have other tensors than the old.
    """
    import torch

    modules = parts.vocabulary_modules(model)
    old = {name: _copies(module) for name, module in modules.items()}
    learns = {name: _learning(module) for name, module in modules.items()}
    training = {name: module.training for name, module in modules.items()}
    like = next(tensor for tensors in old.values() for tensor in tensors.values())
    with torch.random.fork_rng(devices=[]):
        model.change_vocabulary(str(folder), "bpe")
    per_piece = row_tensors(model)
    for name, module in parts.vocabulary_modules(model).items():
        module.to(device=like.device, dtype=like.dtype).train(training[name])
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(learns[name][key])
        state = module.state_dict()
        _check_same_tensors(state, old[name], name)
        for key, value in state.items():
            whole = f"{name}.{key}"
            moved = old[name][key]
            if whole in per_piece:
                moved = move_rows(moved, starts=starts, num_before=num_before)
                if key.endswith("bias"):
                    moved[list(lowered)] -= margin
            _copy_into(value, moved, name=whole)
    _list_labels(model)


def _copies(module: Any) -> dict[str, torch.Tensor]:
    """A module's tensors as they are now, by name."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _learning(module: Any) -> dict[str, bool]:
    """Whether each of a module's parameters learns."""
    return {key: parameter.requires_grad for key, parameter in module.named_parameters()}


def _check_same_tensors(
    state: dict[str, torch.Tensor], old: dict[str, torch.Tensor], module: str
) -> None:
    """Raise RuntimeError if a module has other tensors than before."""
    if changed := state.keys() ^ old.keys():
        tensors = sorted(f"{module}.{key}" for key in changed)
        raise RuntimeError(f"change_vocabulary changed the tensors of {module}: {tensors}")


def _copy_into(value: torch.Tensor, moved: torch.Tensor, *, name: str) -> None:
    """Fill a tensor in place. Raises RuntimeError if it has another shape."""
    if moved.shape != value.shape:
        raise RuntimeError(
            f"{name} is {tuple(value.shape)} with the new tokenizer, expected {tuple(moved.shape)}"
        )
    value.copy_(moved)


def _list_labels(model: Any) -> None:
    """The new pieces in the configuration, where it lists them."""
    from omegaconf import ListConfig, open_dict

    if "labels" in model.cfg:
        with open_dict(model.cfg):
            model.cfg.labels = ListConfig(list(parts.sentencepiece_of(model).get_vocab()))


def rebuild_loss(model: Any) -> None:
    """The transducer loss as NeMo's constructor makes it from the checkpoint's configuration
    (asr/models/rnnt_models.py, 3.0.0).

    With one difference: NeMo 3.0.0 counts the durations into the blank's index for `tdt_pytorch`.
    CTC losses stay: `change_vocabulary` makes them right.
    """
    if not parts.is_transducer(model):
        return
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    name, settings = model.extract_rnnt_loss_cfg(model.cfg.get("loss", None))
    model.loss = RNNTLoss(
        num_classes=model.joint.num_classes_with_blank - 1 - model.joint.num_extra_outputs,
        loss_name=name,
        loss_kwargs=settings,
        reduction=model.cfg.get("rnnt_reduction", "mean_batch"),
    )
    if model.joint.fuse_loss_wer:
        model.joint.set_loss(model.loss)
        model.joint.set_wer(model.wer)


def check_loss(model: Any, expected: dict[str, Any], *, num_pieces: int) -> None:
    """Raise RuntimeError unless loss, joint and decoding are those of `expected` (`loss_facts` of
    the checkpoint) for `num_pieces`.
    """
    expected = expected | {"blank": num_pieces}
    if "ctc" in expected:
        expected["ctc"] = expected["ctc"] | {"blank": num_pieces}
    found = parts.loss_facts(model)
    if found != expected:
        raise RuntimeError(
            f"The loss after the change of vocabulary is {found}, expected {expected} as in the "
            f"checkpoint."
        )
    if parts.is_transducer(model):
        _check_joint(model, list(expected.get("durations") or []), num_pieces=num_pieces)
        return
    outputs = model.decoder.num_classes_with_blank
    blank = model.decoding.blank_id
    if (outputs, blank) != (num_pieces + 1, num_pieces):
        raise RuntimeError(
            f"The CTC head has {outputs} outputs and its decoding takes {blank} for blank, "
            f"expected {num_pieces + 1} and {num_pieces}."
        )


def _check_joint(model: Any, durations: list[int], *, num_pieces: int) -> None:
    """Raise RuntimeError unless joint and decoding are those of `num_pieces` and `durations`."""
    found = {
        "outputs": model.joint.num_classes_with_blank,
        "durations": list(model.decoding.durations or []),
        "blank": model.decoding.blank_id,
        "loss in joint": not model.joint.fuse_loss_wer or model.joint.loss is model.loss,
    }
    wanted = {
        "outputs": num_pieces + 1 + len(durations),
        "durations": durations,
        "blank": num_pieces,
        "loss in joint": True,
    }
    if found != wanted:
        raise RuntimeError(
            f"Joint and decoding after the change of vocabulary have {found}, expected {wanted}."
        )
