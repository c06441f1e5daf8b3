"""Loggers by name: MLflow gets its place and its tags, W&B goes offline in one line, an unknown
name is refused.
"""

import pytest
from lightning.pytorch import loggers as theirs

from parakeet_ft.errors import UserError
from parakeet_ft.training import loggers


def build(tmp_path, *names):
    return loggers.build(
        list(names), run_dir=tmp_path / "run", project="speech", experiment="demo", resume_step=0
    )


class Recorder:
    def __init__(self, **given):
        self.given = given


def test_mlflow_logs_into_the_run_under_the_projects_name(tmp_path, monkeypatch):
    monkeypatch.setattr(theirs, "MLFlowLogger", Recorder)
    [logger] = build(tmp_path, "mlflow")
    assert logger.given == {
        "experiment_name": "speech",
        "run_name": "demo",
        "save_dir": str(tmp_path / "run" / "mlruns"),
        "tags": {"run_dir": str(tmp_path / "run")},
    }


def test_lightnings_mlflow_logger_takes_these_arguments():
    import inspect

    assert {"experiment_name", "run_name", "save_dir", "tags"} <= set(
        inspect.signature(theirs.MLFlowLogger.__init__).parameters
    )


def test_wandb_without_a_key_is_offline_and_says_so(tmp_path, monkeypatch, capsys):
    import socket

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(theirs, "WandbLogger", Recorder)
    monkeypatch.setattr(socket, "create_connection", lambda *given, **more: socket.socket())
    [logger] = build(tmp_path, "wandb")
    assert logger.given["offline"] and capsys.readouterr().out.count("no API key") == 1


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected csv, tensorboard, wandb or mlflow"):
        build(tmp_path, "neptune")
