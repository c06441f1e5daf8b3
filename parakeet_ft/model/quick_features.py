"""NeMo's features of audio, bit for bit, in less time on a CPU."""

from __future__ import annotations

from typing import Any

import torch


def can_be_quick(featurizer: Any) -> bool:
    """Whether a NeMo featurizer is as all Parakeet checkpoints have it: logarithms of mel energies,
    normalised by feature.
    """
    return (
        type(featurizer).__name__ == "FilterbankFeatures"
        and not featurizer.use_grads
        and featurizer.mag_power == 2.0
        and bool(featurizer.log)
        and featurizer.log_zero_guard_type == "add"
        and featurizer.frame_splicing == 1
        and featurizer.normalize == "per_feature"
        and featurizer.pad_value == 0
        and featurizer.stft_pad_amount is None
        and featurizer.preemph is not None
    )


def quick_features(
    featurizer: Any, audio: torch.Tensor, lengths: torch.Tensor, linear_spec: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, D, T) and frames (B) of audio (B, T) without dither or padding, as by NeMo's
    FilterbankFeatures.forward (parts/preprocessing/features.py, 3.0.0) of one that `can_be_quick`.

    NeMo adds the squares of real and imaginary parts as a sum over a dimension of two, which takes
    half of the features' time on a CPU.
    """
    from nemo.collections.asr.parts.preprocessing.features import normalize_batch

    assert not linear_spec, "asked for by NeMo's speech synthesis only"
    frames = torch.where(lengths == 0, torch.zeros_like(lengths), featurizer.get_seq_len(lengths))
    beyond = torch.arange(audio.shape[1], device=audio.device) >= lengths.unsqueeze(1)
    emphasized = torch.cat(
        (audio[:, :1], audio[:, 1:] - featurizer.preemph * audio[:, :-1]), dim=1
    ).masked_fill_(beyond, 0.0)
    with torch.amp.autocast(audio.device.type, enabled=False):
        spectrum = featurizer.stft(emphasized)
        power = spectrum.real.square().add_(spectrum.imag.square()).sqrt_().square_()
        energies = torch.matmul(featurizer.fb.to(power.dtype), power)
    found = energies.add_(featurizer.log_zero_guard_value_fn(energies)).log_()
    # What lies beyond a row's end is zero afterwards.
    return normalize_batch(found, frames, normalize_type="per_feature")[0], frames
