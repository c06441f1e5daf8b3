"""Memory: counted weights against NeMo's models, the estimate against a measured step, and what is
said when it does not fit.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.memory import free_bytes
from parakeet_ft.model import joint_loss, replicas
from parakeet_ft.model.source import check_archive
from parakeet_ft.run import composition
from parakeet_ft.training import memory
from parakeet_ft.training.batch_size import Trial, peak_bytes, resident_bytes

LONG = [Utterance("a.wav", 20.0, "x" * 300)]


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid", "hybrid_rnnt"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_bias": False, "n_mels": 128, "pred_layers": 2, "conv_kernel_size": 5, "n_layers": 3},
    ],
)
def test_weights_are_counted_as_nemo_makes_them(family, changes, tiny_model):
    model = tiny_model(family, **changes)
    architecture = dataclasses.replace(
        replicas.tiny(family), **changes, vocab_size=model.tokenizer.vocab_size
    )
    assert memory.num_weights(architecture) == sum(p.numel() for p in model.parameters())
    assert memory.encoder_weights(architecture) == sum(
        p.numel() for p in model.encoder.parameters()
    )


@pytest.mark.parametrize(
    ("name", "millions"),
    [("parakeet_ctc_0.6b", 609), ("parakeet_ctc_1.1b", 1062), ("parakeet_tdt_ctc_110m", 114)],
)
def test_the_published_checkpoints_have_about_their_published_weights(name, millions):
    assert memory.num_weights(replicas.REPLICAS[name]) / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid", "hybrid_rnnt"])
def test_the_architecture_is_read_from_a_nemo(family, tiny_nemo, tiny_model):
    found = memory.architecture_of(check_archive(tiny_nemo(family)))
    assert found.family == family and memory.num_weights(found) == sum(
        p.numel() for p in tiny_model(family).parameters()
    )


@pytest.mark.parametrize(("source", "millions"), [("tiny", 3.2), ("tiny_tdt_ctc", 3.9)])
def test_bundled_checkpoints_are_known(source, millions):
    assert memory.num_weights(memory.architecture_at(source)) / 1e6 == pytest.approx(
        millions, abs=0.1
    )


def test_another_configuration_is_refused_in_words():
    with pytest.raises(UserError, match="lacks 'd_model'"):
        memory.architecture_of({"encoder": {}, "decoder": {}})


@pytest.mark.parametrize(("family", "twice"), [("ctc", False), ("tdt", False), ("ctc", True)])
def test_the_estimate_is_near_a_measured_step(family, twice, tiny_model):
    """Activations, gradients and optimiser of a step on 60 s: within a factor of two (ratios are in
    benchmarks/README.md).
    """
    from parakeet_ft.training.fine_tuner import use_loss_for

    changes = {"d_model": 144, "n_layers": 8 if twice else 4, "conv_channels": 64, "dropout": 0.1}
    model = tiny_model(family, **changes)
    use_loss_for(model, device="cpu")
    trial = Trial(model, seconds=10.0, tokens=40, precision="32-true", copies=0, twice=twice)
    with trial.as_in_training():
        trial.step(10.0)
        before = resident_bytes(reset=True)
        trial.step(60.0)
        measured = (peak_bytes() - before) / 1e9
    found = (
        memory.activation_bytes(
            dataclasses.replace(replicas.tiny(family), **changes),
            device="cpu",
            size=4,
            batch_seconds=60,
            longest_seconds=10,
            most_tokens=40,
            full_attention=True,
            checkpointing=twice,
        )
        / 1e9
    )
    assert 0.5 < found / measured < 2, (found, measured)


@pytest.mark.parametrize("durations", [(), replicas.DURATIONS])
@pytest.mark.parametrize("vocab_size", [128, 1024, 4096])
def test_what_the_joints_loss_holds_is_near_what_it_was_measured_to_hold(durations, vocab_size):
    frames, length, hidden = 75, 30, 320
    outputs = vocab_size + 1 + len(durations)
    layers = torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.2), torch.nn.Linear(hidden, outputs)
    output = torch.nn.Sequential(*layers)
    given = [torch.randn(4, size, hidden, requires_grad=True) for size in (frames, length + 1)]
    labels = torch.randint(0, vocab_size, (4, length))
    lengths = torch.full((4,), frames), torch.full((4,), length)
    arcs = joint_loss.Arcs(vocab_size, durations)
    before = resident_bytes(reset=True)
    costs = joint_loss.joint_costs(
        *given, output, list(output.parameters()), labels, *lengths, arcs=arcs
    )
    costs.sum().backward()
    measured = peak_bytes() - before
    family = "tdt" if durations else "rnnt"
    a = dataclasses.replace(
        replicas.REPLICAS["parakeet_tdt_0.6b_v3"],
        family=family,
        vocab_size=vocab_size,
        joint_hidden=hidden,
    )
    found = memory.joint_bytes(a, nodes=4 * frames * (length + 1), device="cpu")
    assert 0.5 < found / measured < 2, (found, measured)


def test_what_is_held_of_the_logits_is_what_the_loss_says():
    pieces = 3 * joint_loss.CPU_LOGITS
    assert joint_loss.KEPT_BYTES // 4 + pieces == memory.HELD_LOGITS


def estimate(name="parakeet_ctc_0.6b", **changes):
    settings = {
        "device": "gpu",
        "precision": "32",
        "strategy": "none",
        "num_ranks": 1,
        "batch_seconds": 120,
        "longest_seconds": 20,
        "most_tokens": 100,
    }
    return memory.estimate(replicas.REPLICAS[name], **settings | changes)


def test_precision_strategy_and_what_learns_cost_what_they_must():
    weights = memory.num_weights(replicas.REPLICAS["parakeet_ctc_0.6b"]) / 1e9
    plain = estimate()
    assert (plain.weights, plain.gradients, plain.optimizer) == pytest.approx(
        (4 * weights, 4 * weights, 8 * weights)
    )
    assert estimate(precision="bf16-true").optimizer == pytest.approx(4 * weights)
    assert estimate(strategy="fsdp", num_ranks=8).optimizer == pytest.approx(weights)
    assert estimate(strategy="ddp", num_ranks=8).copies == 0
    assert estimate(states="8bit").optimizer == pytest.approx(2 * weights, rel=0.02)
    assert estimate(learning_share=0.01).gradients == pytest.approx(0.04 * weights)
    assert estimate(batch_seconds=240).activations == pytest.approx(2 * plain.activations)
    assert estimate(longest_seconds=10).activations < plain.activations
    # no logits: 8,193 labels for each of 152,000 nodes would be 5 GB
    assert estimate("parakeet_tdt_0.6b_v3").activations < 1.1 * plain.activations


def configure(*overrides):
    return composition.compose("finetune", composition.expand_shorthand(list(overrides)))


def on_gpu_of(gigabytes, monkeypatch):
    monkeypatch.setattr(memory, "locate", lambda source: None)
    monkeypatch.setattr(memory, "gpu_bytes", lambda: gigabytes * 2**30)


def test_a_run_that_cannot_fit_is_refused_and_one_that_may_not_is_told(monkeypatch):
    config = configure(
        "model=parakeet_ctc_1.1b", "data.batch_seconds=60", "trainer.activation_checkpointing=false"
    )
    on_gpu_of(15, monkeypatch)
    with pytest.raises(UserError, match=r"does not fit.*the GPU has 16\.1 GB.*adaptation=lora"):
        memory.check(config, LONG, num_ranks=1)
    on_gpu_of(20, monkeypatch)
    assert "It may not fit: use adaptation=lora" in memory.check(config, LONG, num_ranks=1)
    on_gpu_of(80, monkeypatch)
    assert memory.check(config, LONG, num_ranks=1).endswith("the GPU has 85.9 GB")
    assert "on each of 8 devices" in memory.check(config, LONG, num_ranks=8)


@pytest.mark.parametrize("name", ["parakeet_ctc_1.1b", "parakeet_tdt_ctc_1.1b"])
def test_all_weights_of_the_largest_learn_in_16_gb(name):
    lean = {"states": "8bit", "checkpointing": True, "batch_seconds": 120}
    assert estimate(name, precision="bf16-true", **lean).total < 16
    assert estimate(name, precision="bf16-mixed", **lean).total < 16
    assert estimate(name, precision="bf16-true", batch_seconds=120).total > 16


@pytest.mark.parametrize(
    ("gigabytes", "seconds", "asked", "expected"),
    [
        (80, 120, "auto", False),
        (22, 120, "auto", True),
        (22, "auto", "auto", True),  # of whom the estimate assumes one utterance, which would fit
        (22, 120, "false", False),
        (80, 120, "true", True),
    ],
)
def test_layers_are_computed_twice_where_memory_asks_for_it(
    gigabytes, seconds, asked, expected, monkeypatch
):
    on_gpu_of(gigabytes, monkeypatch)
    config = configure(
        "model=parakeet_ctc_1.1b",
        f"data.batch_seconds={seconds}",
        f"trainer.activation_checkpointing={asked}",
    )
    assert memory.computes_twice(config, LONG, num_ranks=1) is expected
    said = "computed twice" in memory.check(config, LONG, num_ranks=1)
    assert said is expected


def test_batches_are_tried_out_on_a_gpu_unless_a_number_is_given(monkeypatch):
    on = memory.batch_seconds_on
    assert on(None, device="gpu", strategy="none") == on("auto", device="cpu", strategy="ddp")
    assert on(None, device="cpu", strategy="none") == 120
    assert on(None, device="gpu", strategy="fsdp") == 120
    assert on(24, device="gpu", strategy="ddp") == 24
    assert configure("data.train=a", "data.validation=b")["data"]["batch_seconds"] is None


def test_what_is_not_known_is_said(monkeypatch):
    monkeypatch.setattr(memory, "locate", lambda source: None)
    assert "not estimated" in memory.check(configure("model=someone/else"), LONG, num_ranks=1)


def test_the_machine_without_a_gpu_is_measured(monkeypatch):
    monkeypatch.setattr(memory, "gpu_bytes", lambda: None)
    line = memory.check(configure("data.batch_seconds=auto"), LONG, num_ranks=1)
    assert "this machine has free" in line and 0 < free_bytes() < 2**50


def test_the_table_has_a_row_for_each_way_and_fsdp_needs_least():
    rows = memory.table()
    assert (
        len(
            {
                tuple(row[key] for key in ("checkpoint", "strategy", "precision", "learns"))
                for row in rows
            }
        )
        == len(rows)
        == 4 * 3 * 3 * 2
    )
    totals = {
        row["strategy"]: row["total_gb"]
        for row in rows
        if (row["checkpoint"], row["precision"], row["learns"])
        == ("parakeet_ctc_1.1b", "32", "all")
    }
    assert totals["fsdp"] < totals["one GPU"] == totals["ddp"]


def test_the_estimate_imports_neither_torch_nor_nemo():
    code = (
        "import sys, parakeet_ft.training.memory as m; m.table(); m.architecture_at('tiny'); "
        "assert not {'torch', 'nemo'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
