"""Precisions on a CPU: every family learns in them, features keep theirs, and what is exported is
what was scored.
"""

import json
import os
import signal

import pytest
import torch

from parakeet_ft.model.objective import runs_bfloat16_lstm
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from recipes.finetune import finetune


@pytest.mark.precision
@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("ctc", "bf16-true"),
        ("tdt", "bf16-true"),
        ("hybrid", "bf16-true"),
        ("hybrid", "bf16-mixed"),
        ("ctc", "bf16-mixed"),
    ],
)
def test_every_family_learns_in_bfloat16(
    family, precision, tiny_nemo, speech, tmp_path, monkeypatch
):
    from nemo.collections.asr.models import ASRModel

    from parakeet_ft.training import fine_tuner

    types, audio = set(), set()
    step = fine_tuner.FineTuner.training_step

    def look(self, batch, batch_index):
        types.update(parameter.dtype for parameter in self.model.parameters())
        audio.add(batch[0].dtype)
        return step(self, batch, batch_index)

    monkeypatch.setattr(fine_tuner.FineTuner, "training_step", look)
    manifest = speech(count=4)
    config = composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={tiny_nemo(family)}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.allow_overlap=true",
                "data.num_workers=0",
                "data.batch_seconds=6",
                "logger=csv",
                "optim.lr=1e-2",
                "budget.steps=3",
                "evaluation.validations=2",
                f"trainer.precision={precision}",
            ]
        ),
    )
    report = finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    assert report["steps"] == 3 and audio == {torch.float32}
    # The prediction network stays in float32 where the CPU has no bfloat16 LSTM.
    small = {torch.float32} if family != "ctc" and not runs_bfloat16_lstm("cpu") else set()
    assert types == ({torch.bfloat16} | small if precision == "bf16-true" else {torch.float32})
    before, after = (
        ASRModel.restore_from(str(path), map_location="cpu").state_dict()
        for path in (tiny_nemo(family), tmp_path / "e" / "r" / "last.nemo")
    )
    filterbank = next(key for key in before if key.endswith("featurizer.fb"))
    assert torch.equal(before[filterbank], after[filterbank])
    weight = after["encoder.layers.0.feed_forward1.linear1.weight"]
    assert weight.dtype == torch.float32 and torch.equal(weight, weight.bfloat16().float()) == (
        precision == "bf16-true"
    )


@pytest.mark.precision
def test_a_run_in_least_memory_that_is_stopped_ends_as_the_one_that_was_not(
    tiny_nemo, speech, tmp_path, monkeypatch
):
    from parakeet_ft.errors import Stopped
    from parakeet_ft.training import checkpoints, fine_tuner

    manifest = speech(count=8)
    overrides = [
        "experiment=low_memory",
        f"model={tiny_nemo('ctc')}",
        f"data.train={manifest}",
        f"data.validation={manifest}",
        "data.allow_overlap=true",
        "data.num_workers=0",
        "data.batch_seconds=6",
        "data.effective_batch_seconds=null",
        "logger=csv",
        "optim.lr=1e-3",
        "budget.steps=5",
        "evaluation.validations=1",
    ]
    config = composition.compose("finetune", composition.expand_shorthand(overrides))
    step = fine_tuner.FineTuner.training_step

    def stop_once(self, batch, batch_index):
        if batch_index == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, batch, batch_index)

    def run(name):
        finetune(read_finetune(config), run_dir=tmp_path / "e" / name, command=["x"])

    run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(fine_tuner.FineTuner, "training_step", stop_once)
        with pytest.raises(Stopped):
            run("stopped")
    run("stopped")
    contents = [
        checkpoints.read(checkpoints.find(tmp_path / "e" / name / "checkpoints", "resume")[-1])
        for name in ("whole", "stopped")
    ]
    one, other = (content["state_dict"] for content in contents)
    assert all(torch.equal(one[key], other[key]) for key in one)
    moments, again = (content["optimizer_states"][0]["state"] for content in contents)
    kinds = {
        value.dtype for s in moments.values() for value in s.values() if torch.is_tensor(value)
    }
    assert torch.uint8 in kinds
    assert all(
        torch.equal(value, again[number][key]) if torch.is_tensor(value) else True
        for number, state in moments.items()
        for key, value in state.items()
    )
    trainer = json.loads((tmp_path / "e" / "stopped" / "run.json").read_text())["effective"][
        "trainer"
    ]
    assert (trainer["optimizer"], trainer["activation_checkpointing"]) == ("LeanAdamW", True)
    assert trainer["tf32"] is False


@pytest.mark.precision
@pytest.mark.parametrize("precision", ["32", "bf16-true"])
def test_a_validation_utterance_of_a_minute_trains(precision, tiny_nemo, speech, tmp_path):
    import numpy
    import soundfile

    wave = 0.1 * numpy.random.default_rng(0).standard_normal(60 * 16000)
    soundfile.write(tmp_path / "long.wav", wave, 16000)
    row = {"audio_filepath": str(tmp_path / "long.wav"), "duration": 60.0, "text": "a long one"}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    config = composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={tiny_nemo('ctc')}",
                f"data.train={speech(count=4)}",
                "data.num_workers=0",
                f"data.validation={tmp_path / 'long.jsonl'}",
                "data.batch_seconds=6",
                "logger=csv",
                "budget.steps=2",
                "evaluation.validations=2",
                f"trainer.precision={precision}",
            ]
        ),
    )
    assert (
        finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])["steps"] == 2
    )


def test_a_reserved_table_of_positions_serves_the_longest_utterance(tiny_model):
    from parakeet_ft.model.attention import reserve_positions

    model = tiny_model("ctc").eval()
    length = model.encoder.pos_enc.pe.shape[1]
    reserve_positions(model, seconds=1.0)
    assert model.encoder.pos_enc.pe.shape[1] == length
    reserve_positions(model, seconds=60.0)
    table = model.encoder.pos_enc.pe
    model.forward(
        input_signal=torch.zeros(1, 60 * 16000), input_signal_length=torch.tensor([960000])
    )
    assert model.encoder.pos_enc.pe is table


def test_float32_products_are_made_as_asked_and_afterwards_as_before():
    from parakeet_ft.training.fine_tuner import float32_products

    def now():
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return matmul.fp32_precision, cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = now()
    with float32_products(tf32=True):
        assert now() == ("tf32", True, "high")
        with float32_products(tf32=False):
            assert now() == ("ieee", False, "highest")
        assert now() == ("tf32", True, "high")
    assert now()[1:] == before[1:]
