"""The commands of docs/tutorial.md, one after the other, with fewer recordings and steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_ft.data.manifest import read_manifest, write_manifest
from parakeet_ft.files import DEMO

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```(python|bash)\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.M | re.S
)
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    if line
]


def run(command, folder):
    """Run a command of the page as it stands, with this Python."""
    words = [sys.executable, *shlex.split(command)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader stands after the first two sections: every eighth recording, and manifests."""
    here = tmp_path_factory.mktemp("clone")
    for name in ("recipes", "data_prep", "parakeet_ft", "conf"):
        (here / name).symlink_to(ROOT / name)
    ((_, code),) = [block for block in BLOCKS if block[0] == "python"]
    fewer = code.replace("lines.splitlines()", "lines.splitlines()[::8]")
    assert fewer != code
    (here / "recordings.py").write_text(fewer)
    run("python recordings.py", here)
    run(COMMANDS[0], here)
    return here


def test_the_tutorial_shows_data_smoke_test_run_and_use():
    scripts = [shlex.split(command)[1] for command in COMMANDS]
    recipes = ["finetune", "finetune", "transcribe", "export"]
    assert scripts == ["data_prep/from_table.py", *(f"recipes/{name}.py" for name in recipes)]


def test_a_folder_of_recordings_becomes_manifests_without_a_speaker_in_two(folder):
    sets = [read_manifest(folder / f"data/mine/{name}.jsonl") for name in ("train", "dev", "test")]
    assert sum(map(len, sets)) == len(list((folder / "recordings").glob("*.opus"))) == 41
    speakers = [{row.speaker for row in rows} for rows in sets]
    assert all(speakers) and sum(map(len, speakers)) == len(set.union(*speakers))


@pytest.mark.long
def test_the_recordings_become_a_tuned_model_that_is_used(folder):
    smoke, training, *use = COMMANDS[1:]
    assert "SMOKE TEST PASSED" in run(smoke, folder)
    for name in ("guard", "guard_dev", "replay"):
        write_manifest(read_manifest(DEMO / f"{name}.jsonl")[:8], folder / f"{name}.jsonl")
    short = training.replace("bundled:", "").replace("budget.epochs=3", "budget.steps=3")
    printed = run(short, folder)
    assert re.search(r"^domain WER .* \| guard .*\]$", printed.splitlines()[-1])
    report = json.loads((folder / "outputs/mine/latest/report.json").read_text())
    assert report["steps"] == 3
    for command in use:
        run(command, folder)
    texts = sorted(path.stem for path in (folder / "transcripts").glob("*.txt"))
    assert texts == sorted(path.stem for path in (folder / "recordings").glob("*.opus"))
    assert list((folder / "exported").rglob("*.onnx"))
