"""Optimiser and schedule against torch's own, and what learns."""

import math

import pytest
import torch

from parakeet_ft.adaptation import set_learning
from parakeet_ft.errors import UserError
from parakeet_ft.optim import build_optimizer, choose_lr, learning_rate_factor, settings

TABLE = [{"max_million_weights": 20, "min_hours": 0, "lr": 3e-4}, {"max_million_weights": 1e6, "min_hours": 20, "lr": 1e-4},
         {"max_million_weights": 1e6, "min_hours": 0, "lr": 3e-5}]


@pytest.mark.parametrize(("weights", "hours", "expected"), [(3e6, 0.5, 3e-4), (6e8, 100, 1e-4), (6e8, 5, 3e-5)])
def test_auto_takes_the_first_row_that_fits(weights, hours, expected):
    assert choose_lr("auto", TABLE, weights=weights, hours=hours)[0] == expected


def test_a_given_learning_rate_stands_and_a_table_without_a_row_is_refused():
    assert choose_lr(0.5, TABLE, weights=1, hours=1) == (0.5, "given")
    with pytest.raises(UserError, match=r"give optim\.lr"):
        choose_lr("auto", TABLE[1:2], weights=1e9, hours=1)


def test_the_schedule_is_linear_then_torchs_cosine():
    weight = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([weight], lr=1.0), T_max=90, eta_min=0.02)
    for step in range(90):
        ours = learning_rate_factor(10 + step, num_steps=100, warmup_steps=10, min_lr_ratio=0.02)
        assert ours == pytest.approx(reference.get_last_lr()[0], abs=1e-6)
        reference.optimizer.step()
        reference.step()
    assert [learning_rate_factor(s, num_steps=100, warmup_steps=10, min_lr_ratio=0.02) for s in (0, 4, 9)] == [0.1, 0.5, 1.0]


def test_warm_up_is_a_share_of_the_steps_and_always_ends():
    model = torch.nn.Linear(2, 2)
    for steps in (1, 5, 360):
        found = settings(model, lr=1.0, lr_table=[], betas=[0.9, 0.98], weight_decay=0.1, warmup_ratio=0.05, min_lr_ratio=0.0,
                         hours_per_pass=1, num_steps=steps, gradient_clip=1.0, accumulate=1)
        assert 1 <= found["warmup_steps"] <= math.ceil(steps / 10)


def test_biases_and_norms_are_spared_weight_decay_and_frozen_weights_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    model[2].requires_grad_(False)
    optimizer, _ = build_optimizer(model, lr=1.0, betas=[0.9, 0.98], weight_decay=0.1, warmup_steps=1, min_lr_ratio=0.0, num_steps=10)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(model[0].weight): 0.1, id(model[0].bias): 0.0, id(model[1].weight): 0.0, id(model[1].bias): 0.0}


def test_a_frozen_encoder_neither_learns_nor_moves_its_statistics(tiny_model):
    model = tiny_model("ctc")
    counts = set_learning(model, frozen=["encoder"], freeze_batch_norm=False)
    assert counts["learning"] == sum(p.numel() for p in model.decoder.parameters())
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    audio = torch.randn(2, 16000)
    model.forward(input_signal=audio, input_signal_length=torch.tensor([16000, 12000]))[0].sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert all(p.grad is None for p in model.encoder.parameters())


def test_frozen_batch_norm_keeps_statistics_while_all_else_learns(tiny_model):
    model = tiny_model("ctc")
    set_learning(model, frozen=[], freeze_batch_norm=True)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert norms and not any(m.training for m in norms) and model.encoder.training
    assert all(p.requires_grad for p in model.parameters())


def test_freezing_what_is_not_there_names_what_is(tiny_model):
    with pytest.raises(UserError, match=r"'enc'.*encoder"):
        set_learning(tiny_model("ctc"), frozen=["enc"], freeze_batch_norm=False)
    with pytest.raises(UserError, match="nothing to learn"):
        set_learning(tiny_model("ctc"), frozen=["encoder", "decoder"], freeze_batch_norm=False)
