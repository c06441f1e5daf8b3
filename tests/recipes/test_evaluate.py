"""The recipe as its user calls it: files, figures, and a second run that decodes nothing."""

import importlib.util
import json
from pathlib import Path

import pytest

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError, disk_told
from parakeet_ft.evaluation.recognizer import Recognizer
from parakeet_ft.run.composition import compose
from parakeet_ft.scoring import wer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location(
        "evaluate_recipe", ROOT / "recipes" / "evaluate.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluate


def run(recipe, out, *overrides):
    return recipe(
        compose("evaluate", [*overrides, f"out={out}"]),
        run_dir=out,
        command=["recipes/evaluate.py", *overrides],
    )


def test_two_models_on_two_sets_are_scored_once_and_the_second_run_decodes_nothing(
    recipe, tiny_nemo, speech, tmp_path, capfd, monkeypatch
):
    domain, guard = speech(count=4), speech(count=3)
    guard.rename(guard.with_name("guard.jsonl"))
    given = [
        f"models=[{tiny_nemo('ctc')},{tiny_nemo('tdt')}]",
        f"manifests=[{domain},{guard.with_name('guard.jsonl')}]",
        "batch_seconds=3",
    ]
    first = run(recipe, tmp_path, *given)
    assert [(r["model"], r["set"]) for r in first["results"]] == [
        (m, s) for s in ("manifest", "guard") for m in ("tiny_ctc", "tiny_tdt")
    ]
    assert {p.name for p in tmp_path.iterdir()} == {
        "evaluation.json",
        "evaluation.md",
        "evaluate.log",
        "hypotheses",
    }
    assert (
        json.loads((tmp_path / "evaluation.json").read_text())["results"][0]["score"]
        == first["results"][0]["score"]
    )
    (file,) = tmp_path.glob("hypotheses/tiny_tdt--manifest--*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    expected = wer.score(
        [u.text for u in read_manifest(domain)], [row["pred_text"] for row in rows]
    )
    assert first["results"][1]["score"]["wer"] == expected.wer and any(
        row["pred_text"] for row in rows
    )
    shown = capfd.readouterr().out
    assert "Error rates in percent" in shown and "tiny_tdt" in shown

    opened = []
    monkeypatch.setattr(Recognizer, "_open", lambda self: opened.append(self.label))
    assert run(recipe, tmp_path, *given)["results"] == first["results"] and opened == []
    with pytest.raises(AttributeError):
        run(recipe, tmp_path, *given, "decoding=beam")
    assert opened == ["tiny_ctc"]


def test_a_language_model_is_learnt_tuned_and_kept_with_what_each_weight_was_worth(
    recipe, tiny_nemo, speech, tmp_path
):
    domain, guard = speech(count=4), speech(count=2)
    found = run(
        recipe,
        tmp_path,
        f"models=[{tiny_nemo('ctc')}]",
        f"manifests=[{domain}]",
        f"language_model.text={domain}",
        f"language_model.tune_on={domain}",
        f"language_model.guard={guard}",
        "language_model.weights=[0.5,2]",
        "language_model.order=2",
        "decoding.phrases=[lazy dog]",
    )
    live = found["results"][0]["decoding"]
    rows = live["language_model"]["tuning"]
    assert [row["weight"] for row in rows] == [0, 0.5, 2] and all(
        row["guard_wer"] is not None for row in rows
    )
    allowed = [row for row in rows if row["guard_wer"] <= rows[0]["guard_wer"] + 0.02]
    assert (
        live["language_model"]["weight"]
        == min(allowed, key=lambda row: (row["wer"], row["weight"]))["weight"]
    )
    assert (
        live["fused"].get("GPUBoostingTreeModel") == 1.0
        and (tmp_path / "language_models" / "tiny_ctc.arpa").is_file()
    )
    assert found["results"][0]["score"]["wer"] == next(
        row["wer"] for row in rows if row["weight"] == live["language_model"]["weight"]
    )


def test_a_disk_that_takes_no_more_is_told_in_words_and_nothing_is_half_written(
    recipe, tiny_nemo, speech, tmp_path, largest_file_once_restored
):
    given = [f"models=[{tiny_nemo('ctc')}]", f"manifests=[{speech(count=4)}]"]
    largest_file_once_restored(300)
    with pytest.raises(UserError, match=f"{tmp_path}.*may not be that large"), disk_told(tmp_path):
        run(recipe, tmp_path, *given)
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert found <= {"evaluate.log"}


@pytest.mark.parametrize("options, words", [("ro", "read-only"), ("nr_inodes=1", "disk is full")])
def test_a_place_that_takes_no_files_is_told_in_words(options, words, tmp_path, on_a_disk):
    arguments = ("models=[tiny]", f"out={tmp_path}/disk/out")
    done = on_a_disk(options, tmp_path / "disk", "recipes/evaluate.py", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
