"""Distillation: nothing to learn where nothing changed, figures against direct sums, and refusals
in words.
"""

import pytest
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model.objective import training_loss
from parakeet_ft.training import distillation
from parakeet_ft.training.fine_tuner import use_loss_for

AUDIO, LENGTHS = (
    torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)),
    torch.tensor([16000, 9000]),
)
TOKENS, TOKEN_LENGTHS = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])


def student_of(model, **settings):
    teacher = distillation.build_teacher(model, **{"weight": 1.0, "temperature": 1.0} | settings)
    return teacher, teacher.follow(model)


def quiet(model):
    """In evaluation mode: neither dropout nor augmentation sets the student apart."""
    return model.eval()


@pytest.mark.parametrize(
    ("family", "compares"),
    [("ctc", "CTC"), ("hybrid", "CTC"), ("rnnt", "encoder"), ("tdt", "encoder")],
)
def test_the_checkpoint_itself_is_at_no_distance_and_a_changed_encoder_gets_a_gradient_back(
    family, compares, tiny_model
):
    model = quiet(tiny_model(family))
    use_loss_for(model, device="cpu")
    teacher, facts = student_of(model)
    assert compares in facts["compares"] and facts["shared_pieces"] == model.tokenizer.vocab_size
    training_loss(model, AUDIO, LENGTHS, TOKENS, TOKEN_LENGTHS)
    assert teacher.loss(AUDIO, LENGTHS).item() == pytest.approx(0, abs=1e-6)
    weight = model.encoder.layers[0].feed_forward1.linear1.weight
    weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    training_loss(model, AUDIO, LENGTHS, TOKENS, TOKEN_LENGTHS)
    loss = teacher.loss(AUDIO, LENGTHS)
    loss.backward()
    assert loss.item() > 1e-6 and weight.grad.abs().sum() > 0
    assert all(p.grad is None for part in teacher.parts for p in part.parameters())


def test_the_divergence_is_the_sum_over_labels_of_valid_frames_alone():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (
        torch.log_softmax(torch.randn(2, 4, width, generator=generator), -1) for width in (3, 5)
    )
    frames, columns, temperature = torch.tensor([4, 2]), torch.tensor([0, 3, 4]), 2.0
    total = []
    for b, length in enumerate(frames):
        for t in range(length):
            p, q = (
                torch.softmax(x / temperature, 0) for x in (teacher[b, t], student[b, t, columns])
            )
            total.append(sum(p[k] * (p[k] / q[k]).log() for k in range(3)))
    found = distillation.divergence(
        student, teacher, frames, columns=columns, temperature=temperature
    )
    assert found.item() == pytest.approx(4 * torch.stack(total).mean().item(), rel=1e-5)


def test_the_distance_does_not_see_padding():
    student, teacher = torch.ones(1, 2, 3), torch.full((1, 2, 3), 2.0)
    student[..., 2] = 100
    assert distillation.distance(student, teacher, torch.tensor([2])).item() == pytest.approx(0.25)


def test_after_extend_the_old_pieces_are_compared_and_the_blank_behind_the_new_ones(
    tiny_model, tmp_path
):
    from parakeet_ft.model.vocabulary import adapt_vocabulary

    model = quiet(tiny_model("ctc"))
    teacher = distillation.build_teacher(model, weight=1.0, temperature=1.0)
    old_size = model.tokenizer.vocab_size
    change = adapt_vocabulary(
        model,
        texts=["price 5 % of 7"],
        workdir=tmp_path,
        mode="extend",
        max_unknown_share=0.001,
        num_pieces=None,
        pieces=None,
        vocab_size=None,
        model_type="bpe",
        tokenizer_dir=None,
    )
    assert teacher.follow(quiet(model))["shared_pieces"] == old_size and len(change.new) > 0
    assert teacher.columns[-1] == model.decoder.num_classes_with_blank - 1
    model(input_signal=AUDIO, input_signal_length=LENGTHS)
    assert teacher.loss(AUDIO, LENGTHS).item() == pytest.approx(0, abs=1e-4)


def test_a_vocabulary_without_the_checkpoints_pieces_is_refused(tiny_model):
    model = tiny_model("ctc")
    teacher = distillation.build_teacher(model, weight=0.5, temperature=1.0)
    teacher.pieces = [*teacher.pieces, "gone"]
    with pytest.raises(UserError, match=r"lacks 1 of the checkpoint's 65 pieces \('gone'\)"):
        teacher.follow(model)


def test_a_setting_without_effect_is_refused(tiny_model):
    with pytest.raises(UserError, match="no effect on rnnt models"):
        student_of(tiny_model("rnnt"), temperature=2.0)
    model = tiny_model("hybrid")
    model.ctc_loss_weight = 0.0
    with pytest.raises(UserError, match="ctc_loss_weight is 0"):
        student_of(model)


def test_off_is_off(tiny_model):
    assert distillation.build_teacher(tiny_model("ctc"), weight=0.0, temperature=1.0) is None
