"""Batches found by trying: the search, a model that is left as it was, the cache, and what the
wanted step makes of it.
"""

import copy
import json
import math
import random

import pytest
import torch

from parakeet_ft import preflight
from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.model import checkpointing
from parakeet_ft.run import composition
from parakeet_ft.training import batch_size
from parakeet_ft.training.random_states import random_states

CPU = {
    "strategy": "none",
    "num_ranks": 1,
    "precision": "32-true",
    "activation_checkpointing": False,
}


@pytest.mark.parametrize("limit", [10.0, 11.0, 37.5, 640.0])
def test_the_largest_batch_that_fits_is_found_within_a_tenth(limit):
    tried = []

    def fits(seconds):
        tried.append(seconds)
        return seconds <= limit

    found = batch_size.largest(fits, least=10, most=500)
    assert found <= min(limit, 500) <= 1.1 * found and tried[0] == 10 and max(tried) <= 500


def test_nothing_is_found_where_not_even_one_utterance_fits():
    assert batch_size.largest(lambda seconds: False, least=10, most=500) is None


def test_a_cpus_batch_grows_while_it_is_faster_and_fits():
    def measure(seconds):
        return min(seconds, 40.0), seconds

    assert batch_size.fastest(measure, least=10, most=1000, memory=1e9) == 40
    assert batch_size.fastest(measure, least=10, most=15, memory=1e9) == 15
    assert batch_size.fastest(measure, least=10, most=1000, memory=30) == 20
    assert batch_size.fastest(measure, least=10, most=1000, memory=0) == 10


def test_a_pass_keeps_its_steps_and_the_longest_utterance_its_room():
    utterances = [Utterance("a", 10.0, "x")] * 1000
    assert batch_size.most_seconds(utterances, effective_batch_seconds=None, num_ranks=1) == 200
    assert batch_size.most_seconds(utterances, effective_batch_seconds=100, num_ranks=4) == 25
    assert batch_size.most_seconds(utterances, effective_batch_seconds=1, num_ranks=4) == 10


@pytest.mark.parametrize(
    ("effective", "ranks", "accumulate", "step"),
    [(None, 2, 3, 144), (96, 1, 4, 96), (96, 4, 1, 96), (50, 1, 3, 72), (10, 1, 1, 24)],
)
def test_batches_are_accumulated_to_the_wanted_step(effective, ranks, accumulate, step):
    found = batch_size.choose(
        None,
        [],
        batch_seconds=24,
        effective_batch_seconds=effective,
        accumulate=3,
        augmentation=None,
        devices=CPU | {"num_ranks": ranks},
        copies=0,
        once=None,
    )
    assert (found["accumulate"], found["effective_batch_seconds"], found["reason"]) == (
        accumulate,
        step,
        "given",
    )


@pytest.fixture
def data(speech, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read_manifest(speech(count=8))


def find(model, data, **changes):
    return batch_size.find(
        model,
        data,
        **{"augmentation": None, "devices": CPU, "states": 32, "copies": 0, "most": 6.0} | changes,
    )


LEAN = {"states": "8bit", "devices": CPU | {"activation_checkpointing": True}}
LEAN["devices"]["precision"] = "bf16-true"


@pytest.mark.parametrize(("family", "changes"), [("ctc", {}), ("hybrid", {}), ("ctc", LEAN)])
def test_trying_leaves_model_modes_gradients_and_randomness_as_they_were(
    family, changes, tiny_model, data
):
    from parakeet_ft.training.fine_tuner import use_loss_for

    model = tiny_model(family, dropout=0.1)
    use_loss_for(model, device="cpu")
    model.train()
    model.encoder.layers[0].eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    state, buffers = (
        copy.deepcopy(model.state_dict()),
        {name: buffer.clone() for name, buffer in model.named_buffers()},
    )
    modes, random_before = [m.training for m in model.modules()], random_states()
    python, gradients = (
        random.getstate(),
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    )
    found = find(model, data, **changes)
    assert found["tried"][0]["seconds"] == 1.75 and 1.75 <= found["batch_seconds"] <= 6
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {name: buffer.shape for name, buffer in model.named_buffers()} == {
        name: buffer.shape for name, buffer in buffers.items()
    }
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert modes == [m.training for m in model.modules()] and random.getstate() == python
    assert torch.equal(random_states()["torch"], random_before["torch"]) and torch.equal(
        random_states()["numpy"][1], random_before["numpy"][1]
    )
    assert all(
        (p.grad is None) == (g is None) and (g is None or torch.equal(p.grad, g))
        for p, g in zip(model.parameters(), gradients, strict=True)
    )


def test_the_model_is_left_alone_when_trying_fails(tiny_model):
    model = tiny_model("ctc")
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="boom"), batch_size.untouched(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        raise RuntimeError("boom")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_trial_is_made_as_the_run_will_be(tiny_model):
    model = tiny_model("ctc").train()
    trial = batch_size.Trial(
        model, seconds=1.0, tokens=4, precision="bf16-true", copies=0, states="8bit", twice=True
    )
    with batch_size.untouched(model), trial.as_in_training():
        trial.step(2.0)
        assert checkpointing.is_on(model)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        states = [state["exp_avg"].dtype for state in trial.optimizer.state.values()]
    assert torch.uint8 in states and {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_was_found_is_read_from_the_cache_until_model_or_data_change(
    tiny_model, data, monkeypatch
):
    tries = []
    real = batch_size.Trial.on_cpu
    monkeypatch.setattr(
        batch_size.Trial, "on_cpu", lambda self, most: tries.append(most) or real(self, most)
    )
    model = tiny_model("ctc")
    first = find(model, data)
    again = find(model, data)
    assert (
        len(tries) == 1
        and again["batch_seconds"] == first["batch_seconds"]
        and again["reason"].endswith("from the cache")
    )
    find(model, data[:-1])
    for parameter in model.decoder.parameters():
        parameter.requires_grad_(False)
    find(model, data)
    assert len(tries) == 3
    batch_size.cache_path().write_text("{ broken")
    find(model, data)
    assert len(tries) == 4 and len(json.loads(batch_size.cache_path().read_text())) == 1


def test_what_a_run_found_is_what_its_resume_gets(tiny_model, data):
    kept = {"batch_seconds": 4.5, "reason": "auto"}
    found = batch_size.choose(
        tiny_model("ctc"),
        data,
        batch_seconds="auto",
        effective_batch_seconds=None,
        accumulate=2,
        augmentation=None,
        devices=CPU,
        copies=0,
        once=lambda name, make: kept if name == "batching" else make(),
    )
    assert found["batch_seconds"] == 4.5 and found["accumulate"] == 2


@pytest.fixture
def holding_logits(tmp_path, monkeypatch):
    """holding_logits(True or False) -> a trial of a model with 1,024 pieces, whose loss holds the
    joint's logits or does not. Memory alone decides: 120 MB.
    """
    from parakeet_ft.model import joint_loss, replicas
    from parakeet_ft.model.transducer_loss import use_wavefront_loss

    monkeypatch.setattr(batch_size, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(batch_size, "free_bytes", lambda: 2.4e8)
    monkeypatch.setattr(joint_loss, "KEPT_BYTES", 0)
    monkeypatch.setattr(joint_loss, "CPU_LOGITS", 1 << 18)
    tokenizer = replicas.write_tokenizer(tmp_path, vocab_size=1024)

    def make(holds: bool):
        model = replicas.build(replicas.tiny("tdt"), tokenizer).train()
        use_wavefront_loss(model)
        if holds:  # NeMo's joint makes all logits for a loss that it does not know
            inner, model.loss._loss = model.loss._loss, torch.nn.Module()
            model.loss._loss.forward, model.loss._loss.reduction = inner.forward, None
        return batch_size.Trial(model, seconds=2.0, tokens=100, precision="32-true", copies=0)

    return make


def test_larger_batches_are_found_where_the_loss_holds_no_logits(holding_logits):
    found = {holds: holding_logits(holds).on_cpu(16.0) for holds in (True, False)}
    assert found[False]["batch_seconds"] >= 2 * found[True]["batch_seconds"]
    assert found[True]["tried"][-1]["peak_gb"] > 0.05, "what ends the search is memory"


def test_a_gpus_batch_is_what_fits_less_a_margin_and_an_impossible_one_is_told(
    tiny_model, data, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    trial = batch_size.Trial(
        tiny_model("ctc"), seconds=2.0, tokens=5, precision="32-true", copies=1
    )

    def step(seconds, limit=30.0):
        if seconds > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return seconds

    monkeypatch.setattr(trial, "step", step)
    found = trial.on_gpu(100.0)
    assert 0.9 * 30 / 1.1 <= found["batch_seconds"] <= 27 and math.isclose(
        found["tried"][0]["seconds"], 2
    )
    monkeypatch.setattr(trial, "step", lambda seconds: step(seconds, limit=1))
    with pytest.raises(UserError, match=r"Not even one utterance fits.*2\.0 s with 5 tokens"):
        trial.on_gpu(100.0)


def test_fsdp_is_told_to_give_a_number():
    with pytest.raises(UserError, match="Give a number"):
        batch_size.choose(
            None,
            [],
            batch_seconds="auto",
            effective_batch_seconds=None,
            accumulate=1,
            augmentation=None,
            devices=CPU | {"strategy": "fsdp"},
            copies=0,
            once=None,
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batch_seconds=fast"], "auto or a number"),
        (["data.batch_seconds=0"], "auto or a number above 0"),
        (["optim.max_bad_batches=-1"], "whole number from 0"),
        (["data.effective_batch_seconds=0"], "null or a number above 0"),
        (["data.effective_batch_seconds=240", "optim.accumulate=2"], "give one of them"),
        (["data.augmentation.speed=[9]"], "each number from 0.5 to 2"),
    ],
)
def test_settings_of_batches_that_cannot_be_meant_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        preflight.check_settings(composition.compose("finetune", overrides))


def test_batches_may_be_auto():
    config = composition.compose(
        "finetune", ["data.batch_seconds=auto", "data.effective_batch_seconds=240"]
    )
    preflight.check_settings(config)
    assert config["data"]["batch_seconds"] == "auto"
