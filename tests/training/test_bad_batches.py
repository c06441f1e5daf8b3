"""Bad batches are named, skipped without a trace, counted, and too many end the run."""

import json
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch

from parakeet_ft.batches.loaders import train_loader
from parakeet_ft.batches.plan import Plan
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.training import adaptation, fine_tuner
from parakeet_ft.training.bad_batches import BadBatches, is_out_of_memory
from parakeet_ft.training.optim import settings as optim_settings

STEPS = 4


class After(pl.Callback):
    """The state after each step."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self.states.append({key: value.clone() for key, value in module.model.state_dict().items()})


class Saboteur(fine_tuner.FineTuner):
    """Spoils the batches at `spoilt` {position: what happens}."""

    spoilt: ClassVar[dict] = {}

    def _losses(self, batch):
        what = self.spoilt.get(self.trainer.fit_loop.epoch_loop.batch_idx)
        if what == "forward memory":
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                "9 bytes"
            )
        if what == "audio":
            batch = (torch.full_like(batch[0], torch.nan), *batch[1:])
        losses = super()._losses(batch)
        if what == "gradient":
            losses["loss"].register_hook(lambda gradient: gradient * torch.inf)
        if what == "backward memory":

            def fail(gradient):
                raise torch.OutOfMemoryError("CUDA out of memory")

            losses["loss"].register_hook(fail)
        if what == "bug":
            raise RuntimeError("shapes cannot be multiplied")
        return losses


@pytest.fixture
def run(tiny_model, speech, tmp_path):
    """run(spoilt, most=..., accumulate=...) -> (bad batches, plan, states after each batch, lines
    said).
    """

    def fit(spoilt, *, most=10, accumulate=1, batch_norm_learns=True):
        torch.manual_seed(1)
        model = tiny_model("ctc")
        utterances = read_manifest(speech(count=8))
        config = composition.compose(
            "finetune", ["optim.lr=1e-3", f"optim.accumulate={accumulate}"]
        )
        adaptation.set_learning(
            model,
            num_new_pieces=0,
            **config["adaptation"] | {"freeze_batch_norm": not batch_norm_learns},
        )
        plan = Plan(utterances, num_domain=8, batch_seconds=3, seed=1)
        said = []
        bad = BadBatches(tmp_path / "bad_batches.jsonl", plan, most=most, say=said.extend)
        tuner = Saboteur(
            model,
            settings=optim_settings(
                model, hours_per_pass=1, num_new_pieces=0, num_steps=STEPS, **config["optim"]
            ),
            sets={},
            base={},
            batch_seconds=1,
            bad_batches=bad,
        )
        tuner.spoilt = spoilt
        tuner.on_validation_epoch_end = lambda: None
        after = After()
        fine_tuner.fit(
            tuner,
            train_loader(plan, model, num_batches=STEPS * accumulate, num_workers=0),
            num_steps=STEPS,
            validations=1,
            gradient_clip=1.0,
            accumulate=accumulate,
            devices={
                "accelerator": "cpu",
                "devices": 1,
                "num_nodes": 1,
                "strategy": "none",
                "precision": "32-true",
                "tf32": False,
                "activation_checkpointing": False,
            },
            callbacks=[after],
            loggers=[pl.loggers.CSVLogger(tmp_path)],
            resume_from=None,
        )
        return bad, plan, after.states, said, tuner

    return fit


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("audio", "the loss is not finite"),
        ("gradient", "the gradient is not finite"),
        ("forward memory", "memory ran out"),
        ("backward memory", "memory ran out"),
    ],
)
def test_a_bad_batch_is_named_and_skipped_and_the_run_goes_on(run, tmp_path, what, reason):
    bad, plan, states, said, tuner = run({1: what})
    assert tuner.global_step == STEPS and bad.positions == [1]
    weights = [
        {
            key: value
            for key, value in state.items()
            if what == "audio" or not ("running" in key or "num_batches" in key)
        }
        for state in states
    ]
    assert same(weights[0], weights[1]) and not same(weights[1], weights[2])
    assert all(
        torch.isfinite(value).all() for value in states[-1].values() if value.is_floating_point()
    )
    (row,) = map(json.loads, (tmp_path / "bad_batches.jsonl").read_text().splitlines())
    expected = {
        plan.utterances[i].audio_filepath: plan.utterances[i] for i in plan.batches_of_pass(0)[1]
    }
    assert (row["step"], row["position"], row["rank"], row["reason"]) == (1, 1, 0, reason)
    assert {u["audio_filepath"]: (u["duration"], u["text"]) for u in row["utterances"]} == {
        k: (u.duration, u.text) for k, u in expected.items()
    }
    assert reason in said[0] and "1 of at most 10" in said[0]


def test_a_step_with_a_bad_batch_among_good_ones_changes_nothing(run):
    bad, _, states, _, tuner = run({2: "audio"}, accumulate=2, batch_norm_learns=False)
    assert tuner.global_step == STEPS and bad.positions == [2]
    assert (
        same(states[1], states[2]) and same(states[2], states[3]) and not same(states[3], states[5])
    )


def test_a_gradient_that_no_batch_alone_explains_names_all_of_its_step(run, tmp_path):
    bad, *_ = run({3: "gradient"}, accumulate=2)
    rows = [json.loads(line) for line in (tmp_path / "bad_batches.jsonl").read_text().splitlines()]
    assert [row["position"] for row in rows] == [2, 3] and bad.positions == [3]


def test_one_bad_batch_too_many_ends_the_run_with_what_to_do(run):
    with pytest.raises(
        UserError, match=r"3 bad batches, more than optim.max_bad_batches=2.*\.wav.*optim\.lr"
    ):
        run({0: "audio", 1: "audio", 2: "audio", 3: "audio"}, most=2)


def test_an_error_that_is_not_about_memory_is_not_skipped(run):
    with pytest.raises(RuntimeError, match="shapes"):
        run({1: "bug"})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (ValueError("out of memory"), False),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("index out of range"), False),
    ],
)
def test_only_failed_allocations_count_as_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_lies_beyond_a_checkpoint_is_forgotten(tmp_path):
    path = tmp_path / "bad_batches.jsonl"
    path.write_text("".join(json.dumps({"position": p}) + "\n" for p in (3, 8, 9)))
    bad = BadBatches(path, None, most=9, say=print)
    bad.positions = [3, 8]
    bad.forget_later()
    assert [json.loads(line)["position"] for line in path.read_text().splitlines()] == [3, 8]
    bad.positions = []
    bad.forget_later()
    assert path.read_text() == ""


def numbas(text):
    """An error as numba's driver raises it: of its own kind, which is no RuntimeError."""
    return type("CudaAPIError", (Exception,), {"__module__": "numba.cuda.cudadrv.driver"})(text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: cudaErrorMemoryAllocation"), True),
        (numbas("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"), True),
        (numbas("[1] Call to cuLaunchKernel results in CUDA_ERROR_INVALID_VALUE"), False),
        (ValueError("out of memory"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_memory_that_runs_out_in_libraries_below_torch_is_recognised(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("error", "ranks", "words"),
    [
        (
            RuntimeError("CUDA error: an illegal memory access was encountered"),
            1,
            "The GPU is lost",
        ),
        (numbas("[700] Call results in CUDA_ERROR_ILLEGAL_ADDRESS"), 2, "The GPU is lost"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "one of 2 ranks"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, None),
        (RuntimeError("CUDA error: device-side assert triggered"), 2, None),
        (RuntimeError("shapes cannot be multiplied"), 2, None),
    ],
)
def test_what_no_run_can_bear_is_told_with_what_to_do(error, ranks, words):
    from parakeet_ft.training.bad_batches import check_bearable

    if words is None:
        check_bearable(error, num_ranks=ranks, where="the backward pass")
        return
    with pytest.raises(UserError, match=words) as told:
        check_bearable(error, num_ranks=ranks, where="the backward pass")
    assert "data.batch_seconds" in str(told.value) and "continues" in str(told.value)


def test_an_error_of_numba_that_says_memory_ran_out_loses_one_batch(run, monkeypatch):
    losses = Saboteur._losses

    def fail(self, batch):
        if self.trainer.fit_loop.epoch_loop.batch_idx == 1:
            raise numbas("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        return losses(self, batch)

    monkeypatch.setattr(Saboteur, "_losses", fail)
    bad, *_ = run({})
    assert bad.positions == [1]
