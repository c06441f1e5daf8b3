"""Every key of conf/ has a field, a comment and a check; every wrong value is refused or meant."""

import copy
import dataclasses
import typing

import pytest

from parakeet_ft import preflight
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.settings import evaluate, finetune
from parakeet_ft.settings.rules import Group, number, read, shown, whole

ROOTS = {"finetune": finetune.Finetune, "evaluate": evaluate.Evaluate}
GIVEN = {
    "finetune": ["data.train=a.jsonl", "data.validation=b.jsonl", "model.source=tiny"],
    "evaluate": [],
}
WRONG = {"a wrong type": {"a": 1}, "null": None, "a negative value": -1, "a huge value": 10**15}
NULL_IS_MEANT = (
    "null stands in conf/ as a value: the key is off, or its value is chosen by the program"
)
# Values that look wrong and are not, with the reason.
MEANT = {
    ("decoding.length_bonus", "a negative value"): "a bonus may be a malus",
} | {
    (f"data.{key}", "null"): "null is read as no manifest, an empty tuple"
    for key in ("test", "guard_validation", "guard_test", "replay.manifest")
}


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_value(config, key, value):
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    place = changed
    for part in path:
        place = place[part]
    place[last] = value
    return changed


def composed(name):
    return composition.compose(name, composition.expand_shorthand(GIVEN[name]))


def fields_of(kind, prefix=""):
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        nested = types[field.name]
        if isinstance(nested, type) and issubclass(nested, Group):
            yield from fields_of(nested, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("name", ROOTS)
def test_the_keys_of_conf_are_the_fields(name):
    assert {key for key, _ in leaves(composed(name))} == set(fields_of(ROOTS[name]))


@pytest.mark.parametrize("name", ROOTS)
def test_every_option_of_every_group_composes_to_valid_settings(name):
    for group in composition.groups(name):
        for option in composition.options_of(group):
            overrides = [*GIVEN[name], f"{group}={option}"]
            if group == "data" and option == "demo":
                overrides = [f"{group}={option}"]
            config = composition.compose(name, composition.expand_shorthand(overrides))
            assert read(ROOTS[name], config).as_config() == config


@pytest.mark.parametrize("name", ROOTS)
def test_every_wrong_value_is_refused_with_its_key_or_is_meant(name):
    config = composed(name)
    for key, _ in leaves(config):
        for what, value in WRONG.items():
            try:
                read(ROOTS[name], with_value(config, key, value))
            except UserError as error:
                message = str(error)
                assert (key in message and "expected" in message) or "No budget" in message, message
                assert message.count("\n") == 0
                continue
            allowed = MEANT.get((key, what)) or (value is None and is_optional(name, key))
            assert allowed, f"{key} takes {what} ({value!r})"


def is_optional(name, key):
    """Whether the field's type says that null is a value."""
    kind = ROOTS[name]
    *path, last = key.split(".")
    for part in path:
        kind = typing.get_type_hints(kind)[part]
    return type(None) in typing.get_args(typing.get_type_hints(kind)[last]) and NULL_IS_MEANT


@pytest.mark.parametrize("name", ROOTS)
def test_every_key_has_a_comment_and_help_shows_it_within_80_columns(name, capsys):
    composition.show_help(name, "What it does.")
    text = capsys.readouterr().out
    said = composition.comments(name)
    for key, _ in leaves(composed(name)):
        assert said.get(key), f"conf/ says nothing of {key}"
        assert f"  {key}=" in text
        assert " ".join(said[key].split()[:4]) in " ".join(text.split()), key
    long = [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()]
    assert long == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "model.attention=ful",
            "model.attention=ful: expected full or local. The nearest is full.",
        ),
        ("model.attention_context=[1,2,3]", "expected two equal whole numbers"),
        ("model.spec_augment.time_width=2.5", "a whole number of frames, or a share below 1"),
        ("trainer.strategy=ddpp", "The nearest is ddp."),
        ("trainer.precision=bf17", "The nearest is bf16-mixed."),
        ("trainer.precision=bf16", "The nearest is bf16-mixed."),
        ("logger.names=[foo]", "each csv, tensorboard, wandb or mlflow"),
        ("evaluation.interpolation=[9.0]", "The nearest is [1]."),
        ("evaluation.interpolation=[a]", "each number from 0 to 1"),
        ("evaluation.batch_seconds=-5", "evaluation.batch_seconds=-5: expected a number above 0"),
        ("evaluation.language=english", "The nearest is en."),
        ("data.num_workers=-1", "data.num_workers=-1: expected auto or a whole number from 0"),
        ("data.train=[a,5]", "data.train=[a,5]: expected a manifest or a folder of shards"),
        ("data.train=[{manifest: a, weight: 0}]", "with weights above 0"),
        ("data.validation=[{manifest: a, weight: 2}]", "data.validation: a has the weight 2"),
        ("+data.guards.k.validation=[{manifest: a, weight: 2}]", "data.guards.k.validation: a has"),
        ("data.train=[{manifest: a, weight: 1001}]", "with weights above 0 and up to 1000"),
        ("data.replay=null", "data.replay=null: expected its keys (manifest, ratio)"),
        ("data.augmentation.speed=1.1", "The nearest is [1.1]."),
        ("checkpoint.keep=0", "The nearest is 1."),
        ("checkpoint.every_steps=abc", "null or a whole number from 1"),
        ("optim.betas=[0.9]", "a list of 2 values"),
        ("optim.min_lr_ratio=7", "The nearest is 1."),
        ("optim.lr=true", "optim.lr=true: expected auto or a number above 0"),
        ("optim.lr=1e10", "optim.lr=10000000000.0: expected auto or a number above 0 to 1"),
        ("optim.gradient_clip=nan", "optim.gradient_clip=nan: expected a number"),
        ("optim.gradient_clip=-1", "The nearest is 0."),
        ("tokenizer.vocab_size=abc", "null or a whole number from 2"),
        ("adaptation.lora_alpha=0", "a number above 0"),
        ("launcher.nodes=2", "Give launcher=slurm too"),
        ("launcher.seeds=5", "The nearest is [5]."),
        ("launcher.nodes=0", "null or a whole number from 1"),
        ("name=../../x", "a name without slashes"),
        ("~budget", "budget is missing"),
        ("model.source=null", "a bundled name, a .nemo file or a hub id"),
    ],
)
def test_a_mistake_is_told_with_what_was_expected(override, said):
    with pytest.raises(UserError) as told:
        preflight.check_settings(composition.compose("finetune", [override]))
    assert said in str(told.value)


@pytest.mark.parametrize("option", ["--lr=5", "-x", "--budget"])
def test_an_option_that_is_none_is_refused(option):
    with pytest.raises(UserError, match="is no option; settings are key=value"):
        composition.split_options(["optim.lr=1e-4", option])


def test_a_rule_names_the_nearest_value_that_it_takes():
    for rule in (whole(low=2, most=9), number(low=-3, most=4)):
        for value in (-100, 0.4, 7.6, 1e9):
            assert rule.fits(rule.nearest(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "null"), ([1, "a", False], "[1,a,false]"), (0.5, "0.5")],
)
def test_values_are_shown_as_they_are_typed(value, text):
    assert shown(value) == text


def test_settings_cannot_be_changed():
    settings = finetune.read_finetune(composed("finetune"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.optim.lr = 3
