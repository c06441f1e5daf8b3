"""Which head of a model each export format holds, and whether it can, from the configuration inside
a .nemo alone: neither torch nor NeMo.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.export.onnx import onnx_kind
from parakeet_ft.export.transformers import check_convertible
from parakeet_ft.model.archive import check_archive
from parakeet_ft.tokenizer.sentencepiece_model import read_tokenizer

TARGETS = ("nemo", "onnx", "onnx-int8", "transformers")
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnx_asr")


def check_formats(archive: Path, targets: Sequence[str], *, head: str) -> dict[str, str]:
    """The head, "ctc" or "transducer", that each format will hold.

    `head` may be "auto" too: a hybrid's transducer, but its CTC head where the format holds no
    other. Raises UserError for a format that cannot hold the model or the head.
    """
    config = resolved(check_archive(archive))
    heads = {target: choose_head(config, target, head=head) for target in targets}
    for target, chosen in heads.items():
        if target.startswith("onnx"):
            check_packages(target)
            onnx_kind(config, head=chosen)
        elif target == "transformers":
            check_convertible(config, head=chosen)
            if read_tokenizer(archive) is None:
                raise UserError(
                    f"{archive} has no SentencePiece tokenizer, which the transformers format "
                    f"needs. Leave transformers out of --to."
                )
    return heads


def choose_head(config: Mapping[str, Any], target: str, *, head: str) -> str:
    """The head of a model that `target` will hold. Raises UserError for one that it has not."""
    own = "transducer" if config.get("joint") else "ctc"
    if head == "auto":
        only_ctc = target == "transformers" and config.get("aux_ctc")
        return "ctc" if only_ctc else own
    if head != own and not config.get("aux_ctc"):
        raise UserError(
            f"--head {head}: this model has only a {own} head. Leave --head out, or give a hybrid "
            f"checkpoint."
        )
    return head


def check_packages(target: str) -> None:
    """Raise UserError unless what writes and reads ONNX is installed."""
    missing = [name for name in ONNX_PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"--to {target} needs {', '.join(missing).replace('_', '-')}, not installed here: "
            f"pip install 'parakeet-ft[export]'."
        )


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration with its references to other keys followed, as far as they lead
    anywhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException:
        return config
