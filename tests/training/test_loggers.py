"""Loggers by name: MLflow gets its place and its tags, W&B goes offline in one line, an unknown
name is refused.
"""

import socket

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
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(theirs, "WandbLogger", Recorder)
    [logger] = build(tmp_path, "wandb")
    assert logger.given["offline"] and capsys.readouterr().out.count("no API key") == 1


def with_a_key(monkeypatch, **environment):
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "WANDB_BASE_URL", "WANDB_MODE")
    for name in proxies:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(theirs, "WandbLogger", Recorder)
    for name, value in ({"WANDB_API_KEY": "k"} | environment).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_wandb_behind_a_proxy_is_online(name, tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        with_a_key(monkeypatch, **{name: f"http://127.0.0.1:{proxy.getsockname()[1]}"})
        [logger] = build(tmp_path, "wandb")
    assert not logger.given["offline"] and capsys.readouterr().out == ""


def test_wandb_behind_a_proxy_that_is_gone_is_offline_and_names_it(tmp_path, monkeypatch, capsys):
    with_a_key(monkeypatch, HTTPS_PROXY="http://127.0.0.1:9")
    [logger] = build(tmp_path, "wandb")
    assert logger.given["offline"] and "W&B: 127.0.0.1 cannot be reached" in capsys.readouterr().out


def test_an_own_server_of_wandb_is_the_one_that_is_asked(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with_a_key(monkeypatch, WANDB_BASE_URL=address)
        [logger] = build(tmp_path, "wandb")
    assert not logger.given["offline"]


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected csv, tensorboard, wandb or mlflow"):
        build(tmp_path, "neptune")
