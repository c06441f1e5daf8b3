"""Optimiser and schedule against torch's own; groups and their learning rates against numbers
worked out by hand.
"""

import functools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parakeet_ft import preflight
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.training.adamw import AdamW, LeanAdamW, round_at_random
from parakeet_ft.training.optim import (
    build_optimizer,
    choose_lr,
    describe,
    learning_rate_factor,
    settings,
)

ROOT = Path(__file__).resolve().parents[2]
TABLE = [
    {"max_million_weights": 20, "min_hours": 0, "lr": 3e-4},
    {"max_million_weights": 1e6, "min_hours": 20, "lr": 1e-4},
    {"max_million_weights": 1e6, "min_hours": 0, "lr": 3e-5},
]


@functools.cache
def conf(*overrides):
    return composition.compose("finetune", list(overrides))


def build(model, **changes):
    values = {
        "lr": 1.0,
        "decoder_lr_ratio": 1.0,
        "adapter_lr_ratio": 1.0,
        "layer_decay": 1.0,
        "betas": [0.9, 0.98],
        "weight_decay": 0.1,
        "warmup_steps": 1,
        "min_lr_ratio": 0.0,
        "num_steps": 10,
    }
    return build_optimizer(model, **(values | changes))[0]


def effective(model, **changes):
    optim = conf()["optim"]
    return settings(
        model, **(optim | {"hours_per_pass": 1, "num_new_pieces": 0, "num_steps": 100} | changes)
    )


def rates(model, optimizer):
    """The peak learning rate of each parameter by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    pairs = [
        (names[id(p)], group["initial_lr"])
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len(dict(pairs)) == len(pairs), "a parameter is in two groups"
    return dict(pairs)


@pytest.mark.parametrize(
    ("weights", "hours", "expected"), [(3e6, 0.5, 3e-4), (6e8, 100, 1e-4), (6e8, 5, 3e-5)]
)
def test_auto_takes_the_first_row_that_fits(weights, hours, expected):
    assert choose_lr("auto", TABLE, weights=weights, hours=hours)[0] == expected


@pytest.mark.parametrize(("hours", "expected"), [(100, 1e-4), (19, 3e-5)])
def test_the_shipped_table_has_the_rates_of_nvidias_guide_and_refine_its_third(hours, expected):
    optim = conf()["optim"]
    assert choose_lr(optim["lr"], optim["lr_table"], weights=600e6, hours=hours)[0] == expected
    assert conf("optim=refine")["optim"]["lr"] == 1e-5


def test_a_given_learning_rate_stands_and_a_table_without_a_row_is_refused():
    assert choose_lr(0.5, TABLE, weights=1, hours=1) == (0.5, "given")
    with pytest.raises(UserError, match=r"give optim\.lr"):
        choose_lr("auto", TABLE[1:2], weights=1e9, hours=1)


def test_the_schedule_is_linear_then_torchs_cosine():
    weight = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([weight], lr=1.0), T_max=90, eta_min=0.02
    )
    for step in range(90):
        ours = learning_rate_factor(10 + step, num_steps=100, warmup_steps=10, min_lr_ratio=0.02)
        assert ours == pytest.approx(reference.get_last_lr()[0], abs=1e-6)
        reference.optimizer.step()
        reference.step()
    assert [
        learning_rate_factor(s, num_steps=100, warmup_steps=10, min_lr_ratio=0.02)
        for s in (0, 4, 9)
    ] == [0.1, 0.5, 1.0]


def test_warm_up_is_a_share_of_the_steps_and_always_ends():
    for steps in (1, 5, 360):
        assert (
            1
            <= effective(torch.nn.Linear(2, 2), num_steps=steps)["warmup_steps"]
            <= math.ceil(steps / 10)
        )


def test_new_pieces_raise_the_decoders_rate_and_nothing_else():
    model = torch.nn.Linear(2, 2)
    without, with_pieces = effective(model), effective(model, num_new_pieces=3)
    assert without["decoder_lr_ratio"] == 1 < with_pieces["decoder_lr_ratio"]
    assert {key for key in without if without[key] != with_pieces[key]} == {"decoder_lr_ratio"}


@pytest.mark.parametrize("family", ["ctc", "hybrid"])
def test_biases_and_norms_are_spared_weight_decay_and_frozen_weights_are_in_no_group(
    family, tiny_model
):
    model = tiny_model(family)
    model.encoder.layers[0].requires_grad_(False)
    optimizer = build(model)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay == {
        id(p): 0.1 if p.ndim > 1 else 0.0
        for name, p in model.named_parameters()
        if not name.startswith("encoder.layers.0.")
    }


def test_without_ratios_and_decay_every_weight_has_the_one_rate(tiny_model):
    model = tiny_model("tdt")
    found = rates(model, build(model, lr=0.25))
    assert found.keys() == dict(model.named_parameters()).keys() and set(found.values()) == {0.25}


@pytest.mark.parametrize("family", ["ctc", "tdt", "hybrid"])
def test_rates_fall_from_layer_to_layer_and_the_decoder_has_its_own(family, tiny_model):
    model = tiny_model(family, n_layers=3)
    found = rates(model, build(model, lr=8.0, layer_decay=0.5, decoder_lr_ratio=3.0))
    expected = {
        "encoder.layers.2.": 8.0,
        "encoder.layers.1.": 4.0,
        "encoder.layers.0.": 2.0,
        "encoder.pre_encode.": 1.0,
        "decoder.": 24.0,
        "joint.": 24.0,
        "ctc_decoder.": 24.0,
    }
    assert found == {
        name: next(rate for start, rate in expected.items() if name.startswith(start))
        for name, _ in model.named_parameters()
    }


def test_the_table_of_groups_is_the_live_optimisers_with_the_top_layer_first(tiny_model):
    model = tiny_model("ctc")
    groups = describe(build(model, lr=8.0, layer_decay=0.5, decoder_lr_ratio=3.0))
    assert groups[0]["name"].startswith("encoder.layers.1 ") and groups[-1]["name"].startswith(
        "decoder "
    )
    head = {group["name"]: group for group in groups}["decoder matrices"]
    num_outputs = model.decoder.num_classes_with_blank
    assert head == {
        "name": "decoder matrices",
        "lr": 24.0,
        "weight_decay": 0.1,
        "tensors": 1,
        "weights": 64 * num_outputs,
    }
    assert sum(group["weights"] for group in groups) == sum(p.numel() for p in model.parameters())
    assert sum(group["tensors"] for group in groups) == len(list(model.parameters()))


def test_the_live_rates_follow_one_schedule_each_at_its_ratio(tiny_model):
    model = tiny_model("ctc")
    optimizer, scheduler = build_optimizer(
        model,
        lr=1.0,
        decoder_lr_ratio=4.0,
        adapter_lr_ratio=1.0,
        layer_decay=1.0,
        betas=[0.9, 0.98],
        weight_decay=0.0,
        warmup_steps=2,
        min_lr_ratio=0.0,
        num_steps=4,
    )
    seen = []
    for _ in range(4):
        seen.append({group["name"].split()[0]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    assert [step["encoder"] for step in seen] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert [step["decoder"] for step in seen] == pytest.approx([2.0, 4.0, 4.0, 2.0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_decay", 0),
        ("layer_decay", 1.1),
        ("layer_decay", None),
        ("decoder_lr_ratio", 0),
        ("new_pieces_lr_ratio", -1),
        ("adapter_lr_ratio", 0),
    ],
)
def test_ratios_that_no_run_can_use_are_refused_before_torch(key, value):
    with pytest.raises(UserError, match=rf"optim\.{key}="):
        preflight.check_settings(conf() | {"optim": conf()["optim"] | {key: value}})


def test_rounding_at_random_is_right_on_average_and_never_further_than_one_unit():
    value = torch.tensor([1.0, 1.001, -0.3337, 3e-5, 123.4, 0.0]).repeat(20_000, 1)
    rounded = round_at_random(value, torch.Generator().manual_seed(0)).double()
    exact = value[0].double()
    unit = 2.0 ** (torch.floor(torch.log2(exact.abs().clamp(min=1e-30))) - 7)
    assert ((rounded - exact).abs() < unit + 1e-30).all()
    assert ((rounded.mean(0) - exact).abs() <= 5 * unit / math.sqrt(20_000)).all()
    assert len(rounded[:, 1].unique()) == 2 and len(rounded[:, 0].unique()) == 1


def test_rounding_at_random_keeps_what_is_not_finite():
    value = torch.tensor([float("inf"), -float("inf"), float("nan")])
    rounded = round_at_random(value, torch.Generator())
    assert torch.equal(rounded[:2], value[:2].bfloat16()) and rounded[2].isnan()


def steps(optimizer, weight, count):
    for _ in range(count):
        weight.grad = (weight.detach().float() - 2.0).to(weight.dtype)
        optimizer.step()


def test_small_steps_in_bfloat16_go_as_far_as_in_float32_on_average():
    exact = torch.ones(20_000, requires_grad=True)
    rounded = torch.ones(20_000, dtype=torch.bfloat16, requires_grad=True)
    nearest = torch.ones(20_000, dtype=torch.bfloat16, requires_grad=True)
    settings = {"lr": 3e-5, "betas": (0.9, 0.98), "weight_decay": 1e-3}
    steps(torch.optim.AdamW([exact], **settings), exact, 50)
    steps(LeanAdamW([rounded], **settings), rounded, 50)
    steps(torch.optim.AdamW([nearest], **settings), nearest, 50)
    wanted = exact.detach().mean() - 1
    assert (nearest == 1).all(), "rounding to the nearest no longer swallows such steps"
    assert rounded.detach().float().mean() - 1 == pytest.approx(wanted.item(), rel=0.1)


def test_the_random_bits_are_the_same_on_every_rank_and_after_a_resume():
    def make():
        return torch.ones(50, dtype=torch.bfloat16, requires_grad=True)

    whole, first, second = make(), make(), None
    steps(LeanAdamW([whole], lr=1e-3, seed=3), whole, 6)
    torch.manual_seed(99)
    optimizer = LeanAdamW([first], lr=1e-3, seed=3)
    steps(optimizer, first, 3)
    second = first.detach().clone().requires_grad_()
    again = LeanAdamW([second], lr=1e-3, seed=3)
    again.load_state_dict(optimizer.state_dict())
    steps(again, second, 3)
    assert torch.equal(whole, second)
    other = make()
    steps(LeanAdamW([other], lr=1e-3, seed=4), other, 6)
    assert not torch.equal(whole, other)


def trained(optimizer, weight, *, count, seed=0, skipped=()):
    """`count` steps, each with its own gradient; those in `skipped` have none that is finite, and
    are flagged as lost.
    """
    for step in range(count):
        grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + step))
        lost = step in skipped
        weight.grad = (grad * torch.nan if lost else grad).to(weight.dtype)
        optimizer.lost = torch.tensor(lost)
        optimizer.step()


def state_of(optimizer, weight):
    return {"weight": weight.detach().clone()} | {
        key: value.clone()
        for key, value in optimizer.state[weight].items()
        if isinstance(value, torch.Tensor)
    }


KINDS = {
    "torch's": (torch.float32, AdamW),
    "bfloat16": (torch.bfloat16, functools.partial(LeanAdamW, seed=3)),
    "8 bits": (torch.float32, functools.partial(LeanAdamW, in_8_bits=True)),
    "bfloat16, 8 bits": (torch.bfloat16, functools.partial(LeanAdamW, seed=3, in_8_bits=True)),
}


def fresh(kind):
    dtype, make = KINDS[kind]
    torch.manual_seed(0)
    weight = torch.randn(32, 256).to(dtype).requires_grad_()
    return make([weight], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.98)), weight


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_step_changes_neither_weights_nor_moments_nor_counts(kind):
    optimizer, weight = fresh(kind)
    trained(optimizer, weight, count=2)
    before = state_of(optimizer, weight)
    trained(optimizer, weight, count=1, skipped=[0])
    after = state_of(optimizer, weight)
    assert before.keys() == after.keys() and len(before) >= 4
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    trained(optimizer, weight, count=1)
    assert not torch.equal(weight, before["weight"]) and torch.isfinite(weight).all()


@pytest.mark.parametrize("kind", ["torch's", "8 bits"])
def test_a_lost_first_step_is_as_if_it_had_not_been(kind):
    (one, with_it), (other, without) = fresh(kind), fresh(kind)
    trained(one, with_it, count=3, skipped=[0])
    trained(other, without, count=2, seed=1)
    assert torch.equal(with_it, without)


def test_the_fused_steps_are_those_of_torchs_plain_adamw():
    optimizer, weight = fresh("torch's")
    plain = weight.detach().clone().requires_grad_()
    trained(optimizer, weight, count=5)
    reference = torch.optim.AdamW(
        [plain], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.98), fused=False
    )
    trained(reference, plain, count=5)
    torch.testing.assert_close(weight, plain, rtol=1e-6, atol=1e-7)


def test_moments_in_8_bits_are_those_of_torchaos_own_optimiser():
    from torchao.optim import AdamW8bit

    optimizer, weight = fresh("8 bits")
    theirs = weight.detach().clone().requires_grad_()
    reference = AdamW8bit([theirs], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.98))
    with torch.compiler.set_stance("force_eager"):
        trained(reference, theirs, count=6)
    trained(optimizer, weight, count=6)
    torch.testing.assert_close(weight, theirs, rtol=1e-5, atol=1e-5)
    kept, state = reference.state[theirs]["exp_avg"], optimizer.state[weight]
    assert (state["exp_avg"] == kept.codes).float().mean() > 0.999
    torch.testing.assert_close(state["exp_avg_scale"], kept.scale, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_states_go_through_a_checkpoint_that_runs_no_code_and_continue_to_the_bit(kind, tmp_path):
    (whole, expected), (first, weight) = fresh(kind), fresh(kind)
    trained(whole, expected, count=6, skipped=[1, 4])
    trained(first, weight, count=3, skipped=[1])
    torch.save(first.state_dict(), tmp_path / "x.ckpt")
    second, found = fresh(kind)
    found.data.copy_(weight.data)
    second.load_state_dict(torch.load(tmp_path / "x.ckpt", weights_only=True))
    trained(second, found, count=3, seed=3, skipped=[1])
    assert torch.equal(found, expected)
    one, other = state_of(whole, expected), state_of(second, found)
    assert all(one[key].dtype == other[key].dtype for key in one)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_small_tensors_and_odd_ones_keep_their_moments_whole():
    weights = [torch.randn(size, requires_grad=True) for size in (4000, 4100, 8192)]
    optimizer = LeanAdamW(weights, in_8_bits=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    kinds = [optimizer.state[weight]["exp_avg"].dtype for weight in weights]
    assert kinds == [torch.float32, torch.float32, torch.uint8]


def test_torchao_is_imported_by_who_asks_for_8_bits_alone_and_says_nothing():
    code = (
        "import sys, torch; from parakeet_ft.training.adamw import AdamW, LeanAdamW; "
        "p = torch.zeros(8192, requires_grad=True); AdamW([p]); LeanAdamW([p]); "
        "assert 'torchao' not in sys.modules; LeanAdamW([p], in_8_bits=True); "
        "assert 'torchao' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_grad_scaler_skips_what_overflows_and_what_is_lost_without_asking():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))
    weight = torch.ones(8, requires_grad=True)
    optimizer = AdamW([weight], lr=0.1)
    seen = []
    for gradient, lost in ((1.0, False), (torch.inf, False), (1.0, True), (1.0, False)):
        weight.grad = torch.full_like(weight, 4.0 * gradient)
        optimizer._step_supports_amp_scaling = False
        scaler.unscale_(optimizer)
        optimizer._step_supports_amp_scaling = True
        optimizer.lost = torch.tensor(lost)
        scaler.step(optimizer)
        scaler.update()
        seen.append((weight[0].item(), scaler.get_scale()))
    values, scales = zip(*seen, strict=True)
    assert values[0] == values[1] == values[2] != values[3]
    assert scales == (4.0, 2.0, 2.0, 2.0)
