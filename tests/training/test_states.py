"""States that are made tensor by tensor."""

import pytest
import torch

from parakeet_ft.training import lora, states
from parakeet_ft.training.weight_selection import average, interpolate


def test_loading_makes_every_tensor_once_and_holds_none():
    model = torch.nn.Linear(2, 3)
    asked = []

    def make(key):
        asked.append(key)
        return torch.full_like(model.state_dict()[key], 7.0)

    states.load(model, states.MadeWhenAsked(model.state_dict(), make))
    assert asked == ["weight", "bias"] and bool((model.weight == 7).all())


def test_other_names_or_shapes_are_refused():
    model = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="same tensors"):
        states.load(model, {"weight": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"weight is \(2, 3\), expected \(3, 2\)"):
        states.load(model, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)})
    with pytest.raises(KeyError):
        states.MadeWhenAsked(["a"], lambda key: torch.zeros(1))["b"]


def test_what_is_made_of_a_file_reads_it_when_asked(tmp_path):
    torch.save({"w": torch.arange(4.0)}, tmp_path / "x")
    mapped = torch.load(tmp_path / "x", mmap=True)
    middle = interpolate({"w": torch.zeros(4)}, average([mapped, {"w": torch.ones(4)}]), 0.5)
    assert middle["w"].tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_moving_average_has_the_counters_of_the_last_weights():
    last = {"w": torch.zeros(1), "seen": torch.tensor(9)}
    found = states.over({"w": torch.ones(1)}, last)
    assert {key: value.item() for key, value in found.items()} == {"w": 1.0, "seen": 9}


def test_halves_become_single_precision_and_counters_stay():
    found = states.float32({"w": torch.ones(1, dtype=torch.bfloat16), "seen": torch.tensor(9)})
    assert found["w"].dtype == torch.float32 and found["seen"].dtype == torch.int64


def test_a_product_beside_a_layer_is_merged_when_asked():
    state = {
        "a.base_layer.weight": torch.zeros(2, 2),
        "a.lora_A.default.weight": torch.ones(1, 2),
        "a.lora_B.default.weight": torch.ones(2, 1),
        "b.weight": torch.ones(1),
    }
    merged = lora.merge_state(state, scaling={"a": 0.5})
    assert list(merged) == ["a.weight", "b.weight"]
    assert merged["a.weight"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
