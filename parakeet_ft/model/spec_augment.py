"""SpecAugment (https://arxiv.org/abs/1904.08779): the masks that a model draws on its spectrograms
while it trains.
"""

from __future__ import annotations

from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.model import parts


def set_spec_augment(
    model: Any,
    *,
    freq_masks: int | None,
    freq_width: int | None,
    time_masks: int | None,
    time_width: float | None,
) -> dict[str, float] | None:
    """Give a NeMo model other masks in place; None keeps the checkpoint's number. Returns what the
    live object draws, None if nothing.

    time_width is a number of frames, or below 1 a share of the utterance. Raises UserError for
    numbers that draw no mask, and for widths that are missing where the checkpoint has none.
    """
    given = {
        name: value
        for name, value in (
            ("freq_masks", freq_masks),
            ("time_masks", time_masks),
            ("freq_width", freq_width),
            ("time_width", time_width),
        )
        if value is not None
    }
    if given:
        from nemo.collections.asr.modules import SpectrogramAugmentation

        wanted = (
            {"freq_masks": 0, "time_masks": 0} | (parts.spec_augment_facts(model) or {}) | given
        )
        mels = model.preprocessor.featurizer.nfilt
        for masks, width in (("freq_masks", "freq_width"), ("time_masks", "time_width")):
            if wanted[masks] and width not in wanted:
                raise UserError(
                    f"model.spec_augment.{masks}={wanted[masks]}, but this checkpoint has no "
                    f"{width}; give model.spec_augment.{width} as well."
                )
        if wanted.get("freq_width", 0) > mels:
            raise UserError(
                f"model.spec_augment.freq_width={wanted['freq_width']}: the model has {mels} mels; "
                f"expected at most as many."
            )
        model.spec_augmentation = SpectrogramAugmentation(**wanted).to(parts.device(model))
    return parts.spec_augment_facts(model)
