"""A run whose audio goes away ends in words and workers, and goes on when the audio is back."""

import shutil
import time

import pytest

from parakeet_ft.data.manifest import read_manifest, write_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from tests.faults import signals
from tests.faults.signals import ROOT, living, start, wait_for


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_whose_shards_go_away_ends_in_words_and_continues_when_they_are_back(
    devices, tmp_path, monkeypatch
):
    write_manifest(read_manifest(ROOT / "parakeet_ft/demo/train.jsonl"), tmp_path / "m.jsonl")
    write_shards(tmp_path / "m.jsonl", out=tmp_path / "shards", executor=InlineExecutor)
    mine = [
        f"data.train={tmp_path / 'shards'}",
        f"data.validation={ROOT / 'parakeet_ft/demo/dev.jsonl'}",
        "data.batch_seconds=12",
        "budget.steps=30",
        "evaluation.validations=1",
        "checkpoint.every_steps=2",
        "trainer.accelerator=cpu",
        f"trainer.devices={devices}",
    ]
    monkeypatch.setattr(signals, "SETTINGS", [*signals.SETTINGS, *mine])
    run = start(tmp_path)
    wait_for(run, tmp_path, "step 9/")
    (tar,) = (tmp_path / "shards").glob("*.tar")
    shutil.move(tar, tmp_path / "away.tar")
    code = run.wait(timeout=120)
    text = (tmp_path / "out").read_text()
    assert code == 2 and "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert str(tar) in line and "The same command continues" in line
    time.sleep(6)  # until workers whose rank was ended look for it
    assert living(run.pid) == []
    shutil.move(tmp_path / "away.tar", tar)
    again = start(tmp_path)
    assert again.wait(timeout=600) == 0, (tmp_path / "out").read_text()
    assert "continuing from resume-step=" in (tmp_path / "out").read_text()
