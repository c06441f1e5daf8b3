"""Training goes on while the disk works; what the disk does late, or refuses, costs no step that
was promised.
"""

import dataclasses
import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from parakeet_ft import stages
from parakeet_ft.errors import Stopped, UserError
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.training import checkpoints, saving
from recipes.finetune import finetune


@pytest.fixture(scope="module")
def settings(tiny_nemo, speech):
    manifest = speech(count=6)
    given = [
        f"model={tiny_nemo('ctc')}",
        f"data.train={manifest}",
        f"data.validation={manifest}",
        "data.allow_overlap=true",
        f"data.guard_validation={manifest}",
        "data.num_workers=0",
        "data.batch_seconds=6",
        "logger=csv",
        "evaluation.validations=1",
        "evaluation.interpolation=[]",
        "optim.lr=1e-3",
        "budget.steps=5",
        "checkpoint.every_steps=2",
        "checkpoint.keep=1",
    ]
    return read_finetune(composition.compose("finetune", composition.expand_shorthand(given)))


def run(settings, run_dir, *callbacks):
    return finetune(settings, run_dir=run_dir, command=["x"], callbacks=callbacks)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("outputs") / "e" / "whole"
    run(settings, run_dir)
    return run_dir


def last_weights(run_dir):
    return checkpoints.read(checkpoints.find(run_dir / "checkpoints", "resume")[-1])["state_dict"]


def same_weights(one, other):
    one, other = last_weights(one), last_weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def on_write(monkeypatch, before):
    """Have `before(name of the file)` called before each block of a checkpoint is written."""
    write = saving.CountedFile.write_block

    def write_block(self, block):
        before(Path(self.name).name.split(".")[1])
        return write(self, block)

    monkeypatch.setattr(saving.CountedFile, "write_block", write_block)


class AtBatch(pl.Callback):
    """Calls function() as batch `number` begins."""

    def __init__(self, number, function):
        self.number, self.function = number, function

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if batch_index == self.number:
            self.function()


def test_steps_are_made_while_a_checkpoint_is_written(settings, whole, tmp_path, monkeypatch):
    next_step = threading.Event()

    def wait_for_training(name):
        if name == "resume-step=000002":
            assert next_step.wait(60), "training stood still"

    on_write(monkeypatch, wait_for_training)
    run(settings, tmp_path / "e" / "r", AtBatch(3, next_step.set))
    assert same_weights(tmp_path / "e" / "r", whole)


def test_the_older_checkpoint_is_there_until_the_next_is_whole(settings, tmp_path, monkeypatch):
    folder, seen = tmp_path / "e" / "r" / "checkpoints", {}

    def note(name):
        seen[name] = [path.name for path in checkpoints.find(folder, "resume")]

    on_write(monkeypatch, note)
    run(settings, tmp_path / "e" / "r")
    assert seen["resume-step=000004"] == ["resume-step=000002.ckpt"]
    assert seen["resume-step=000005"] == ["resume-step=000004.ckpt"]
    assert [checkpoints.step_of(path) for path in checkpoints.find(folder, "resume")] == [5]


def test_what_the_disk_refuses_ends_the_run_at_the_next_step(settings, tmp_path, monkeypatch):
    def refuse(name):
        if name == "resume-step=000004":
            raise OSError(errno.ENOSPC, "No space left on device")

    on_write(monkeypatch, refuse)
    words = r"000004.ckpt cannot be saved: .*No space left.* Kept: resume-step=000002.ckpt"
    with pytest.raises(UserError, match=words):
        run(settings, tmp_path / "e" / "r")
    left = [path.name for path in (tmp_path / "e" / "r" / "checkpoints").iterdir()]
    assert sorted(left) == ["base.ckpt", "resume-step=000002.ckpt"]


def test_a_run_that_is_stopped_says_so_when_its_file_is_whole(
    settings, whole, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        on_write(patch, lambda name: time.sleep(0.005))
        with pytest.raises(Stopped, match="SIGTERM: saved at step 3 of 5"):
            run(
                settings,
                tmp_path / "e" / "r",
                AtBatch(3, lambda: os.kill(os.getpid(), signal.SIGTERM)),
            )
    found, damaged = checkpoints.newest(tmp_path / "e" / "r" / "checkpoints")
    assert (checkpoints.step_of(found), damaged) == (3, [])
    run(settings, tmp_path / "e" / "r")
    assert same_weights(tmp_path / "e" / "r", whole)


def test_without_room_for_a_copy_training_waits_and_ends_the_same(
    settings, whole, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(saving, "fits_beside", lambda size: False)
    monkeypatch.setattr(saving, "host_copy", lambda *_, **__: 1 / 0)
    run(settings, tmp_path / "e" / "r")
    assert same_weights(tmp_path / "e" / "r", whole)
    assert capfd.readouterr().out.count("no room in memory for a copy") == 1


def test_a_run_that_continues_lets_go_of_the_file_it_came_from(settings, tmp_path):
    run_dir, mapped = tmp_path / "e" / "r", []
    with pytest.raises(Stopped):
        run(settings, run_dir, AtBatch(2, lambda: os.kill(os.getpid(), signal.SIGUSR1)))
    run(settings, run_dir, AtBatch(3, lambda: mapped.append(Path("/proc/self/maps").read_text())))
    assert "base.ckpt" in mapped[0] and "resume-step" not in mapped[0]


def test_moments_in_8_bits_continue_to_the_same_weights(settings, tmp_path):
    optim = dataclasses.replace(settings.optim, states="8bit")
    lean = dataclasses.replace(settings, optim=optim)
    run(lean, tmp_path / "e" / "whole")
    with pytest.raises(Stopped):
        run(lean, tmp_path / "e" / "r", AtBatch(3, lambda: os.kill(os.getpid(), signal.SIGUSR1)))
    run(lean, tmp_path / "e" / "r")
    assert same_weights(tmp_path / "e" / "r", tmp_path / "e" / "whole")


def test_after_training_neither_moments_nor_gradients_are_held(settings, tmp_path, monkeypatch):
    found, fit = [], stages.fit
    monkeypatch.setattr(stages, "fit", lambda *given: found.append(fit(*given)) or found[0])
    run(settings, tmp_path / "e" / "r")
    (fitted,) = found
    assert not fitted.tuner.optimizer.state
    assert all(weight.grad is None for weight in fitted.tuner.whole.parameters())
    assert not (tmp_path / "e" / "r" / "checkpoints" / "base.ckpt").exists()


def test_the_record_tells_what_saving_cost(whole):
    facts = json.loads((whole / "run.json").read_text())["effective"]["checkpoints"]
    assert facts["saves"] == 3 and facts["without_copy"] == 0
    assert facts["seconds_standing_still"] > 0 and facts["gb"] > 0
