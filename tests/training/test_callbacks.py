"""What happens at validations: words in the history, an early stop, samples on disk, and a moving
average that survives a resume.
"""

import dataclasses
import io
import json
import types

import pytest
import torch

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.run.console import Narrator
from parakeet_ft.scoring import wer
from parakeet_ft.training import callbacks
from parakeet_ft.training.verdicts import Known, Verdicts

MAY = {"tolerances": {"guard": 0.02}}


def score(rate):
    return dataclasses.replace(wer.score(["a"], ["a"]), wer=rate)


def point(step, *, wer=0.3, guard=0.2, length=1.0):
    return {
        "step": step,
        "val_wer": wer,
        "guard_wer": guard,
        "val_blank_ratio": 0.5,
        "val_length_ratio": length,
        "val_unk_ratio": 0.0,
    }


def narrator():
    return Narrator(io.StringIO())


def fake_trainer(step=0, rank=0):
    return types.SimpleNamespace(
        global_step=step, max_steps=100, should_stop=False, is_global_zero=rank == 0, loggers=[]
    )


def validate(watcher, points, *, rank=0):
    """Feed points one by one as training does; returns the trainer and the module."""
    module = types.SimpleNamespace(
        history=[],
        base={"validation": score(0.5), "guard_validation": score(0.2)},
    )
    trainer = fake_trainer(rank=rank)
    for found in points:
        if not trainer.should_stop:
            module.history.append(dict(found))
            trainer.global_step = found["step"]
            watcher.on_validation_end(trainer, module)
    return trainer, module


def test_a_streak_is_told_once_in_history_and_on_the_console_and_stops_at_the_patience():
    say = narrator()
    watcher = callbacks.Watch(say, alarm_after=2, patience=3, settling=False, **MAY)
    trainer, module = validate(
        watcher, [point(10, guard=0.3), point(20, guard=0.3), point(30, guard=0.3), point(40)]
    )
    assert [p["step"] for p in module.history] == [10, 20, 30] and trainer.should_stop
    assert [len(p["remarks"]) for p in module.history] == [0, 1, 1] and [
        p["stopped"] for p in module.history
    ] == [False, False, True]
    assert (
        say.console.file.getvalue().count("guard WER is above") == 1
        and "optim.lr" in say.console.file.getvalue()
        and "stopped early: guard" in say.console.file.getvalue()
    )


def test_without_patience_nothing_stops_and_other_ranks_decide_alike_but_are_quiet():
    points = [point(step, wer=0.9) for step in range(10, 60, 10)]
    assert not validate(
        callbacks.Watch(narrator(), alarm_after=2, patience=None, settling=False, **MAY), points
    )[0].should_stop
    say = narrator()
    watcher = callbacks.Watch(say, alarm_after=1, patience=2, settling=False, **MAY)
    trainer, module = validate(watcher, points, rank=1)
    assert trainer.should_stop and len(module.history) == 2 and say.console.file.getvalue() == ""


def test_silence_of_a_fresh_vocabulary_is_told_as_a_phase_and_then_as_collapse():
    watcher = callbacks.Watch(narrator(), alarm_after=2, patience=2, settling=True, **MAY)
    trainer, module = validate(
        watcher, [point(step, wer=1.0, length=0.0) for step in (10, 20, 30, 40)]
    )
    assert [p["phase"] for p in module.history] == [
        "expected",
        "expected",
        "expected",
        "collapse",
    ] and not trainer.should_stop
    assert (
        "COLLAPSE" in module.history[-1]["remarks"][0]
        and "expected at this phase" in module.history[0]["remarks"][0]
    )


def test_a_run_that_continues_after_an_early_stop_stays_stopped_and_is_not_judged_twice():
    watcher = callbacks.Watch(narrator(), alarm_after=1, patience=1, settling=False, **MAY)
    _, module = validate(watcher, [point(10, wer=0.9)])
    trainer, before = fake_trainer(10), json.dumps(module.history)
    watcher.on_validation_end(trainer, module)
    watcher.on_train_start(trainer, module)
    assert trainer.should_stop and json.dumps(module.history) == before


def test_hypotheses_of_the_same_few_utterances_stand_beside_their_references(tmp_path):
    utterances = [Utterance(f"{i}.wav", 1.0, f"text {i}", offset=float(i)) for i in range(50)]
    written = tmp_path / "hypotheses.jsonl"

    def train(steps, *, start, state=None):
        watcher = callbacks.Hypotheses(written, utterances, before=["before"] * 50)
        if state:
            watcher.load_state_dict(state)
        watcher.on_train_start(fake_trainer(start), None)
        for step in steps:
            watcher.on_validation_end(
                fake_trainer(step),
                types.SimpleNamespace(hypotheses={"validation": [f"step {step}"] * 50}),
            )
        return watcher.state_dict()

    at_10 = train([5, 10], start=0)
    train([5, 10, 15], start=0)
    written.write_text("altered")  # nothing is read from it
    # Killed after the checkpoint of step 10, and continued: step 10 is validated again.
    train([10, 15], start=10, state=at_10)
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["step"] for row in rows] == [step for step in (0, 5, 10, 15) for _ in range(8)]
    assert (
        len({row["id"] for row in rows}) == 8
        and rows[0]["id"] == "0.wav"
        and rows[1]["id"] == "7.wav@7"
    )
    assert (
        rows[1]["reference"] == "text 7"
        and rows[-1]["hypothesis"] == "step 15"
        and rows[0]["hypothesis"] == "before"
    )


def test_hypotheses_reach_tensorboard_as_text(tmp_path):
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    for each in (logger, CSVLogger(tmp_path / "csv")):
        callbacks.log_texts(
            each, [{"id": "a", "reference": "one | two", "hypothesis": "one"}], step=3
        )
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    text = events.Tensors("hypotheses/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| a | one / two | one |" in text


def test_hypotheses_reach_wandb_as_a_table(monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    calls = []
    monkeypatch.setattr(
        WandbLogger, "log_text", lambda self, *given, **more: calls.append((given, more))
    )
    callbacks.log_texts(
        WandbLogger.__new__(WandbLogger),
        [{"id": "a", "reference": "one", "hypothesis": "two"}],
        step=3,
    )
    assert calls == [
        (
            ("hypotheses",),
            {
                "columns": ["id", "reference", "hypothesis"],
                "data": [["a", "one", "two"]],
                "step": 3,
            },
        )
    ]


def steps(moving, weights, model, *, first=1):
    module = types.SimpleNamespace(model=model)
    moving.on_train_start(fake_trainer(first - 1), module)
    for step, weight in enumerate(weights, start=first):
        model.weight.data.fill_(weight)
        for _ in range(2):  # accumulation: two batches, one step
            moving.on_train_batch_end(fake_trainer(step), module, None, None, 0)


def test_the_moving_average_follows_its_formula_and_survives_a_resume():
    values, decay = [1.0, 5.0, -2.0, 4.0], 0.3
    expected = 0.0
    for n, value in enumerate(values, start=1):
        used = min(decay, (1 + n) / (10 + n))
        expected = used * expected + (1 - used) * value
    model = torch.nn.Linear(1, 1, bias=False)
    model.register_buffer("count", torch.tensor(7))  # no float: not averaged
    model.weight.data.zero_()
    first = callbacks.MovingAverage(decay=decay)
    steps(first, values[:2], model)
    kept = io.BytesIO()
    torch.save(first.state_dict(), kept)
    kept.seek(0)
    second = callbacks.MovingAverage(decay=decay)
    second.load_state_dict(torch.load(kept, weights_only=True))
    steps(second, values[2:], model, first=3)
    assert second.weights()["weight"].item() == pytest.approx(
        expected
    ) and second.weights().keys() == {"weight"}
    assert second.describe() == "decay 0.3 at the last of 4 steps"


def test_a_moving_average_of_another_model_is_refused():
    moving = callbacks.MovingAverage(decay=0.9)
    moving.load_state_dict({"average": {"other": torch.zeros(1)}, "updates": 1, "effective": 0.1})
    with pytest.raises(ValueError, match="another model"):
        moving.on_train_start(fake_trainer(), types.SimpleNamespace(model=torch.nn.Linear(1, 1)))


def test_a_line_at_each_validation_says_what_matters_and_a_skipped_batch_leaves_the_loss_readable():
    say = narrator()
    bar = callbacks.ProgressBar(say, num_steps=10)
    trainer = fake_trainer(0)
    trainer.train_dataloader = None
    trainer.accumulate_grad_batches, trainer.callback_metrics = (
        1,
        {"val_wer": torch.tensor(0.25), "guard_wer": torch.tensor(0.5)},
    )
    trainer.optimizers = [types.SimpleNamespace(param_groups=[{"lr": 3e-5}])]
    module = types.SimpleNamespace(
        model=types.SimpleNamespace(preprocessor=types.SimpleNamespace(_sample_rate=100)),
        verdicts=Verdicts(None),
        history=[],
    )
    bar.on_exception(trainer, module, ValueError())  # before training began
    bar.on_train_start(trainer, module)
    batch = torch.zeros(2, 400), torch.tensor([400, 200])
    for loss in (2.0, float("nan")):
        bar.on_train_batch_end(trainer, module, None, batch, 0)
        [listener] = module.verdicts.listeners
        listener(Known(None, {"loss": loss}, samples=600, lost=loss != 2.0))
    trainer.global_step = 5
    bar.on_validation_start(trainer, module)
    bar.on_validation_end(trainer, module)
    trainer.global_step, trainer.val_check_batch = 7, 3
    bar.on_train_batch_end(trainer, module, None, batch, 0)
    bar.on_train_end(trainer, module)
    *lines, later = say.console.file.getvalue().splitlines()
    assert "step 7/10" in later and "WER" not in later, "figures of step 5 are not those of 7"
    assert "loss" not in later, "no newer one is known than that of step 5"
    assert len(lines) == 2 and max(map(len, lines)) <= 80
    for part in (
        "step 5/10",
        "loss 2.000",
        "lr 3.0e-05",
        "domain WER 25.0 %",
        "guard 50.0 %",
        "audio s/s",
        "padding 25 %",
        " GB",
        "s left",
    ):
        assert any(part in line for line in lines), part


def test_no_line_comes_before_there_is_a_figure_for_it(monkeypatch):
    say = narrator()
    bar = callbacks.ProgressBar(say, num_steps=10)
    trainer = fake_trainer(0)
    trainer.train_dataloader, trainer.val_check_batch = None, 100
    trainer.optimizers = [types.SimpleNamespace(param_groups=[{"lr": 3e-5}])]
    module = types.SimpleNamespace(
        model=types.SimpleNamespace(preprocessor=types.SimpleNamespace(_sample_rate=100)),
        verdicts=Verdicts(None),
    )
    bar.on_train_start(trainer, module)
    batch = torch.zeros(2, 400), torch.tensor([400, 200])
    for number in range(3):
        trainer.global_step = number + 1
        bar.on_train_batch_end(trainer, module, None, batch, number)
        known = Known(None, {"loss": 4.5}, samples=600, lost=number == 0)
        module.verdicts.listeners[0](known)
    two, three = say.console.file.getvalue().splitlines()
    assert "step 2/10" in two and "loss" not in two and " audio s/s" in two
    assert "step 3/10" in three and "loss 4.500" in three and len(three) <= 80


def test_the_line_of_a_validation_names_the_worst_of_several_guards():
    bar = callbacks.ProgressBar(narrator(), num_steps=10)
    bar.worst = "children of the north"
    scores = bar._scores({"val_wer": 0.25, f"guard_wer/{bar.worst}": 0.5, "guard_wer/radio": 0.9})
    assert scores == ["domain WER 25.0 %", "worst guard children of… 50.0 %"]
