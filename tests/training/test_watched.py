"""Validations on a subset, in another precision: what a run scores, says and records."""

import json
from pathlib import Path

import pytest

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.run import composition
from parakeet_ft.scoring import wer
from parakeet_ft.settings.finetune import read_finetune
from recipes.finetune import finetune


@pytest.fixture(scope="module")
def run(tiny_nemo, speech, tmp_path_factory):
    """A run of two steps whose validations hear a third of each set in bfloat16; its directory and
    what its report holds.
    """
    folder = tmp_path_factory.mktemp("watched")
    manifest = str(speech(count=12))
    given = [
        f"model={tiny_nemo('ctc')}",
        *(f"data.{key}={manifest}" for key in ("train", "validation", "guard_validation")),
        "data.allow_overlap=true",
        "data.num_workers=0",
        "data.batch_seconds=6",
        "budget.steps=2",
        "evaluation.validations=1",
        "evaluation.interpolation=[0.5]",
        f"evaluation.subset_hours={sum_of(manifest) / 3 / 3600}",
        "evaluation.precision=bf16",
        "logger=csv",
    ]
    settings = read_finetune(composition.compose("finetune", composition.expand_shorthand(given)))
    return folder, finetune(settings, run_dir=folder, command=["finetune.py"])


def sum_of(manifest):
    return sum(u.duration for u in read_manifest(manifest))


def test_what_is_said_of_validations_is_recorded(run):
    folder, _ = run
    found = json.loads((folder / "run.json").read_text())["effective"]["evaluation"]
    assert found["precision"] == "bf16" and found["final_precision"] == "32"
    assert found["subset"]["validation"]["of_utterances"] == 12
    assert 2 <= found["subset"]["validation"]["utterances"] <= 6


def test_the_start_of_the_history_is_the_checkpoint_on_the_subset(run):
    folder, report = run
    found = json.loads((folder / "run.json").read_text())
    path = found["manifests"]["validation"]["path"]
    utterances = read_manifest(path if isinstance(path, str) else path[0])
    texts = json.loads((folder / "baseline.json").read_text())["value"]["validation"]
    from parakeet_ft.training.validation_subset import choose

    taken = choose(utterances, hours=sum_of(path) / 3 / 3600, seed=1)
    expected = wer.score([utterances[i].text for i in taken], [texts[i] for i in taken]).wer
    assert report["history"][0]["val_wer"] == expected
    assert report["baseline"]["domain"]["words"] == sum(len(u.text.split()) for u in utterances)
    assert not report["problem"] or "is not the model" not in report["problem"]


def test_the_report_says_that_the_choice_was_made_on_a_part(run):
    folder, report = run
    assert any("evaluation.subset_hours" in note for note in report["notes"])
    assert "evaluation.subset_hours" in Path(folder / "report.md").read_text()
