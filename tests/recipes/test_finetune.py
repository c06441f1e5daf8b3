"""The recipe: golden losses, the exact set of files, exports that plain NeMo restores, honest
verdicts, and a failure that leaves the user a word.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from recipes.finetune import finetune

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "best.nemo",
    "last.nemo",
    "report.html",
    "report.json",
    "report.md",
    "run.json",
    "run.log",
    "metrics.csv",
    "checkpoints",
    "hparams.yaml",
    "baseline.json",
    "hypotheses.jsonl",
}
GOLDEN_LOSSES = [6.6268, 11.5711, 4.9455, 4.7092, 4.4039, 5.8387]


def configure(*overrides):
    return composition.compose("finetune", composition.expand_shorthand(list(overrides)))


@pytest.fixture(scope="module")
def manifest(speech):
    return speech(count=8)


def arguments(nemo, manifest, *more):
    return [
        f"model={nemo}",
        f"data.train={manifest}",
        f"data.validation={manifest}",
        "data.allow_overlap=true",
        f"data.guard_validation={manifest}",
        "data.num_workers=0",
        "data.batch_seconds=6",
        "logger=csv",
        "evaluation.validations=2",
        "optim.lr=1e-3",
        # Random weights have no statistics worth keeping.
        "adaptation.freeze_batch_norm=false",
        *more,
    ]


# Of the golden losses, which are older than the speeds.
SIX_STEPS = "budget.steps=6", "data.augmentation.speed=null"


def losses(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row.get("train_loss")]


@pytest.fixture(scope="module")
def run(tiny_nemo, manifest, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("outputs") / "experiment" / "first"
    config = configure(*arguments(tiny_nemo("ctc"), manifest, *SIX_STEPS))
    return run_dir, finetune(
        read_finetune(config), run_dir=run_dir, command=["recipes/finetune.py", "x=a b"]
    )


def test_a_run_leaves_exactly_these_files(run):
    run_dir, _ = run
    assert {p.name for p in run_dir.iterdir()} == FILES
    assert (run_dir.parent / "latest").resolve() == run_dir
    best = max(run[1]["history"][1:], key=lambda point: point["selection_score"])["step"]
    assert {p.name for p in (run_dir / "checkpoints").iterdir()} == {
        "resume-step=000003.ckpt",
        "resume-step=000006.ckpt",
        "weights-step=000006.ckpt",
        f"weights-step={best:06d}.ckpt",
    }


def test_the_losses_are_the_golden_ones(run):
    assert losses(run[0]) == pytest.approx(GOLDEN_LOSSES, rel=2e-3)


def test_the_last_step_is_validated_whatever_the_interval(run, tiny_nemo, manifest, tmp_path):
    config = configure(
        *arguments(
            tiny_nemo("ctc"),
            manifest,
            "budget.steps=7",
            "evaluation.validations=3",
            "optim.accumulate=2",
        )
    )
    report = finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert [point["step"] for point in report["history"]] == [0, 2, 4, 7], "6 is too near"


def test_the_same_seed_gives_the_same_losses_twice(run, tiny_nemo, manifest, tmp_path):
    config = configure(*arguments(tiny_nemo("ctc"), manifest, *SIX_STEPS))
    finetune(read_finetune(config), run_dir=tmp_path / "e" / "again", command=["x"])
    assert losses(tmp_path / "e" / "again") == losses(run[0])


def test_plain_nemo_restores_the_best_and_finds_the_reports_wer(run, manifest):
    import jiwer
    from nemo.collections.asr.models import ASRModel

    run_dir, report = run
    model = ASRModel.restore_from(str(run_dir / "best.nemo"), map_location="cpu").eval()
    found = read_manifest(manifest)
    texts = [
        h.text
        for h in model.transcribe([u.audio_filepath for u in found], batch_size=1, verbose=False)
    ]
    assert jiwer.wer([u.text for u in found], texts) == pytest.approx(
        report["tuned"]["domain"]["wer"], abs=1e-9
    )


def test_the_report_holds_what_is_promised(run):
    run_dir, report = run
    stored = json.loads((run_dir / "report.json").read_text())
    assert stored["model"] == "best.nemo" and stored["baseline"].keys() == stored[
        "tuned"
    ].keys() == {"domain", "guard"}
    assert all(
        stored[when][role]["wer"] >= 0 and stored[when][role]["words"] > 0
        for when in ("baseline", "tuned")
        for role in ("domain", "guard")
    )
    assert "validation set, which also chose" in stored["warnings"][0]
    assert stored["command"] == "python recipes/finetune.py 'x=a b'"
    page = (run_dir / "report.html").read_text()
    assert (
        stored["verdict"].split(" WER")[0] in page
        and "<audio" in page
        and "http" not in page.replace("http://www.w3.org", "")
    )


def test_run_json_holds_effective_values_and_every_phase(run, manifest):
    stored = json.loads((run[0] / "run.json").read_text())
    assert (
        stored["effective"]["optimizer"]["lr"] == 1e-3
        and stored["effective"]["budget"]["steps"] == 6
    )
    assert stored["effective"]["model"]["loss"]["class"] == "CTCLoss"
    assert len(stored["phases_seconds"]) == 7 and stored["manifests"]["train"]["path"] == str(
        manifest
    )
    assert (
        len(stored["manifests"]["train"]["sha256"]) == 64
        and stored["versions"]["nemo_toolkit"] == "3.0.0"
    )


@pytest.mark.parametrize("family", ["ctc", "tdt"])
def test_a_model_overfits_two_clips(family, tiny_nemo, speech, tmp_path):
    config = configure(
        *arguments(
            tiny_nemo(family),
            speech(count=2),
            "budget.steps=120",
            "optim.lr=4e-3",
            "evaluation.validations=1",
            "evaluation.guard_tolerance=null",
        )
    )
    report = finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert report["tuned"]["domain"]["wer"] == 0 < report["baseline"]["domain"]["wer"]


@pytest.mark.parametrize("family", ["rnnt", "hybrid"])
def test_every_other_family_trains_and_exports(family, tiny_nemo, manifest, tmp_path):
    config = configure(
        *arguments(tiny_nemo(family), manifest, "budget.steps=2", "evaluation.validations=1")
    )
    report = finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert report["steps"] == 2 and (tmp_path / "e" / "r" / "best.nemo").exists()


def test_the_demo_in_short_runs_from_the_command_line(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "recipes" / "finetune.py"),
            "budget.steps=2",
            "evaluation.validations=1",
            "evaluation.interpolation=[]",
            "evaluation.subset_hours=0.02",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    assert last.startswith("domain WER ") and " % [" in last and " | guard " in last
    assert before[-1].startswith("  done in ")
    assert before[-1].endswith("/outputs/demo/latest/best.nemo")
    assert "NeMo W" not in done.stdout + done.stderr and "warning" not in done.stderr.lower()
    report = json.loads((tmp_path / "outputs" / "demo" / "latest" / "report.json").read_text())
    assert (
        report["baseline"]["domain"]["words"] > 500
        and report["comparison"]["domain"]["resampled"] == "speakers"
    )
    assert report["command"].endswith(
        "finetune.py budget.steps=2 evaluation.validations=1 'evaluation.interpolation=[]' "
        "evaluation.subset_hours=0.02"
    )  # as it was typed
    assert {p.name for p in (tmp_path / "outputs" / "demo" / "latest" / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }


def test_a_run_that_made_the_model_worse_writes_its_report_and_is_not_latest(
    tiny_nemo, manifest, tmp_path, monkeypatch
):
    from parakeet_ft.report import report

    monkeypatch.setattr(report, "problem", lambda *texts: "The run made the model worse.")
    config = configure(*arguments(tiny_nemo("ctc"), manifest, "budget.steps=1"))
    result = finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert result["problem"] == result["warnings"][0] == "The run made the model worse."
    assert "made the model worse" in (tmp_path / "e" / "r" / "report.md").read_text()
    assert not (tmp_path / "e" / "latest").exists()
    assert json.loads((tmp_path / "e" / "r" / "run.json").read_text())["finished"]
