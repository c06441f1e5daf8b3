"""What is exported is finite, and is what was chosen."""

import pytest
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.export.nemo import irreproducible, save_nemo
from parakeet_ft.model.restore import restore


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


@pytest.mark.parametrize(
    ("found", "words", "wrong"),
    [(0.50, 340, False), (0.5055, 340, False), (0.52, 340, True), (0.5008, 10**6, False)],
)
def test_two_words_of_a_small_set_are_no_failure(found, words, wrong):
    assert bool(irreproducible(found, 0.5, words=words)) == wrong
