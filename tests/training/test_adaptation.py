"""What learns, what stays and when it begins: on tiny models of three families, against counts
worked out by hand, and against peft and NeMo.
"""

import dataclasses
import functools
import os
import signal
import sys

import lightning.pytorch as pl
import pytest
import torch

from parakeet_ft import preflight
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.training import adapters, fine_tuner, lora
from parakeet_ft.training.adaptation import (
    Unfreezing,
    check_learned,
    learned_line,
    set_learning,
    waiting,
)
from parakeet_ft.training.optim import settings
from parakeet_ft.training.states import copy_state

FAMILIES = ["ctc", "tdt", "hybrid"]


@functools.cache
def whole(*overrides):
    return composition.compose("finetune", list(overrides))


def conf(group, option):
    return whole(f"{group}={option}")[group]


def adapt(model, option="all", *, num_new_pieces=0, **changes):
    """set_learning with an option of conf/adaptation."""
    return set_learning(
        model, **(conf("adaptation", option) | changes), num_new_pieces=num_new_pieces
    )


def checked(before, after, **keys):
    return check_learned(before, after, **({"precision": "32-true"} | keys))


class Batches(torch.utils.data.IterableDataset):
    """Noise with random tokens: the same batch at the same position every time."""

    def __init__(self, start):
        self.start = start

    def __iter__(self):
        for position in range(self.start, 1000):
            generator = torch.Generator().manual_seed(position)
            yield (
                torch.randn(2, 16000, generator=generator),
                torch.tensor([16000, 12000]),
                torch.randint(0, 60, (2, 4), generator=generator),
                torch.tensor([4, 3]),
            )


def fit(model, learning, *, steps=3, callbacks=(), start=0, resume_from=None, **optim):
    """Train some steps with Lightning and the project's own module and optimiser."""
    fine_tuner.use_loss_for(model, device="cpu")
    values = (
        conf("optim", "adamw")
        | {"lr": 1e-3, "hours_per_pass": 1, "num_new_pieces": 0, "num_steps": steps}
        | optim
    )
    tuner = fine_tuner.FineTuner(
        model,
        settings=settings(model, **values),
        sets={},
        base={},
        batch_seconds=1,
    )
    pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[Unfreezing(learning), *callbacks],
    ).fit(
        tuner, torch.utils.data.DataLoader(Batches(start), batch_size=None), ckpt_path=resume_from
    )
    return tuner


def moved(before, after):
    return {key for key in after if not torch.equal(before[key], after[key])}


def outputs(model):
    """What the model computes from a second of noise, in evaluation mode: encoder's frames, or the
    log-probabilities of a CTC model.
    """
    was = {module: module.training for module in model.modules()}
    model.eval()
    noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.forward(input_signal=noise, input_signal_length=torch.tensor([16000, 9000]))[
            0
        ]
    for module, mode in was.items():
        module.training = mode
    return found


def norms(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]


# What learns


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("option", "changes", "stays"),
    [
        ("all", {}, ()),
        ("frozen_encoder", {}, ("encoder.",)),
        ("first_layers", {}, ("encoder.pre_encode.", "encoder.layers.0.")),
        (
            "first_layers",
            {"first_layers": 2},
            ("encoder.pre_encode.", "encoder.layers.0.", "encoder.layers.1."),
        ),
        ("all", {"frozen": ["decoder"]}, ("decoder.",)),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_all_else_moves(
    family, option, changes, stays, tiny_model
):
    model = tiny_model(family)
    learning = adapt(model, option, freeze_batch_norm=False, **changes)
    before = copy_state(model)
    fit(model, learning)
    after = copy_state(model)
    parameters, statistics = (
        {name for name, _ in model.named_parameters()},
        {key for key in after if "running_" in key or "num_batches" in key},
    )
    assert statistics and moved(before, after) == {
        key for key in parameters | statistics if not key.startswith(stays or "-")
    }
    assert checked(before, after, learning=learning, step=3, num_steps=3)["moved"] == len(
        moved(before, after)
    )
    assert learning.weights_frozen == sum(
        p.numel() for name, p in model.named_parameters() if name.startswith(stays or "-")
    )


def test_frozen_batch_norm_keeps_statistics_while_its_weights_learn(tiny_model):
    model = tiny_model("ctc")
    learning = adapt(model)
    before = copy_state(model)
    fit(model, learning)
    assert (
        norms(model)
        and not any(norm.training for norm in norms(model))
        and model.encoder.training
        and model.encoder.layers[0].training
    )
    assert (
        moved(before, copy_state(model)) == {name for name, _ in model.named_parameters()}
        and not learning.statistics
    )


def test_freezing_what_is_not_there_or_everything_says_so(tiny_model):
    with pytest.raises(UserError, match=r"'enc'.*encoder"):
        adapt(tiny_model("ctc"), frozen=["enc"])
    with pytest.raises(UserError, match="nothing to learn"):
        adapt(tiny_model("ctc"), frozen=["encoder", "decoder"])
    with pytest.raises(UserError, match="has 2 layers"):
        adapt(tiny_model("ctc"), first_layers=3)


@pytest.mark.parametrize(
    ("family", "option", "changes"),
    [
        ("ctc", "all", {"frozen": ["decoder"]}),
        ("hybrid", "all", {"frozen": ["ctc_decoder"]}),
        ("tdt", "lora", {"learn_decoder": False}),
    ],
)
def test_new_pieces_whose_rows_would_never_learn_are_refused(family, option, changes, tiny_model):
    with pytest.raises(UserError, match=r"3 new pieces.*(decoder_layers|embed)"):
        adapt(tiny_model(family), option, num_new_pieces=3, **changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "qlora"),
        ("learn_decoder", "maybe"),
        ("first_layers", 1.5),
        ("first_layers", None),
        ("unfreeze", [0.1]),
        ("unfreeze", [0.5, 0.1]),
        ("unfreeze", [0.1, 1]),
        ("lora_rank", 0),
        ("adapter_dim", 0.5),
    ],
)
def test_values_that_no_run_can_use_are_refused_before_torch(key, value):
    config = whole()
    with pytest.raises(UserError, match=rf"adaptation\.{key}="):
        preflight.check_settings(config | {"adaptation": config["adaptation"] | {key: value}})


# The check after training


@pytest.fixture(scope="module")
def trained(tiny_model):
    model = tiny_model("ctc")
    learning = adapt(model, "first_layers")
    before = copy_state(model)
    fit(model, learning)
    return learning, before, copy_state(model)


@pytest.mark.parametrize(
    ("key", "violation"),
    [
        ("encoder.layers.0.conv.batch_norm.running_mean", "stayed.*"),
        ("encoder.layers.1.conv.batch_norm.running_var", "stayed.*"),
        ("encoder.layers.0.norm_out.bias", "stayed.*"),
        ("preprocessor.featurizer.window", "stayed.*"),
    ],
)
def test_the_check_names_what_changed_but_should_not_have(key, violation, trained):
    learning, before, after = trained
    with pytest.raises(UserError, match=violation + key):
        checked(before, after | {key: after[key] + 1e-6}, learning=learning, step=3, num_steps=3)


def test_the_check_names_what_should_have_learned_but_did_not(trained):
    learning, before, after = trained
    with pytest.raises(
        UserError, match=r"1 tensors should have learned.*: decoder\.decoder_layers\.0\.bias\."
    ):
        checked(
            before,
            after | {"decoder.decoder_layers.0.bias": before["decoder.decoder_layers.0.bias"]},
            learning=learning,
            step=3,
            num_steps=3,
        )


def test_the_check_lets_rows_without_a_gradient_be_and_says_what_it_found_in_words(trained):
    learning, before, after = trained
    weight = after["decoder.decoder_layers.0.weight"].clone()
    weight[:-1] = before["decoder.decoder_layers.0.weight"][:-1]
    found = checked(
        before,
        after | {"decoder.decoder_layers.0.weight": weight},
        learning=learning,
        step=3,
        num_steps=3,
    )
    assert learned_line(found) == (
        f"checked: {found['moved_share_of_weights']:.1%} of the weights that learn have moved, in "
        f"all "
        f"{len(learning.parameters)} tensors, and all are finite; "
        f"{len(after) - len(learning.parameters)} others are "
        "bit for bit the checkpoint's, 6 BatchNorm statistics among them"
    )


def test_rounding_to_bfloat16_is_no_move_and_a_step_that_it_swallows_is_not_learning(trained):
    learning, before, after = trained
    rounded = {
        key: value.bfloat16().float() if value.is_floating_point() else value
        for key, value in after.items()
    }
    found = checked(before, rounded, learning=learning, step=3, num_steps=3, precision="bf16-true")
    assert found["batch_norm_buffers_unchanged"] == 6 and found["moved"] + 1 >= len(
        learning.parameters
    )  # a bias of the keys may have moved less
    with pytest.raises(UserError, match="should have stayed"):
        checked(before, rounded, learning=learning, step=3, num_steps=3)
    swallowed = "encoder.layers.1.norm_out.weight"
    some = checked(
        before,
        rounded | {swallowed: before[swallowed].bfloat16().float()},
        learning=learning,
        step=3,
        num_steps=3,
        precision="bf16-true",
    )
    assert swallowed in some["unmoved_yet"] and swallowed in learned_line(some)
    none = {
        key: value.bfloat16().float() if value.is_floating_point() else value
        for key, value in before.items()
    }
    with pytest.raises(UserError, match="should have learned"):
        checked(before, none, learning=learning, step=3, num_steps=3, precision="bf16-true")


def test_the_share_of_moved_weights_is_counted_one_by_one(trained):
    learning, before, after = trained
    found = checked(before, after, learning=learning, step=3, num_steps=3)
    names = learning.parameters
    expected = sum(int((after[n] != before[n]).sum()) for n in names) / sum(
        after[n].numel() for n in names
    )
    assert (
        found["moved_share_of_weights"] == pytest.approx(expected, abs=1e-4) and 0 < expected <= 1
    )


def test_weights_that_are_not_finite_are_never_exported(trained):
    learning, before, after = trained
    name = "encoder.layers.1.norm_out.weight"
    broken = after[name].clone()
    broken[3] = float("nan")
    with pytest.raises(UserError, match=rf"1 tensors hold values that are not finite: {name}"):
        checked(before, after | {name: broken}, learning=learning, step=3, num_steps=3)


# Gradual


def test_the_encoder_begins_from_the_top_in_equal_steps_and_the_subsampling_last():
    assert waiting(4, [0.1, 0.5]) == pytest.approx(
        {
            "encoder.layers.3": 0.1,
            "encoder.layers.2": 0.2,
            "encoder.layers.1": 0.3,
            "encoder.layers.0": 0.4,
            "encoder": 0.5,
        }
    )
    assert waiting(4, []) == {}


class Seed(pl.Callback):
    """Dither and masks of a step are the same in every run, as the project's own checkpoints see
    to.
    """

    def on_train_batch_start(self, trainer, *_):
        pl.seed_everything(trainer.global_step, verbose=False)


class Diary(pl.Callback):
    """What moved in each step, and a checkpoint after `save_at`."""

    def __init__(self, path, save_at):
        self.path, self.save_at, self.moved, self.modes = path, save_at, [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = copy_state(module.model)
        self.modes.append([layer.training for layer in module.model.encoder.layers])

    def on_train_batch_end(self, trainer, module, *_):
        self.moved.append(moved(self.before, copy_state(module.model)))
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradual_moves_nothing_before_its_step_and_a_resumed_run_is_the_same_run(
    family, tiny_model, tmp_path
):
    shares = {"unfreeze": [0.25, 0.75], "freeze_batch_norm": False}
    model = tiny_model(family)
    learning = adapt(model, "gradual", **shares)
    before, diary = copy_state(model), Diary(tmp_path / "half.ckpt", save_at=5)
    tuner = fit(model, learning, steps=8, callbacks=[Seed(), diary])
    begins = {"encoder.layers.1.": 2, "encoder.layers.0.": 4, "encoder.": 6}
    parts = [
        {next((start for start in begins if key.startswith(start)), "rest") for key in step}
        for step in diary.moved
    ]
    assert parts == [
        {"rest"} | {start for start, step in begins.items() if step <= now} for now in range(8)
    ]
    assert diary.modes == [[now >= 4, now >= 2] for now in range(8)]
    optimised = {id(p) for group in tuner.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters()}
    checked(before, copy_state(model), learning=learning, step=8, num_steps=8)

    resumed = tiny_model(family)
    fit(
        resumed,
        adapt(resumed, "gradual", **shares),
        steps=8,
        callbacks=[Seed()],
        start=5,
        resume_from=tmp_path / "half.ckpt",
    )
    assert moved(copy_state(model), copy_state(resumed)) == set()


def test_a_run_that_ends_early_is_not_asked_for_what_still_waited(tiny_model):
    model = tiny_model("ctc")
    learning = adapt(model, "gradual")
    before = copy_state(model)
    after = {
        key: value + 1 if key.startswith("decoder.") else value for key, value in before.items()
    }
    assert checked(before, after, learning=learning, step=1, num_steps=100)["moved"] == 2
    with pytest.raises(UserError, match="should have learned"):
        checked(before, after, learning=learning, step=11, num_steps=100)


# LoRA


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_learns_beside_the_encoder_and_merges_to_a_plain_model(family, tiny_model):
    model = tiny_model(family)
    plain_keys, base_outputs = list(model.state_dict()), outputs(model)
    base = copy_state(model)
    learning = adapt(model, "lora", lora_rank=4, lora_alpha=8)
    # Two layers of width 64 with feed-forwards of 256: four square layers of attention and two
    # pairs of feed-forward each.
    assert learning.weights_learning == 2 * 4 * (4 * (64 + 64) + 4 * (64 + 256))
    torch.testing.assert_close(outputs(model), base_outputs)
    before = copy_state(model)
    fit(model, learning)
    assert moved(before, copy_state(model)) == learning.added == learning.parameters
    checked(before, copy_state(model), learning=learning, step=3, num_steps=3)

    live, checkpoint = outputs(model), copy_state(model)
    assert not torch.allclose(live, base_outputs, atol=1e-3)
    by_peft = {
        f"{name}.weight": module.get_base_layer().weight + module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    plain = lora.merge(model)
    torch.testing.assert_close(outputs(model), live, atol=1e-5, rtol=0)
    assert list(model.state_dict()) == plain_keys and not any(
        "peft" in type(module).__module__ for module in model.modules()
    )
    assert moved(base, plain(before)) == moved(model.state_dict(), plain(checkpoint)) == set()
    assert moved(base, model.state_dict()) == by_peft.keys() and len(by_peft) == 2 * 8
    for key, value in by_peft.items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=1e-6, rtol=0)


def test_merging_a_model_without_lora_changes_nothing(tiny_model):
    model = tiny_model("ctc")
    before = copy_state(model)
    plain = lora.merge(model)
    assert moved(before, copy_state(model)) == moved(before, plain(before)) == set() and list(
        plain(before)
    ) == list(before)


@pytest.mark.parametrize(
    ("num_new_pieces", "learn_decoder", "expected"),
    [(0, "auto", False), (2, "auto", True), (0, True, True)],
)
def test_the_decoder_learns_beside_lora_if_asked_or_if_there_are_new_pieces(
    num_new_pieces, learn_decoder, expected, tiny_model
):
    learning = adapt(
        tiny_model("hybrid"), "lora", num_new_pieces=num_new_pieces, learn_decoder=learn_decoder
    )
    own = {name.partition(".")[0] for name in learning.parameters - learning.added}
    assert own == ({"decoder", "joint", "ctc_decoder"} if expected else set())


def test_what_is_added_starts_the_same_whatever_was_drawn_before(tiny_model):
    states = []
    for draws in (0, 7):
        pl.seed_everything(3, verbose=False)
        model = tiny_model("ctc")
        torch.manual_seed(3)
        torch.rand(draws)
        after_draws = torch.get_rng_state()
        adapt(model, "lora")
        assert torch.equal(torch.get_rng_state(), after_draws)
        states.append(copy_state(model))
    assert moved(*states) == set()


# Adapters


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_learn_alone_stay_in_the_nemo_and_can_be_switched_off(
    family, tiny_model, tmp_path, monkeypatch
):
    from nemo.collections.asr.models import ASRModel

    model = tiny_model(family)
    base_outputs = outputs(model)
    learning = adapt(model, "adapters", adapter_dim=8)
    # A norm of width 64 and two matrices 64 x 8 behind each of two layers.
    assert learning.weights_learning == 2 * (2 * 64 + 2 * 64 * 8)
    assert torch.equal(outputs(model), base_outputs)
    before = copy_state(model)
    fit(model, learning)
    assert moved(before, copy_state(model)) == learning.parameters
    checked(before, copy_state(model), learning=learning, step=3, num_steps=3)

    switched_on = outputs(model)
    model.save_to(str(tmp_path / "adapted.nemo"))
    adapters.save(model, tmp_path / "adapters.pt")
    restored = ASRModel.restore_from(str(tmp_path / "adapted.nemo"), map_location="cpu")
    assert moved(copy_state(model), copy_state(restored)) == set() and adapters.names(restored) == [
        "domain"
    ]
    torch.testing.assert_close(outputs(restored), switched_on)
    restored.set_enabled_adapters(enabled=False)
    assert torch.equal(outputs(restored), base_outputs) and not torch.allclose(
        switched_on, base_outputs, atol=1e-3
    )

    fresh = tiny_model(family)
    fresh.replace_adapter_compatible_modules(verbose=False)
    monkeypatch.setenv(
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"
    )  # as NeMo 3.0.0 asks for in load_adapters
    fresh.load_adapters(str(tmp_path / "adapters.pt"), map_location="cpu")
    torch.testing.assert_close(outputs(fresh), switched_on)


def test_a_second_adapter_needs_another_name(tiny_model, tmp_path):
    model = tiny_model("ctc")
    adapt(model, "adapters")
    with pytest.raises(UserError, match=r"already has an adapter 'domain'.*adapter_name"):
        adapt(model, "adapters")
    learning = adapt(model, "adapters", adapter_name="second")
    assert all(".adapter_layer.second." in name for name in learning.parameters) and adapters.names(
        model
    ) == ["domain", "second"]


def test_a_model_without_adapters_leaves_no_file(tiny_model, tmp_path):
    adapters.save(tiny_model("ctc"), tmp_path / "adapters.pt")
    assert not (tmp_path / "adapters.pt").exists()


def test_nemo_still_leaves_the_short_class_name_in_the_configuration(tiny_model):
    """When this fails, NeMo has mended what adapters.add works around."""
    model = tiny_model("ctc")
    model.replace_adapter_compatible_modules(update_config=True, verbose=False)
    assert (
        type(model.encoder).__name__ == "ConformerEncoderAdapter"
        and model.cfg.encoder._target_ == "nemo.collections.asr.modules.ConformerEncoder"
    )


# The whole recipe


@pytest.mark.parametrize(
    ("option", "family"), [("lora", "hybrid"), ("adapters", "ctc"), ("gradual", "tdt")]
)
def test_the_recipe_exports_what_plain_nemo_restores(
    option, family, tiny_nemo, speech, tmp_path, monkeypatch
):
    from nemo.collections.asr.models import ASRModel

    from recipes.finetune import finetune

    manifest = speech(count=4)
    config = composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={tiny_nemo(family)}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.num_workers=0",
                "data.batch_seconds=6",
                "logger=csv",
                "evaluation.validations=2",
                "optim.lr=1e-3",
                "budget.steps=6",
                "evaluation.guard_tolerance=null",
                f"adaptation={option}",
            ]
        ),
    )
    report = finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    effective = report["effective"]
    assert effective["learned"]["moved"] > 0 and effective["adaptation"]["mode"] == {
        "gradual": "weights"
    }.get(option, option)
    assert (
        sum(group["weights"] for group in effective["optimizer"]["groups"])
        == effective["adaptation"]["learning"]
    )
    assert (tmp_path / "e" / "r" / "adapters.pt").exists() == (option == "adapters")

    monkeypatch.setitem(sys.modules, "peft", None)
    base, best = (
        ASRModel.restore_from(str(path), map_location="cpu").eval()
        for path in (tiny_nemo(family), tmp_path / "e" / "r" / "best.nemo")
    )
    assert (list(best.state_dict()) == list(base.state_dict())) == (option != "adapters")
    texts = [
        h.text
        for h in best.transcribe(
            [str(manifest.parent / f"{i}.wav") for i in range(4)], batch_size=1, verbose=False
        )
    ]
    assert texts == [
        u["after"] for u in sorted(report["utterances"], key=lambda u: u["audio_filepath"])
    ]


def test_a_run_stopped_and_continued_exports_the_same_weights(
    tiny_nemo, speech, tmp_path, monkeypatch
):
    from parakeet_ft.errors import Stopped
    from parakeet_ft.model.restore import restore
    from recipes.finetune import finetune

    manifest = speech(count=4)
    config = composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={tiny_nemo('ctc')}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.num_workers=0",
                "data.batch_seconds=6",
                "logger=csv",
                "evaluation.validations=1",
                "optim.lr=1e-3",
                "budget.steps=6",
                "evaluation.guard_tolerance=null",
                "evaluation.interpolation=[0.5]",
                "evaluation.ema_decay=0.5",
                "adaptation=lora",
                "adaptation.learn_decoder=true",
                "adaptation.unfreeze=[0.2,0.6]",
            ]
        ),
    )
    finetune(read_finetune(config), run_dir=tmp_path / "e" / "whole", command=["x"])
    original = fine_tuner.FineTuner.training_step

    def step(self, batch, batch_index):
        if batch_index == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuner.FineTuner, "training_step", step)
        with pytest.raises(Stopped):
            finetune(read_finetune(config), run_dir=tmp_path / "e" / "stopped", command=["x"])
    finetune(read_finetune(config), run_dir=tmp_path / "e" / "stopped", command=["x"])
    for name in ("last.nemo", "best.nemo"):
        one, other = (
            copy_state(restore(str(tmp_path / "e" / run / name))) for run in ("whole", "stopped")
        )
        assert one.keys() == other.keys() and moved(one, other) == set()


def test_a_violation_ends_the_recipe_before_anything_is_exported(
    tiny_nemo, speech, tmp_path, monkeypatch
):
    from recipes.finetune import finetune

    manifest = speech(count=2)
    config = composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={tiny_nemo('ctc')}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.num_workers=0",
                "data.batch_seconds=6",
                "logger=csv",
                "evaluation.validations=1",
                "budget.steps=1",
                "evaluation.guard_tolerance=null",
            ]
        ),
    )
    plan_all = set_learning
    monkeypatch.setattr(
        "parakeet_ft.training.adaptation.set_learning",
        lambda model, **keys: dataclasses.replace(
            learning := plan_all(model, **keys),
            parameters=learning.parameters - {"decoder.decoder_layers.0.bias"},
        ),
    )
    with pytest.raises(
        UserError, match=r"stayed as they were, but changed: decoder\.decoder_layers\.0\.bias"
    ):
        finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert not list((tmp_path / "e" / "r").glob("*.nemo"))
