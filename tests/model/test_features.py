"""Our features are NeMo's: normalised without its question, and made in less time."""

import pytest
import torch

from parakeet_ft.model import features


def spectrogram():
    torch.manual_seed(0)
    return torch.randn(3, 80, 41), torch.tensor([41, 17, 2])


def test_spectrograms_are_normalised_to_the_bit_as_nemo_does():
    from nemo.collections.asr.parts.preprocessing.features import CONSTANT, normalize_batch

    given, lengths = spectrogram()
    expected = normalize_batch(given, lengths, "per_feature")
    found = features.normalize(given, lengths, epsilon=CONSTANT)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_single_frame_gives_numbers():
    given, _ = spectrogram()
    found, _, _ = features.normalize(given, torch.tensor([41, 1, 1]), epsilon=1e-5)
    assert torch.isfinite(found).all() and (found[1:, :, 1:] == 0).all()


def test_training_normalises_by_it_and_nemos_is_back_afterwards(tiny_model, monkeypatch):
    from nemo.collections.asr.parts.preprocessing import features as theirs

    from parakeet_ft.model.objective import training_loss

    before, model = theirs.normalize_batch, tiny_model("ctc").train()
    monkeypatch.setattr(features, "normalize", lambda *given, **more: 1 / 0)
    audio, lengths = torch.randn(1, 16000), torch.tensor([16000])
    with pytest.raises(ZeroDivisionError):
        training_loss(model, audio, lengths, torch.tensor([[1, 2]]), torch.tensor([2]))
    assert theirs.normalize_batch is before


@pytest.mark.parametrize("lengths", [[80000, 79999, 16000, 500], [2000, 37], [112000]])
def test_quick_features_are_nemos_bit_for_bit(lengths, tiny_model):
    featurizer = tiny_model("ctc").preprocessor.featurizer.eval()
    featurizer.dither, featurizer.pad_to = 0.0, 0
    audio = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.manual_seed(0))
    for row, length in zip(audio, lengths, strict=True):
        row[length:] = 0
    theirs, their_frames = featurizer(audio.clone(), torch.tensor(lengths))
    assert features.can_be_quick(featurizer)
    ours, frames = features.quick_features(featurizer, audio, torch.tensor(lengths))
    assert torch.equal(ours, theirs) and torch.equal(frames, their_frames)


@pytest.mark.parametrize(
    "other", [{"mag_power": 1.0}, {"normalize": "all_features"}, {"frame_splicing": 2}]
)
def test_other_features_are_left_to_nemo(other, tiny_model):
    featurizer = tiny_model("ctc").preprocessor.featurizer
    for name, value in other.items():
        setattr(featurizer, name, value)
    assert not features.can_be_quick(featurizer)
