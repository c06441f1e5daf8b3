"""A run that was stopped ends as the one that was not; what the disk refuses or damages costs
nothing but time.
"""

import csv
import os
import shutil
import signal
import subprocess

import pytest
import torch

from parakeet_ft.errors import Stopped, UserError
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.training import checkpoints, random_states
from recipes.finetune import finetune


@pytest.fixture(scope="module")
def config(tiny_nemo, speech):
    manifest = speech(count=8)
    return composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={tiny_nemo('ctc')}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.allow_overlap=true",
                f"data.guard_validation={manifest}",
                "data.num_workers=0",
                "data.batch_seconds=6",
                "logger=csv",
                "evaluation.validations=3",
                "optim.lr=1e-3",
                "optim.accumulate=2",
                "budget.steps=9",
                "checkpoint.every_steps=2",
                "evaluation.average_last=2",
                "evaluation.ema_decay=0.5",
                "evaluation.interpolation=[0.5]",
            ]
        ),
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The run that is never stopped."""
    run_dir = tmp_path_factory.mktemp("outputs") / "e" / "whole"
    return run_dir, finetune(read_finetune(config), run_dir=run_dir, command=["x"])


def weights(run_dir):
    return checkpoints.read(checkpoints.find(run_dir / "checkpoints", "resume")[-1])["state_dict"]


def moving_average(run_dir):
    return checkpoints.read(checkpoints.find(run_dir / "checkpoints", "resume")[-1])["callbacks"][
        "MovingAverage"
    ]["average"]


def rows(run_dir):
    """By step: a loss is logged when the host hears of it, which is earlier before a checkpoint."""
    with (run_dir / "metrics.csv").open() as file:
        found = [(row["step"], row["train_loss"], row["val_wer"]) for row in csv.DictReader(file)]
    return sorted(found, key=lambda row: (int(row[0]), row[1:]))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def stop_at(monkeypatch, batches, number=signal.SIGUSR1):
    """Send this process a signal as that many batches have been trained."""
    from parakeet_ft.training import fine_tuner

    original = fine_tuner.FineTuner.training_step

    def step(self, batch, batch_index):
        if batch_index == batches:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_index)

    monkeypatch.setattr(fine_tuner.FineTuner, "training_step", step)


@pytest.mark.parametrize("batches", [1, 6, 11, 16])
def test_a_run_stopped_by_a_signal_continues_to_the_same_weights_losses_and_report(
    whole, config, tmp_path, monkeypatch, batches
):
    run_dir = tmp_path / "e" / "r"
    with monkeypatch.context() as patch:
        number = {6: signal.SIGTERM, 11: signal.SIGHUP}.get(batches, signal.SIGUSR1)
        stop_at(patch, batches, number)
        with pytest.raises(Stopped, match="The same command continues"):
            finetune(read_finetune(config), run_dir=run_dir, command=["x"])
    assert not (run_dir / "report.json").exists()
    report = finetune(read_finetune(config), run_dir=run_dir, command=["x"])
    assert equal(weights(run_dir), weights(whole[0]))
    assert rows(run_dir) == rows(whole[0])
    assert report["history"] == whole[1]["history"] and report["tuned"] == whole[1]["tuned"]
    assert report["candidates"] == whole[1]["candidates"] and {
        "moving average",
        "mean of the last validations",
    } <= {row["weights"] for row in report["candidates"]}
    assert equal(moving_average(run_dir), moving_average(whole[0]))
    assert not torch.equal(
        moving_average(run_dir)["decoder.decoder_layers.0.weight"],
        weights(run_dir)["model.decoder.decoder_layers.0.weight"],
    )
    assert (run_dir / "hypotheses.jsonl").read_text() == (whole[0] / "hypotheses.jsonl").read_text()


def test_a_run_killed_between_saves_repeats_the_steps_since(whole, config, tmp_path, monkeypatch):
    from parakeet_ft.training import fine_tuner

    original = fine_tuner.FineTuner.training_step
    with monkeypatch.context() as patch:
        patch.setattr(
            fine_tuner.FineTuner,
            "training_step",
            lambda self, batch, index: 1 / 0 if index == 11 else original(self, batch, index),
        )
        with pytest.raises(ZeroDivisionError):
            finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert checkpoints.step_of(checkpoints.newest(tmp_path / "e" / "r" / "checkpoints")[0]) == 4
    finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert equal(weights(tmp_path / "e" / "r"), weights(whole[0])) and rows(
        tmp_path / "e" / "r"
    ) == rows(whole[0])


def test_a_run_killed_after_training_does_not_train_again(whole, config, tmp_path, monkeypatch):
    from parakeet_ft.training import fine_tuner

    run_dir = tmp_path / "e" / "r"
    shutil.copytree(whole[0], run_dir)
    for name in ("best.nemo", "report.json"):
        (run_dir / name).unlink()
    monkeypatch.setattr(fine_tuner.FineTuner, "training_step", lambda *_: 1 / 0)
    report = finetune(read_finetune(config), run_dir=run_dir, command=["x"])
    assert report["tuned"] == whole[1]["tuned"] and report["history"] == whole[1]["history"]


def test_another_number_of_ranks_is_refused_in_words(whole, config, tmp_path):
    run_dir = tmp_path / "e" / "r"
    shutil.copytree(whole[0], run_dir)
    for path in checkpoints.find(run_dir / "checkpoints", "resume"):
        content = checkpoints.read(path)
        checkpoints.write(content | {"random_states": 2 * content["random_states"]}, path)
    with pytest.raises(UserError, match=r"saved by 2 rank\(s\), and 1 continue it"):
        finetune(read_finetune(config), run_dir=run_dir, command=["x"])


def test_a_truncated_checkpoint_is_passed_over_with_a_line(whole, config, tmp_path):
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "c")
    newest = checkpoints.find(tmp_path / "c", "resume")[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    found, lines = checkpoints.newest(tmp_path / "c")
    assert checkpoints.step_of(found) < checkpoints.step_of(newest)
    assert lines == [
        f"{newest.name} is damaged (it does not read back as written) and is passed over"
    ]


def test_one_flipped_byte_is_seen(whole, tmp_path):
    path = tmp_path / "x.ckpt"
    content = bytearray(checkpoints.find(whole[0] / "checkpoints", "resume")[-1].read_bytes())
    assert path.write_bytes(content) and checkpoints.is_whole(path)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not checkpoints.is_whole(path)


def test_a_checkpoint_of_another_model_is_refused_by_name(whole, tiny_model):
    path = checkpoints.find(whole[0] / "checkpoints", "resume")[-1]
    with pytest.raises(UserError, match=r"checkpoint of another model: .* expected"):
        checkpoints.check_same_model(path, tiny_model("rnnt"))


def test_checkpoints_hold_no_code(whole):
    for path in (whole[0] / "checkpoints").iterdir():
        assert torch.load(path, weights_only=True, map_location="cpu")["state_dict"]


def test_what_nothing_needs_is_deleted(whole):
    run_dir, report = whole
    steps = {
        checkpoints.step_of(path) for path in checkpoints.find(run_dir / "checkpoints", "weights")
    }
    assert steps == {6, 9, checkpoints.best_step(report["history"][1:])}
    assert len(checkpoints.find(run_dir / "checkpoints", "resume")) == 2


def test_the_best_is_the_first_of_equals():
    assert (
        checkpoints.best_step(
            [
                {"step": 2, "selection_score": 0.1},
                {"step": 4, "selection_score": 0.3},
                {"step": 6, "selection_score": 0.3},
            ]
        )
        == 4
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root")
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True)
    try:
        checkpoints.write(
            {"state_dict": {"x": torch.zeros(200_000)}}, small / "resume-step=000001.ckpt"
        )
        with pytest.raises(
            UserError,
            match=r"resume-step=000002.ckpt cannot be saved: .* Kept: resume-step=000001.ckpt",
        ):
            checkpoints.write(
                {"state_dict": {"x": torch.zeros(600_000)}}, small / "resume-step=000002.ckpt"
            )
        assert [p.name for p in small.iterdir()] == ["resume-step=000001.ckpt"]
        assert checkpoints.is_whole(small / "resume-step=000001.ckpt")
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(("kept", "current", "used"), [(8, 0, 0), (8, 3, 3), (1, 0, 0), (1, 2, 0)])
def test_a_run_continues_where_fewer_gpus_are_visible(kept, current, used, monkeypatch):
    states = random_states.random_states()
    states["cuda"] = [torch.full((4,), index, dtype=torch.uint8) for index in range(kept)]
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)
    random_states.restore_random_states(states)
    assert [int(state[0]) for state in given] == [used]
