"""Features in less time against NeMo's own."""

import pytest
import torch

from parakeet_ft.model.quick_features import can_be_quick, quick_features


@pytest.mark.parametrize("lengths", [[80000, 79999, 16000, 500], [2000, 37], [112000]])
def test_quick_features_are_nemos_bit_for_bit(lengths, tiny_model):
    featurizer = tiny_model("ctc").preprocessor.featurizer.eval()
    featurizer.dither, featurizer.pad_to = 0.0, 0
    audio = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.manual_seed(0))
    for row, length in zip(audio, lengths, strict=True):
        row[length:] = 0
    theirs, their_frames = featurizer(audio.clone(), torch.tensor(lengths))
    assert can_be_quick(featurizer)
    ours, frames = quick_features(featurizer, audio, torch.tensor(lengths))
    assert torch.equal(ours, theirs) and torch.equal(frames, their_frames)


@pytest.mark.parametrize(
    "other", [{"mag_power": 1.0}, {"normalize": "all_features"}, {"frame_splicing": 2}]
)
def test_other_features_are_left_to_nemo(other, tiny_model):
    featurizer = tiny_model("ctc").preprocessor.featurizer
    for name, value in other.items():
        setattr(featurizer, name, value)
    assert not can_be_quick(featurizer)
