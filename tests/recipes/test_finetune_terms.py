"""A run with terms from the command line: told, weighed, reported; and refused before torch."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(folder, nemo, manifest, *more):
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "recipes" / "finetune.py"),
            f"model={nemo}",
            *(f"data.{key}={manifest}" for key in ("train", "validation", "guard_validation")),
            "data.allow_overlap=true",
            "data.num_workers=0",
            "data.batch_seconds=6",
            "logger=csv",
            "evaluation.guard_tolerance=null",
            "adaptation.freeze_batch_norm=false",
            *more,
        ],
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.fixture(scope="module")
def run(tiny_nemo, speech, tmp_path_factory):
    """A model that learns "the" and "pack my" by heart: its directory and what was printed."""
    folder = tmp_path_factory.mktemp("terms")
    done = command(
        folder,
        tiny_nemo("ctc"),
        speech(count=2),
        "evaluation.terms=[pack my,the,zebra]",
        "evaluation.terms_weight=0.4",
        "budget.steps=120",
        "optim.lr=4e-3",
        "evaluation.validations=2",
        "evaluation.interpolation=[0.5]",
    )
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "finetune" / "latest", done.stdout


def test_the_report_has_the_figures_of_the_terms(run):
    folder, _ = run
    report = json.loads((folder / "report.json").read_text())
    found = report["terms"]
    assert found["before"]["occurrences"] == 2 and found["after"]["error_rate"] == 0
    heard = [row["before"] for row in report["utterances"]]
    missed = 2 - sum(term in text.split(" and ") for text in heard for term in ("the", "pack my"))
    assert found["before"]["missed"] == missed == 2
    assert {row["term"] for row in found["rows"]} == {"pack my", "the"}
    assert report["history"][0]["val_ker"] == 1 and report["candidates"][0]["val_ker"] == 0
    page, markdown = ((folder / name).read_text() for name in ("report.html", "report.md"))
    assert "Terms of the domain" in page and "keyword error rate (missed)" in page
    assert "| keyword error rate (missed) | 100.0 % | 0.0 % | -100.0 |" in markdown
    assert "40 % of it the gain on terms" in report["selection"]


def test_every_validation_tells_and_logs_the_keyword_error_rate(run):
    folder, printed = run
    told = [line for line in printed.splitlines() if line.strip().startswith("terms missed")]
    assert len(told) == 2 and max(map(len, told)) <= 80
    with (folder / "metrics.csv").open() as file:
        logged = [row["val_ker"] for row in csv.DictReader(file) if row.get("val_ker")]
    assert [
        f"terms missed {100 * float(rate):.1f} %" in line
        for rate, line in zip(logged, told, strict=True)
    ] == [True, True]
    assert "terms missed 100.0 -> 0.0 %" in printed.splitlines()[-1]


def test_run_json_holds_the_terms_and_their_weight(run):
    effective = json.loads((run[0] / "run.json").read_text())["effective"]
    assert effective["terms"] == {
        "origin": "given",
        "weight": 0.4,
        "occurrences": 2,
        "terms": {"pack my": 1, "the": 1, "zebra": 0},
    }
    assert "1 do not occur there: zebra" in run[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.terms=missing.txt"], "cannot be read"),
        (["evaluation.terms=['-']"], "no letter and no digit"),
        (["evaluation.terms=[zebra]", "evaluation.terms_weight=0.5"], "would weigh nothing"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_sentence(overrides, message, tiny_nemo, speech, tmp_path):
    done = command(tmp_path, tiny_nemo("ctc"), speech(count=2), *overrides)
    assert done.returncode == 2 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1 and message in errors[0] and errors[0].startswith("error: ")
    assert list(tmp_path.iterdir()) == []
