"""The script for a GPU runs on a CPU in every step, so that no slip wastes a GPU's time."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import on_gpu

    return on_gpu


@pytest.mark.parametrize(
    "name",
    [
        "machine",
        "loss",
        "graphs",
        "waits",
        "lean",
        "steps",
        "loss_speed",
        "out_of_memory",
        "scoring",
        "feeding",
    ],
)
def test_every_step_runs_on_a_cpu_in_small(name, script):
    function, seconds = script.STEPS[name]
    found = function("cpu", True)
    assert found and json.dumps(found) and seconds > 0
    if name == "loss":
        assert all(value < 1e-6 for case in found.values() for value in case.values())
    if name == "graphs":
        assert len(found) == 6 and set(found.values()) == {1.0}


def test_all_steps_fit_into_nine_minutes_in_order_of_value(script):
    assert list(script.STEPS)[:4] == ["machine", "loss", "graphs", "run"]
    assert set(script.STEPS) >= {"loss_speed", "steps", "out_of_memory", "scoring", "feeding"}


def test_without_a_gpu_it_says_so_and_is_no_failure(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_gpu.py"])
    monkeypatch.setattr(script, "has_gpu", lambda: False)
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert "No GPU here" in lines[0] and json.loads(lines[-1]) == {"gpu": False, "steps": 0}


def test_a_step_that_fails_or_hangs_is_a_line_like_the_others(script, monkeypatch):
    import argparse
    import subprocess

    args = argparse.Namespace(device="cpu", small=True)

    def hang(command, **more):
        raise subprocess.TimeoutExpired(command, more["timeout"])

    monkeypatch.setattr(script.subprocess, "run", hang)
    assert script.run_step("loss", args, 7) == {
        "step": "loss",
        "ok": False,
        "error": "not done after 7 s",
    }
