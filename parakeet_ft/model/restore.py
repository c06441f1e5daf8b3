"""A local .nemo, hub id or bundled name -> a model on the CPU that carries nothing of its first
training's data.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet_ft.errors import UserError, disk_told
from parakeet_ft.model import parts
from parakeet_ft.model.archive import check_archive, check_weights
from parakeet_ft.model.parts import describe, family
from parakeet_ft.model.source import check_source, fetch

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel

__all__ = ["check_source", "describe", "family", "restore"]


def restore(source: str) -> ASRModel:
    """The model of `source`, on the CPU, in float32 and, as NeMo leaves it, in train mode.

    `source` is what `check_source` accepts. Raises UserError as it does, and if a download fails.
    The .nemo must stay where it is until `save_to`, which copies the tokenizer from it. Data sets
    of the checkpoint's own training are removed from its configuration, NeMo's printing of
    references and predictions is off, and greedy decoding goes by batch (see `decode_batches`).
    NeMo's exchange of audio lengths between ranks at each forward pass is off too: ranks that score
    unequal numbers of batches would wait for each other for ever
    (ConformerEncoder.update_max_seq_length, 3.0.0).
    """
    path = fetch(source)
    target = check_archive(path)["target"]
    check_weights(path)
    # It makes torch.load run whatever a pickle says, for every file of this process.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    model = _restore(path, target.rpartition(".")[2])
    check_finite(model, f"{source} cannot be used: it")
    forget_training(model)
    sharpen_filters(model)
    if decode_batches(model):
        print(
            "decoding: greedy_batch for the checkpoint's greedy (same texts, faster)",
            file=sys.stderr,
        )
    model.encoder.sync_max_audio_length = False
    return model


def _restore(path: Path, class_name: str) -> ASRModel:
    """NeMo's own restoring of a model of this class. Raises UserError for weights that are no plain
    tensors, and for what NeMo cannot restore.
    """
    import pickle

    import torch
    from nemo.collections.asr import models
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector

    class Checking(SaveRestoreConnector):
        @staticmethod
        def _load_state_dict_from_disk(model_weights, map_location="cpu"):
            # Mapped: beside the model its weights would be in memory a second time.
            return torch.load(model_weights, map_location=map_location, mmap=True)

        def load_instance_with_state_dict(self, instance, state_dict, strict):
            check_kinds(instance.state_dict(), state_dict, path)
            super().load_instance_with_state_dict(instance, state_dict, strict)

    # Not ASRModel: where a configuration is wrong, NeMo 3.0.0 tries the class that it was called on
    # (core/classes/common.py, from_config_dict), and tells that ASRModel is abstract.
    model_class = getattr(models, class_name)
    try:
        with disk_told(tempfile.gettempdir()):  # where NeMo unpacks it
            return model_class.restore_from(
                str(path), map_location=torch.device("cpu"), save_restore_connector=Checking()
            )
    except (UserError, MemoryError, ImportError):
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The weights in {path} are not plain tensors, so they are not read: "
            f"{str(error).splitlines()[0][:200]} Use a checkpoint that NeMo's save_to wrote."
        ) from None
    # The archive is whole, so it is what stands in it: NeMo, Hydra, OmegaConf, SentencePiece and
    # torch each raise their own for that.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"NeMo cannot restore {path} ({type(error).__name__}: {reason}). Its configuration and "
            "its weights do not fit each other or this version of NeMo: download or export it "
            "again, or use another checkpoint."
        ) from error
    finally:
        # NeMo 3.0.0 leaves this on when restoring fails: the next model built would look for its
        # files in a folder that is gone.
        model_class._set_model_restore_state(is_being_restored=False)


def check_kinds(expected: dict[str, Any], found: Any, path: Path) -> None:
    """Raise UserError unless the weights are a mapping with floating-point numbers where the model
    has such: torch would round or cut others without a word.
    """
    if not isinstance(found, dict):
        raise UserError(
            f"The weights in {path} are a {type(found).__name__}, expected tensors by name. Use a "
            "checkpoint that NeMo's save_to wrote."
        )
    for name, value in expected.items():
        other = getattr(found.get(name), "dtype", value.dtype)
        if value.is_floating_point() != other.is_floating_point:
            raise UserError(
                f"The weights in {path} are damaged: {name} is {other}, expected {value.dtype}. "
                "Use another checkpoint."
            )


def check_finite(model: ASRModel, what: str) -> None:
    """Raise UserError, beginning with `what`, if a weight or a buffer is NaN or infinite."""
    import torch

    broken = [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if broken:
        raise UserError(
            f"{what} holds values that are not finite in {len(broken)} tensors, such as "
            f"{broken[0]}. Training went wrong, or the file is damaged: use another checkpoint."
        )


def decode_batches(model: ASRModel) -> bool:
    """Decode whole batches where the checkpoint says `greedy`; returns whether one of its heads
    did.

    `greedy` goes through a batch utterance by utterance, with a Python loop over each one's frames;
    `greedy_batch` finds the same texts. The exported file keeps it.
    """
    current = parts.decoding_head(model)
    changed = False
    for head in parts.heads(model):
        config = parts.decoding_config(model, head)
        if config is None or config.get("strategy") != "greedy":
            continue
        config.strategy = "greedy_batch"
        changed = True
        parts.change_decoding(model, config, head=head)
    parts.use_head(model, current)
    return changed


def sharpen_filters(model: ASRModel) -> bool:
    """Compute mel filters and window anew where the checkpoint was saved in half precision, as the
    bundled ones are; returns whether it was.

    Rounded, they change log-mel features by up to 0.4 against those of training, and of every other
    program that computes them.
    """
    stored = model.preprocessor.featurizer
    exact = model.from_config_dict(model.cfg.preprocessor).featurizer
    rounded = False
    for name in ("fb", "window"):
        ours = getattr(stored, name)
        theirs = getattr(exact, name)
        if ours.shape == theirs.shape and _is_rounded(ours, theirs):
            ours.copy_(theirs)
            rounded = True
    return rounded


def _is_rounded(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether one tensor is the other in half precision."""
    import torch

    if torch.equal(ours, theirs):
        return False
    kinds = (torch.float16, torch.bfloat16)
    return any(torch.equal(ours, theirs.to(kind).to(ours.dtype)) for kind in kinds)


def forget_training(model: ASRModel) -> None:
    """Remove the checkpoint's data sets, and switch off the printing of predictions, for good: also
    in the exported file.
    """
    from omegaconf import open_dict

    with open_dict(model.cfg):
        model.cfg.train_ds = None
        # Not None: transcribe() reads it (nemo/collections/asr/models/ctc_bpe_models.py,
        # _setup_transcribe_dataloader, 3.0.0).
        model.cfg.validation_ds = {}
        model.cfg.test_ds = None
        model.cfg.log_prediction = False
    for metric in parts.metrics(model):
        metric.log_prediction = False
