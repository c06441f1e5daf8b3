"""NeMo's features of audio, bit for bit: without a question that a GPU would have to answer, and in
less time on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, NeMo 3.0.0 normalises spectrograms by `normalize`.

    Its own normalize_batch (parts/preprocessing/features.py) does the same, but first asks a GPU
    whether an utterance has a single frame, and so waits for all that the GPU was given before.
    """
    from nemo.collections.asr.parts.preprocessing import features

    theirs = features.normalize_batch

    def ours(x: torch.Tensor, seq_len: torch.Tensor, normalize_type: Any) -> Any:
        if normalize_type != "per_feature":
            return theirs(x, seq_len, normalize_type)
        return normalize(x, seq_len, epsilon=features.CONSTANT)

    features.normalize_batch = ours
    try:
        yield
    finally:
        features.normalize_batch = theirs


def normalize(
    spectrogram: torch.Tensor, lengths: torch.Tensor, *, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, mels, T) with the mean of each mel at 0 and its deviation at 1 over the valid frames, 0
    behind them; means and deviations (B, mels).
    """
    frames = torch.arange(spectrogram.shape[2], device=spectrogram.device)
    valid = (frames < lengths[:, None])[:, None]
    count = valid.sum(2)
    mean = torch.where(valid, spectrogram, 0.0).sum(2) / count
    centred = spectrogram - mean[..., None]
    power = torch.where(valid, centred, 0.0).square().sum(2)
    deviation = torch.sqrt(power / (count - 1.0)).nan_to_num(nan=0.0) + epsilon
    return (centred / deviation[..., None]).masked_fill(~valid, 0.0), mean, deviation


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
