"""NeMo's adapters: a small bottleneck behind each encoder layer. They stay in the exported .nemo,
and can be switched off there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path
from parakeet_ft.model import parts


def add(model: Any, *, dim: int, name: str) -> None:
    """Put a linear adapter of `dim` channels behind every encoder layer. Its output is 0: the model
    computes what it did.

    Raises UserError if the model already has an adapter of that name.
    """
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig
    from nemo.core.classes.mixins import adapter_mixins
    from omegaconf import open_dict

    if name in names(model):
        raise UserError(
            f"The checkpoint already has an adapter {name!r}. Give the new one another name: "
            f"adaptation.adapter_name=..."
        )
    encoder = model.encoder
    adapter_mixins.update_module_class_with_adapter_class(
        encoder, cfg=model.cfg, update_config=False, verbose=False
    )
    # NeMo 3.0.0 (core/classes/mixins/adapter_mixins.py:148) looks for the class's full path in the
    # configuration. Checkpoints have the short one, nemo.collections.asr.modules.ConformerEncoder,
    # stay as they are, and what is then saved cannot be restored.
    with open_dict(model.cfg):
        model.cfg.encoder._target_ = f"{type(encoder).__module__}.{type(encoder).__qualname__}"
    model.add_adapter(
        f"encoder:{name}",
        LinearAdapterConfig(in_features=encoder.d_model, dim=dim, norm_position="pre"),
    )
    model.encoder.to(parts.device(model))


def names(model: Any) -> list[str]:
    """Adapters that the model has, switched on or off."""
    return [name for name in model.cfg.get("adapters", {}) if name != "global_cfg"]


def save(model: Any, path: Path) -> None:
    """The adapters alone, for NeMo's `load_adapters`; nothing if the model has none."""
    if names(model):
        with atomic_path(path) as temporary:
            model.save_adapters(str(temporary))
