"""Layers computed twice give what layers computed once give, to the bit, and keep less."""

import random

import pytest
import torch

from parakeet_ft.model import attention, checkpointing
from parakeet_ft.model.objective import training_loss
from parakeet_ft.training.fine_tuner import use_loss_for


def batch():
    torch.manual_seed(5)
    audio, lengths = 0.1 * torch.randn(3, 32000), torch.tensor([32000, 20000, 9000])
    return audio, lengths, torch.randint(0, 60, (3, 7)), torch.full((3,), 6)


def step(model, on, *, autocast=False):
    """What one pass forward and backward leaves: loss, gradients, buffers, the random state; and
    bytes kept for the backward pass.
    """
    given, kept = batch(), {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(7)
    random.seed(7)  # omega of a TDT loss is drawn from Python's generator
    with checkpointing.layers_computed_twice(model, on):
        assert checkpointing.is_on(model) == on
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        ):
            loss = training_loss(model, *given)["loss"]
        loss.backward()
    found = {"loss": loss.detach(), "random": torch.get_rng_state()}
    found |= {name: p.grad for name, p in model.named_parameters()}
    found |= {f"buffer {name}": value.clone() for name, value in model.named_buffers()}
    return found, sum(kept.values())


@pytest.mark.parametrize(
    ("family", "kind", "autocast"),
    [
        ("ctc", "full", False),
        ("ctc", "local", False),
        ("ctc", "full", True),
        ("hybrid", "full", False),
        ("tdt", "local", False),
    ],
)
def test_losses_gradients_statistics_and_random_numbers_are_the_same_to_the_bit(
    family, kind, autocast, tiny_model
):
    results, sizes = [], []
    for on in (False, True):
        model = tiny_model(family, dropout=0.2, n_layers=3).train()
        attention.set_attention(model, kind=kind)
        use_loss_for(model, device="cpu")
        found, size = step(model, on, autocast=autocast)
        results.append(found)
        sizes.append(size)
    once, twice = results
    assert once.keys() == twice.keys()
    assert [key for key in once if not torch.equal(once[key], twice[key])] == []
    count = next(value for key, value in once.items() if key.endswith("num_batches_tracked"))
    assert count == 1 and sizes[1] < 0.7 * sizes[0]


def test_outside_the_layers_are_what_they_were_and_scoring_is_not_touched(tiny_model):
    model = tiny_model("ctc").eval()
    kinds = [type(layer) for layer in model.encoder.layers]
    names = list(model.state_dict())
    audio, lengths, *_ = batch()
    with torch.no_grad():
        expected = model.forward(input_signal=audio, input_signal_length=lengths)[0]
        with pytest.raises(ZeroDivisionError), checkpointing.layers_computed_twice(model):
            assert all(isinstance(layer, kinds[0]) for layer in model.encoder.layers)
            assert list(model.state_dict()) == names
            found = model.forward(input_signal=audio, input_signal_length=lengths)[0]
            assert torch.equal(found, expected)
            raise ZeroDivisionError
    assert [type(layer) for layer in model.encoder.layers] == kinds
    assert not checkpointing.is_on(model)


def test_frozen_layers_and_lora_learn_the_same(tiny_model):
    from parakeet_ft.run import composition
    from parakeet_ft.training import adaptation

    results = []
    for on in (False, True):
        model = tiny_model("ctc", dropout=0.1)
        settings = composition.compose("finetune", ["adaptation=lora"])["adaptation"]
        torch.manual_seed(2)
        adaptation.set_learning(model, num_new_pieces=0, **settings)
        results.append(step(model.train(), on)[0])
    once, twice = results
    assert any(".lora_" in key and value is not None for key, value in once.items())
    for key, value in once.items():
        same = twice[key] is None if value is None else torch.equal(value, twice[key])
        assert same, key
