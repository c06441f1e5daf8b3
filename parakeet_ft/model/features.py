"""Features of a batch without asking the device for a number."""

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
