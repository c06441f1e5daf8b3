"""A hybrid's two losses: what each is, against NeMo's own training step, and what one weighs."""

import pytest
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model.objective import (
    compare_parts,
    parts_lines,
    set_ctc_loss_weight,
    training_loss,
)
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.training.fine_tuner import use_loss_for
from recipes.finetune import finetune


def batch_for(model):
    generator = torch.manual_seed(3)
    lengths, token_lengths = torch.tensor([32000, 24000, 28000]), torch.tensor([9, 5, 7])
    audio = 0.1 * torch.randn(3, 32000, generator=generator)
    tokens = torch.randint(0, model.tokenizer.vocab_size, (3, 9), generator=generator)
    return audio, lengths, tokens, token_lengths


def nemos(model, batch):
    """(loss, transducer part, CTC part) of NeMo's training_step, without a trainer."""
    from types import SimpleNamespace

    logged = {}
    model._trainer = SimpleNamespace(log_every_n_steps=10**9, global_step=0)
    model._optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    model.log_dict = logged.update
    torch.manual_seed(0)
    loss = model.training_step(batch, 0)["loss"]
    return float(loss), float(logged["train_rnnt_loss"]), float(logged["train_ctc_loss"])


@pytest.mark.parametrize("weight", [None, 0.05, 0.6])
@pytest.mark.parametrize("family", ["hybrid", "hybrid_rnnt"])
@pytest.mark.parametrize("reduction", ["mean_volume", "mean_batch"])
def test_both_parts_are_those_of_nemos_training_step(family, reduction, weight, tiny_model):
    # omega: TDT's loss is a plain transducer's at a share of the steps, drawn anew in each.
    model = tiny_model(family, ctc_reduction=reduction, omega=0.0).train()
    model.spec_augmentation = None
    model.preprocessor.featurizer.dither = 0.0
    batch = batch_for(model)
    use_loss_for(model, device="cpu")
    set_ctc_loss_weight(model, weight)
    assert model.cfg.aux_ctc.ctc_loss_weight == (0.3 if weight is None else weight)
    torch.manual_seed(0)
    ours = training_loss(model, *batch)
    theirs = nemos(model, batch)
    for value, expected in zip(("loss", "transducer_loss", "ctc_loss"), theirs, strict=True):
        assert float(ours[value]) == pytest.approx(expected, rel=1e-4)
    parts = compare_parts(theirs[1], theirs[2], weight=model.ctc_loss_weight)
    both = (1 - model.ctc_loss_weight) * theirs[1], model.ctc_loss_weight * theirs[2]
    assert parts["ctc_times_transducer"] == pytest.approx(both[1] / both[0])
    even = compare_parts(theirs[1], theirs[2], weight=parts["weight_of_equal_parts"])
    assert even["ctc_times_transducer"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("transducer", "ctc", "weight", "words"),
    [
        (2.0, 200.0, 0.3, "the CTC head owns"),
        (2.0, 3.0, 0.3, None),
        (2.0, 1.0, 0.01, "the transducer owns"),
    ],
)
def test_a_part_of_ten_times_the_other_is_warned_of(transducer, ctc, weight, words):
    lines = parts_lines(compare_parts(transducer, ctc, weight=weight))
    assert len(lines) == (2 if words else 1) and (not words or words in lines[1])
    assert not words or "model.ctc_loss_weight=" in lines[1]


def test_a_weight_for_one_head_or_beyond_one_is_refused(tiny_model):
    with pytest.raises(UserError, match="one head"):
        set_ctc_loss_weight(tiny_model("tdt"), 0.3)
    for weight in (-0.1, 1.0):
        with pytest.raises(UserError, match="from 0 to below 1"):
            set_ctc_loss_weight(tiny_model("hybrid"), weight)


def test_a_run_of_a_hybrid_says_and_records_both_parts(tiny_model, speech, tmp_path, capfd):
    import json

    path, manifest = tmp_path / "h.nemo", speech(count=4)
    tiny_model("hybrid", ctc_reduction="mean_batch").save_to(str(path))
    config = composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={path}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.num_workers=0",
                "data.batch_seconds=6",
                "logger=csv",
                "budget.steps=2",
                "evaluation.validations=1",
                "model.ctc_loss_weight=0.9",
                "data.allow_overlap=true",
            ]
        ),
    )
    finetune(read_finetune(config), run_dir=tmp_path / "e" / "r", command=["x"])
    parts = json.loads((tmp_path / "e" / "r" / "run.json").read_text())["effective"]["loss_parts"]
    assert parts["ctc_loss_weight"] == 0.9 and parts["ctc_times_transducer"] > 10
    told = capfd.readouterr()
    printed = " ".join((told.out + told.err).split())
    assert "loss parts at the first step" in printed and "the CTC head owns the gradient" in printed
