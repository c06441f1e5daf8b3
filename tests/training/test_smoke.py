"""The smoke test passes where model, loss and data work together, and says what is wrong where they
do not.
"""

import pytest

from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.training import smoke

SETTINGS = {"lr": 4e-3, "weight_decay": 0.0, "betas": [0.9, 0.98], "gradient_clip": 1.0}


@pytest.fixture(scope="module")
def utterances(speech):
    return read_manifest(speech(count=2))


def overfit(model, utterances, max_steps=300, **changes):
    return smoke.overfit(
        model,
        utterances,
        settings=SETTINGS | changes,
        precision="32-true",
        max_steps=max_steps,
        seconds=600,
    )


def test_a_sound_set_up_learns_its_batch_by_heart(tiny_model, utterances):
    result = overfit(tiny_model("ctc"), utterances)
    assert (
        result.passed
        and result.transcripts == [u.text for u in utterances]
        and result.facts()["passed"]
    )
    assert (
        result.lines()[0].startswith("SMOKE TEST PASSED")
        and result.last_loss < 0.3 * result.first_loss
    )


def test_a_learning_rate_of_nothing_is_reported(tiny_model, utterances):
    result = overfit(tiny_model("ctc"), utterances, max_steps=3, lr=0.0)
    assert (
        not result.passed
        and "FAILED" in result.lines()[0]
        and "nothing learns" in result.lines()[1]
    )
    assert result.first_loss == pytest.approx(result.last_loss) and len(result.lines()) == 4


def test_a_frozen_model_is_reported(tiny_model, utterances):
    model = tiny_model("ctc")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "encoder.layers.0.norm_out.bias")
    result = overfit(model, utterances, max_steps=5, lr=1e-6)
    assert not result.passed and "nothing learns" in result.lines()[1]


def test_a_loss_that_is_no_number_is_reported(tiny_model, utterances):
    model = tiny_model("ctc")
    model.decoder.decoder_layers[0].bias.data.fill_(float("nan"))
    result = overfit(model, utterances)
    assert not result.passed and result.steps == 1 and "not a number" in result.lines()[1]


def test_decoding_that_does_not_follow_the_loss_is_reported():
    result = smoke.Result(
        steps=9,
        lr=1e-3,
        first_loss=4.0,
        last_loss=0.1,
        wer=1.0,
        references=["a b"],
        transcripts=[""],
    )
    assert (
        not result.passed
        and "decoding does not follow" in result.lines()[1]
        and result.lines()[2] == "'a b' -> ''"
    )


def test_the_batch_is_short_but_not_the_shortest_and_has_text():
    found = [
        Utterance(f"{d}.wav", d, text)
        for d, text in [(0.3, "x"), (9, "y"), (2, "a"), (1, ""), (3, "b"), (1.5, "c")]
    ]
    assert [u.duration for u in smoke.choose(found, size=3)] == [1.5, 2, 3]
    assert [u.duration for u in smoke.choose(found[:1])] == [0.3]
