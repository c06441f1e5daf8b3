"""What is exported is finite, and is what was chosen."""

import pytest
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.export.nemo import irreproducible, save_nemo
from parakeet_ft.model.archive import check_archive
from parakeet_ft.model.restore import restore
from parakeet_ft.publishing.hub import places


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_exported_nor_restored(value, tiny_model, tmp_path):
    model = tiny_model("ctc")
    with torch.no_grad():
        model.encoder.layers[0].norm_out.weight[0] = value
    with pytest.raises(UserError, match="not finite in 1 tensors, such as encoder.layers.0"):
        save_nemo(model, tmp_path / "a.nemo")
    assert not list(tmp_path.iterdir())
    model.save_to(str(tmp_path / "b.nemo"))
    with pytest.raises(UserError, match=r"b.nemo cannot be used: it holds values that are not fin"):
        restore(str(tmp_path / "b.nemo"))


def test_an_export_names_no_place_of_the_machine_and_plain_nemo_restores_it(tiny_model, tmp_path):
    from nemo.collections.asr.models import ASRModel

    model = tiny_model("hybrid")
    assert model.cfg.tokenizer.dir.startswith("/")
    first, second = tmp_path / "first.nemo", tmp_path / "second.nemo"
    save_nemo(model, first)
    plain = ASRModel.restore_from(str(first), map_location="cpu")
    plain.save_to(str(second))
    again = ASRModel.restore_from(str(second), map_location="cpu")
    assert places(check_archive(first)) == places(check_archive(second)) == {}
    assert again.tokenizer.text_to_ids("the fox") == model.tokenizer.text_to_ids("the fox")


@pytest.mark.parametrize(
    ("found", "words", "wrong"),
    [(0.50, 340, False), (0.5055, 340, False), (0.52, 340, True), (0.5008, 10**6, False)],
)
def test_two_words_of_a_small_set_are_no_failure(found, words, wrong):
    assert bool(irreproducible(found, 0.5, words=words)) == wrong
