"""Guards have names of one's own, on the command line as in files, and the short keys are one."""

import pytest

from parakeet_ft import preflight
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.settings.manifests import weighted

OWN = ["data.train=a.jsonl", "data.validation=b.jsonl"]


def settings_of(*overrides):
    given = composition.expand_shorthand([*OWN, *overrides])
    return preflight.check_settings(composition.compose("finetune", given))


def test_a_guard_is_named_on_the_command_line_and_the_short_keys_are_one_too():
    settings = settings_of(
        "data.guard_validation=g.jsonl",
        "data.replay.manifest=r.jsonl",
        "data.replay.ratio=2",
        "data.guards.radio.validation=[r1.jsonl,r2.jsonl]",
        "data.guards.children.validation=c_dev.jsonl",
        "data.guards.children.test=c_test.jsonl",
        "data.guards.children.tolerance=0.01",
        "data.guards.children.replay=c.jsonl",
    )
    data = settings.data
    assert list(data.guards) == ["guard", "children", "radio"], "by name, whatever is given first"
    assert {role: [one.manifest for one in named] for role, named in data.named_sets().items()} == {
        "train": ["a.jsonl"],
        "validation": ["b.jsonl"],
        "guard_validation": ["g.jsonl"],
        "replay": ["r.jsonl"],
        "guards.children.validation": ["c_dev.jsonl"],
        "guards.children.test": ["c_test.jsonl"],
        "guards.children.replay": ["c.jsonl"],
        "guards.radio.validation": ["r1.jsonl", "r2.jsonl"],
    }
    assert settings.guard_tolerances() == {"guard": 0.02, "children": 0.01, "radio": 0.02}
    assert data.replay_ratios() == {"replay": 2, "guards.children.replay": 2}


@pytest.mark.parametrize(
    "given",
    [
        ["data.guards.kids.replay=c.jsonl", "data.guards.kids.replay.ratio=0.5"],
        ["data.guards.kids.replay.ratio=0.5", "data.guards.kids.replay.manifest=c.jsonl"],
        ["data.guards.kids.replay={manifest: c.jsonl, ratio: 0.5}"],
        ["data.guards.kids={validation: k.jsonl, replay: {manifest: c.jsonl, ratio: 0.5}}"],
        ["data.guards={kids: {validation: k.jsonl, replay: {ratio: 0.5, manifest: c.jsonl}}}"],
        ["+data.guards.kids.replay=c.jsonl", "++data.guards.kids.replay.ratio=0.5"],
    ],
)
def test_a_replay_has_a_ratio_of_its_own_in_every_form(given):
    more = [] if "validation" in given[0] else ["data.guards.kids.validation=k.jsonl"]
    data = settings_of(*more, *given).data
    assert data.replay_ratios() == {"guards.kids.replay": 0.5}
    assert data.guards["kids"].replay.manifest == weighted("c.jsonl")


def test_without_guards_there_are_none_and_a_replay_alone_watches_nothing():
    assert settings_of().data.guards == {} and settings_of().data.replay_ratios() == {}
    alone = settings_of("data.replay.manifest=r.jsonl").data
    assert alone.guards["guard"].validation == () and alone.replay_ratios() == {"replay": 1}


def test_settings_read_back_from_a_runs_record_are_the_same():
    settings = settings_of(
        "data.guard_test=g.jsonl",
        "data.guards.kids.validation=k.jsonl",
        "data.guards.kids.replay=c.jsonl",
    )
    again = read_finetune(settings.as_config())
    assert again == settings and "guard" not in again.as_config()["data"]["guards"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["data.guards.kids.test=k.jsonl"], "data.guards.kids.validation is missing"),
        (
            ["data.guards.kids.validaton=k.jsonl"],
            r"'data.guards.kids.validaton'.*Did you mean data.guards.kids.validation\?",
        ),
        (["data.guards.kids.replay.rate=1"], r"Did you mean data.guards.kids.replay.ratio\?"),
        (["data.guards.kids={validaton: k.jsonl}"], "Did you mean data.guards.kids.validation"),
        (["data.guards.kids.deep.validation=k.jsonl"], "'data.guards.kids.deep.validation'"),
        (["data.guard.kids.validation=k.jsonl"], r"Did you mean.*data.guards.NAME.validation"),
        (["data.guards.guard.validation=k.jsonl"], "that of data.guard_validation.*another name"),
        (["data.guards={guard: {validation: k.jsonl}}"], "that of data.guard_validation"),
        (["data.guards.domain.validation=k.jsonl"], "another name"),
        (["data.guards.kids=k.jsonl"], "data.guards.kids=k.jsonl: expected its keys"),
        (["data.guards=kids"], "data.guards=kids: expected guards by their names"),
        (["data.guards={a/b: {validation: k.jsonl}}"], "data.guards.a/b: expected a name without"),
        (["~data.guards.kids"], "Unknown key 'data.guards.kids'"),
    ],
)
def test_a_guard_that_cannot_be_meant_is_told(given, said):
    with pytest.raises(UserError, match=said):
        settings_of(*given)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tolerance=2", r"data.guards.kids.tolerance=2: expected null or a number from 0 to 1"),
        ("test=5", "data.guards.kids.test=5: expected"),
        ("replay.ratio=0.5", "data.guards.kids.replay={'ratio': 0.5}: expected"),
        ("replay={manifest: c.jsonl, ratio: -1}", "data.guards.kids.replay=.*ratio from 0"),
    ],
)
def test_a_value_of_a_guard_that_cannot_be_used_is_told_with_its_key(value, said):
    with pytest.raises(UserError, match=said):
        settings_of("data.guards.kids.validation=k.jsonl", f"data.guards.kids.{value}")


def test_an_experiment_may_name_guards_and_the_command_line_changes_them(tmp_path, monkeypatch):
    import shutil

    shutil.copytree(composition.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndata: {guards: {kids: {validation: k.jsonl, tolerance: 0.1}}}\n"
    )
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    found = settings_of("experiment=mine", "data.guards.kids.tolerance=0.05")
    assert found.guard_tolerances() == {"kids": 0.05}
    assert settings_of("experiment=mine", "~data.guards.kids").data.guards == {}
