"""A training step asks the device for nothing; what it found is read a batch later."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from parakeet_ft.batches.loaders import train_loader
from parakeet_ft.batches.plan import Plan
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.run.console import Narrator
from parakeet_ft.training import adaptation, callbacks, distillation, fine_tuner
from parakeet_ft.training.bad_batches import BadBatches
from parakeet_ft.training.optim import settings as optim_settings
from parakeet_ft.training.verdicts import Fetched, Verdicts

ROOT = Path(__file__).resolve().parents[2]
STEPS = 5
CPU = {
    "accelerator": "cpu",
    "device": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "none",
    "tf32": False,
    "activation_checkpointing": False,
}


@pytest.fixture
def waits(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _waits

    return _waits.Waits


@pytest.fixture
def fit(tiny_model, speech, tmp_path):
    """fit(family, precision=..., overrides=..., beside=...): some steps with all that looks on,
    logged at each; returns the tuner and the logged rows.
    """

    def run(family, precision="32-true", overrides=(), beside=()):
        torch.manual_seed(1)
        model = tiny_model(family)
        utterances = read_manifest(speech(count=8))
        config = composition.compose("finetune", ["optim.lr=1e-3", *overrides])
        learning = config["adaptation"] | {"freeze_batch_norm": False}
        teacher = distillation.build_teacher(model, **config["distillation"])
        adaptation.set_learning(model, num_new_pieces=0, **learning)
        if teacher:
            teacher.follow(model)
        fine_tuner.use_loss_for(model, device="cpu", precision=precision)
        plan = Plan(utterances, num_domain=8, batch_seconds=3, seed=1)
        tuner = fine_tuner.FineTuner(
            model,
            settings=optim_settings(
                model, hours_per_pass=1, num_new_pieces=0, num_steps=STEPS, **config["optim"]
            ),
            sets={},
            base={},
            batch_seconds=1,
            teacher=teacher,
            bad_batches=BadBatches(tmp_path / "bad.jsonl", plan, most=9, say=lambda lines: None),
            precision=precision,
        )
        tuner.on_validation_epoch_end = lambda: None
        said = Narrator(open(tmp_path / "said.txt", "w"))  # noqa: SIM115
        logger = pl.loggers.CSVLogger(tmp_path, name="", version="")
        fine_tuner.fit(
            tuner,
            train_loader(plan, model, num_batches=STEPS, num_workers=0),
            num_steps=STEPS,
            validations=1,
            gradient_clip=1.0,
            accumulate=1,
            devices=CPU | {"precision": precision},
            callbacks=[
                callbacks.LossParts(said, lambda **given: None),
                callbacks.ProgressBar(said, num_steps=STEPS),
                callbacks.MovingAverage(decay=0.9),
                *beside,
            ],
            loggers=[logger],
            resume_from=None,
        )
        with (tmp_path / "metrics.csv").open() as file:
            return tuner, [row for row in csv.DictReader(file) if row["train_loss"]]

    return run


@pytest.mark.parametrize(
    ("family", "precision", "overrides"),
    [
        ("ctc", "32-true", []),
        ("ctc", "bf16-true", []),
        ("ctc", "32-true", ["optim.states=8bit"]),
        ("tdt", "32-true", []),
        ("hybrid", "bf16-mixed", ["distillation.weight=1"]),
    ],
)
def test_a_step_asks_the_device_for_nothing_but_what_the_last_one_found(
    family, precision, overrides, fit, waits
):
    with waits() as counted:
        _, rows = fit(family, precision, overrides)
    read = {key: times for key, times in counted.found.items() if key[1] == "verdicts.py:read"}
    # On a CPU the transducer's loss reads lengths, which are beside it, and no GPU's.
    others = {
        key: times
        for key, times in counted.found.items()
        if key not in read and not key[1].startswith(("joint_loss.py", "transducer_loss.py"))
    }
    assert others == {} and sum(read.values()) == STEPS - 1 and len(rows) == STEPS


def test_a_callback_that_asks_is_found_out(fit, waits):
    class Asking(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            float(outputs["loss"])

    with waits() as counted:
        fit("ctc", beside=[Asking()])
    found = {key: n for key, n in counted.found.items() if key[1] != "verdicts.py:read"}
    assert found == {
        ("aten._local_scalar_dense.default", "test_verdicts.py:on_train_batch_end"): STEPS
    }


def test_losses_are_logged_at_their_own_steps_though_they_are_read_a_step_later(fit):
    _, rows = fit("ctc")
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    assert len({row["train_loss"] for row in rows}) == STEPS


def test_what_is_fetched_is_what_the_tensor_was_then():
    tensor = torch.tensor([1.0, 2.0])
    fetched = Fetched(tensor)
    tensor.zero_()
    assert fetched.read() == [1.0, 2.0]


def judged(losses, *, accumulate=1, norms=None):
    """Verdicts that were given the batches' losses; what a listener heard."""
    verdicts, heard = Verdicts(None), []
    verdicts.listeners.append(heard.append)
    for position, loss in enumerate(losses):
        verdicts.judge({"loss": torch.tensor(loss)}, samples=torch.tensor(8))
        ends = (position + 1) % accumulate == 0
        if ends:
            verdicts.judge_gradient(torch.tensor((norms or {}).get(position, 1.0)))
        verdicts.end_batch(
            step=position // accumulate, position=position, utterances=2, ends_step=ends
        )
    return verdicts, heard


def test_each_batch_is_heard_of_once_when_the_next_one_has_begun():
    verdicts, heard = judged([3.0, 2.0, 1.0])
    assert [known.losses["loss"] for known in heard] == [3.0, 2.0]
    verdicts.flush()
    verdicts.flush()
    assert [known.losses["loss"] for known in heard] == [3.0, 2.0, 1.0]
    assert {known.samples for known in heard} == {8} and not any(known.lost for known in heard)


def test_without_a_list_of_bad_batches_the_first_ends_the_run_one_batch_later():
    with pytest.raises(UserError, match="At step 1 the loss is not finite.*batch of 2"):
        judged([1.0, float("nan"), 1.0])
    with pytest.raises(UserError, match="At step 0 the gradient is not finite"):
        judged([1.0, 1.0], norms={0: float("inf")})
    verdicts, _ = judged([1.0, float("inf")])
    with pytest.raises(UserError, match="At step 1 the loss is not finite"):
        verdicts.flush()
    verdicts.flush()  # told once


def test_the_flag_is_that_of_the_whole_step_and_is_forgotten_after_it():
    verdicts = Verdicts(None)
    for loss in (float("nan"), 1.0):
        verdicts.judge({"loss": torch.tensor(loss)}, samples=torch.tensor(8))
    assert verdicts.lost.item() is True
    verdicts.end_batch(step=0, position=1, utterances=1, ends_step=True)
    assert verdicts.lost is None
