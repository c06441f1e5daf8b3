"""The recipe's watch: every key is consumed, an early stop reaches the report, the smoke test's
exit code, an export that is not what was chosen.
"""

import ast
import inspect
import json
import runpy
import sys
import textwrap

import pytest

from parakeet_ft import preflight
from parakeet_ft.model import attention, vocabulary
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.settings.rules import Group
from parakeet_ft.training import (
    adaptation,
    budget,
    checkpointer,
    distillation,
    fine_tuner,
    loggers,
    optim,
    watch,
    weight_selection,
)
from recipes import finetune as recipe


@pytest.fixture
def keys_read(monkeypatch):
    """Which keys of the settings were read, from when on the set is asked for."""
    read, get = set(), object.__getattribute__

    def note(self, name):
        value = get(self, name)
        if name in get(self, "__dataclass_fields__") and not isinstance(value, Group):
            key = get(self, "KEY")
            read.add(f"{key}.{name}" if key else name)
        return value

    monkeypatch.setattr(Group, "__getattribute__", note)
    return read


@pytest.fixture(scope="module")
def manifest(speech):
    return speech(count=4)


def arguments(nemo, manifest, *more):
    return composition.expand_shorthand(
        [
            f"model={nemo}",
            f"data.train={manifest}",
            f"data.validation={manifest}",
            "data.allow_overlap=true",
            f"data.guard_validation={manifest}",
            "data.num_workers=0",
            "data.batch_seconds=6",
            "logger=csv",
            "optim.lr=1e-3",
            "evaluation.interpolation=[0.5]",
            "adaptation.freeze_batch_norm=false",
            *more,
        ]
    )


def configure(*given):
    return composition.compose("finetune", arguments(*given))


def test_every_key_of_the_configuration_is_read_by_a_run(
    tiny_nemo, manifest, tmp_path, monkeypatch, keys_read
):
    config = configure(
        tiny_nemo("ctc"),
        manifest,
        "budget.steps=2",
        "evaluation.validations=1",
        "evaluation.ema_decay=0.5",
        "evaluation.terms=[the]",
    )
    settings = read_finetune(config)
    # What is stored whole is no use of a key.
    monkeypatch.setattr(Group, "as_config", lambda self: config)
    keys_read.clear()
    result = recipe.finetune(settings, run_dir=tmp_path / "e" / "r", command=["x"])
    before_a_run = {
        key
        for key in composition.flatten(config)
        if key.startswith(("launcher.", "data.guard_", "data.replay."))
        or key in ("resume", "data.allow_overlap", "data.name")
    }
    assert set(composition.flatten(config)) - keys_read == before_a_run
    # Those are read before the run begins, or by the configuration itself.
    source = inspect.getsource(preflight)
    assert "settings.launcher" in source and "settings.resume" in source
    assert "data.allow_overlap" in source and config["name"] == config["data"]["name"]
    # The short keys of a guard are the guard of that name, which the run reads.
    assert settings.data.guards["guard"].validation == settings.data.guard_validation
    assert [row["weights"] for row in result["candidates"]].count("moving average") == 1


@pytest.mark.parametrize(
    "function",
    [
        adaptation.set_learning,
        budget.num_steps,
        checkpointer.Checkpointer.__init__,
        optim.settings,
        fine_tuner.resolve,
        loggers.build,
        vocabulary.adapt_vocabulary,
        distillation.Teacher.__init__,
        attention.set_attention,
    ],
)
def test_what_takes_a_group_of_keys_uses_every_argument(function):
    used = {
        node.id
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
        if isinstance(node, ast.Name)
    }
    assert set(inspect.signature(function).parameters) - used - {"self"} == set()


def test_an_early_stop_ends_the_run_and_is_in_the_report_and_the_history(
    tiny_nemo, manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr(watch, "streaks", lambda history, **limits: {"domain": len(history)})
    config = configure(
        tiny_nemo("ctc"),
        manifest,
        "budget.steps=8",
        "evaluation.validations=4",
        "evaluation.patience=2",
        "evaluation.average_last=2",
    )
    run_dir = tmp_path / "e" / "r"
    result = recipe.finetune(read_finetune(config), run_dir=run_dir, command=["x"])
    assert result["steps"] == 4 and [point["step"] for point in result["history"]] == [0, 2, 4]
    assert any(
        "stopped early: domain worse for 2 validations in a row" in note for note in result["notes"]
    )
    assert any(
        "domain WER is above" in remark
        for point in json.loads((run_dir / "report.json").read_text())["history"]
        for remark in point.get("remarks", [])
    )
    mean = next(
        row for row in result["candidates"] if row["weights"] == "mean of the last validations"
    )
    assert mean["steps"] == [2, 4] and 0 <= mean["val_blank_ratio"] <= 1
    rows = [json.loads(line) for line in (run_dir / "hypotheses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0] * 4 + [2] * 4 + [4] * 4 and all(
        row["reference"] for row in rows
    )

    (run_dir / "report.json").unlink()  # killed after the early stop: it stays stopped
    monkeypatch.setattr(fine_tuner.FineTuner, "training_step", lambda *_: 1 / 0)
    assert (
        recipe.finetune(read_finetune(config), run_dir=run_dir, command=["x"])["history"]
        == result["history"]
    )


def test_an_export_that_is_not_what_was_chosen_is_reported_and_not_latest(
    tiny_nemo, manifest, tmp_path, monkeypatch
):
    choose = weight_selection.choose_weights

    def flattered(*given, **more):
        rows = choose(*given, **more)
        return [rows[0] | {"val_wer": rows[0]["val_wer"] - 0.5}, *rows[1:]]

    monkeypatch.setattr(weight_selection, "choose_weights", flattered)
    config = configure(
        tiny_nemo("ctc"),
        manifest,
        "budget.steps=1",
        "evaluation.validations=1",
        "evaluation.interpolation=[]",
    )
    result = recipe.finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert "not the model that was chosen" in result["problem"]
    assert (tmp_path / "e" / "r" / "report.html").exists()
    assert not (tmp_path / "e" / "latest").exists()


def smoke(monkeypatch, folder, *given):
    """Run the recipe as a script; returns the exit code and its only run directory."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["finetune.py", *arguments(*given, "smoke=true")])
    try:
        runpy.run_path(recipe.__file__, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    [run_dir] = (folder / "outputs" / "finetune").iterdir()
    return code, run_dir


def test_a_smoke_test_that_passes_leaves_its_log_and_one_small_json(
    tiny_nemo, manifest, tmp_path, monkeypatch
):
    code, run_dir = smoke(monkeypatch, tmp_path, tiny_nemo("ctc"), manifest, "optim.lr=4e-3")
    assert code == 0 and {p.name for p in run_dir.iterdir()} == {
        "run.json",
        "run.log",
        ".hydra",
        ".lock",
    }
    stored = json.loads((run_dir / "run.json").read_text())
    assert stored["effective"]["smoke"]["passed"] and stored["finished"]


def test_a_smoke_test_that_fails_exits_with_1(tiny_nemo, manifest, tmp_path, monkeypatch):
    from parakeet_ft.training import smoke as module

    overfit = module.overfit
    monkeypatch.setattr(
        module, "overfit", lambda *given, **more: overfit(*given, **more, max_steps=2)
    )
    code, run_dir = smoke(monkeypatch, tmp_path, tiny_nemo("ctc"), manifest, "optim.lr=1e-9")
    stored = json.loads((run_dir / "run.json").read_text())["effective"]["smoke"]
    assert (
        code == 1
        and not stored["passed"]
        and stored["last_loss"] == pytest.approx(stored["first_loss"], rel=1e-3)
    )
