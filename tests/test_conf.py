"""Every config composes, and its keys are exactly the arguments they feed."""

import inspect

import pytest

from parakeet_ft import preflight
from parakeet_ft.batches import augmentation
from parakeet_ft.errors import UserError
from parakeet_ft.model import spec_augment, vocabulary
from parakeet_ft.run import composition
from parakeet_ft.training import (
    adaptation,
    budget,
    checkpointer,
    distillation,
    fine_tuner,
    loggers,
    optim,
)

OPTIONS = [
    (group, option) for group in composition.groups() for option in composition.options_of(group)
]
EXPERIMENTS = composition.options_of("experiment")


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] != "experiment"])
def test_every_option_composes_and_has_the_keys_of_its_group(group, option):
    given = {
        "manifests": ["data.train=a", "data.validation=b"],
    }.get(option, [])
    config = composition.compose("finetune", [f"{group}={option}", *given])
    default = composition.compose("finetune", [])
    assert config[group].keys() == default[group].keys()


@pytest.mark.parametrize(
    ("group", "function", "filled_by_the_recipe"),
    [
        ("adaptation", adaptation.set_learning, {"model", "num_new_pieces"}),
        ("budget", budget.num_steps, {"plan", "accumulate"}),
        ("optim", optim.settings, {"model", "hours_per_pass", "num_new_pieces", "num_steps"}),
        ("trainer", fine_tuner.resolve, set()),
        ("checkpoint", checkpointer.Checkpointer, {"directory", "keep_weights", "say"}),
        ("distillation", distillation.build_teacher, {"model"}),
        ("logger", loggers.build, {"run_dir", "experiment", "resume_step"}),
        ("tokenizer", vocabulary.adapt_vocabulary, {"model", "texts", "workdir"}),
    ],
)
def test_the_keys_of_a_group_are_the_arguments_of_its_function(
    group, function, filled_by_the_recipe
):
    keys = set(composition.compose("finetune", [])[group])
    assert keys == set(inspect.signature(function).parameters) - filled_by_the_recipe


@pytest.mark.parametrize(
    ("group", "key", "function", "filled_by_the_recipe"),
    [
        ("data", "augmentation", augmentation.build, {"seed"}),
        ("model", "spec_augment", spec_augment.set_spec_augment, {"model"}),
    ],
)
def test_the_keys_of_a_part_are_the_arguments_of_its_function(
    group, key, function, filled_by_the_recipe
):
    for option in ("demo", "manifests") if group == "data" else ("checkpoint",):
        part = composition.compose(
            "finetune", [f"{group}={option}", "data.train=a", "data.validation=b"]
        )[group][key]
        assert set(part) == set(inspect.signature(function).parameters) - filled_by_the_recipe


@pytest.mark.parametrize("option", EXPERIMENTS)
def test_every_experiment_changes_settings_within_range_and_yields_to_the_command_line(option):
    given = composition.expand_shorthand(
        [
            f"experiment={option}",
            "budget.steps=7",
            "data.train=a",
            "data.validation=b",
            "model=x.nemo",
        ]
    )
    config, default = composition.compose("finetune", given), composition.compose("finetune", [])
    preflight.check_settings(config)
    assert (
        config["budget"] == {"epochs": None, "hours": None, "steps": 7}
        and config["model"]["source"] == "x.nemo"
        and config["data"]["train"] == "a"
    )
    changed = composition.compose("finetune", [f"experiment={option}"])
    preflight.check_settings(changed)
    assert changed != default and changed.keys() == default.keys()


def test_an_experiment_with_an_unknown_key_is_an_error_that_names_the_nearest(
    tmp_path, monkeypatch
):
    import shutil

    shutil.copytree(composition.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nevaluation: {validatons: 3}\n"
    )
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    with pytest.raises(
        UserError, match=r"unknown key 'evaluation.validatons'. Did you mean evaluation.validations"
    ):
        composition.compose("finetune", ["experiment=mine"])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_opens_with_what_it_is_and_its_command(group, option):
    lines = (composition.CONF / group / f"{option}.yaml").read_text().splitlines()
    assert lines[0].startswith("# "), f"conf/{group}/{option}.yaml"
    assert any("python recipes/" in line for line in lines if line.startswith("#")), (
        f"conf/{group}/{option}.yaml names no command"
    )
