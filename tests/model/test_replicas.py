"""Replicas are NeMo models like the published ones: they save, restore, and have the published
numbers of weights.
"""

import dataclasses

import pytest

from parakeet_ft.model import replicas

FAMILIES = ["ctc", "rnnt", "tdt", "hybrid", "hybrid_rnnt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_replica_restores_to_the_same_weights_and_transcripts(
    family, tiny_model, tiny_nemo, speech
):
    import torch
    from nemo.collections.asr.models import ASRModel

    model, again = (
        tiny_model(family),
        ASRModel.restore_from(str(tiny_nemo(family)), map_location="cpu"),
    )
    assert type(again) is type(model)
    weights, weights_again = model.state_dict(), again.state_dict()
    assert weights.keys() == weights_again.keys()
    assert all(torch.equal(weights[k], weights_again[k]) for k in weights)
    manifest = str(speech(count=2))
    texts = [
        [h.text for h in m.transcribe(manifest, batch_size=2, verbose=False)]
        for m in (model, again)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 2


def test_a_replica_is_the_same_for_the_same_seed(tiny_model):
    import torch

    first, second, other = (tiny_model("tdt", seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("family", ["tdt", "hybrid"])
def test_a_tdt_replica_has_the_tdt_loss_with_blank_before_the_durations(family, tiny_model):
    model = tiny_model(family)
    assert type(model.loss._loss).__name__ == "TDTLossNumba"
    assert model.loss._loss.blank == 64 and model.joint.num_classes_with_blank == 64 + 1 + 5
    assert model.loss.reduction == "mean_volume"


@pytest.mark.parametrize("name, millions", [("parakeet_tdt_ctc_110m", 114)])
def test_a_replica_of_a_published_checkpoint_has_its_size(name, millions, tmp_path):
    """The model card of parakeet-tdt_ctc-110m says 114 M. Two layers built, the rest multiplied, to
    keep the test small.
    """
    architecture = replicas.REPLICAS[name]
    replicas.write_tokenizer(tmp_path, vocab_size=architecture.vocab_size)
    counts = []
    for layers in (1, 2):
        model = replicas.build(dataclasses.replace(architecture, n_layers=layers), tmp_path)
        counts.append(sum(p.numel() for p in model.parameters()))
    total = counts[0] + (architecture.n_layers - 1) * (counts[1] - counts[0])
    assert round(total / 1e6) == pytest.approx(millions, abs=1)
