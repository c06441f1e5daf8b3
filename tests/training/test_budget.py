"""When a run validates."""

import itertools

import pytest

from parakeet_ft.training.budget import validation_steps


@pytest.mark.parametrize(
    "num_steps, validations, steps",
    [
        (446, 5, [89, 178, 267, 356, 446]),  # 445 would be right before the last
        (450, 5, [90, 180, 270, 360, 450]),
        (480, 20, list(range(24, 481, 24))),
        (5, 2, [2, 5]),
        (3, 2, [3]),
        (3, 5, [1, 2, 3]),
        (1, 1, [1]),
    ],
)
def test_validations_are_evenly_spaced_and_none_stands_right_before_the_last(
    num_steps, validations, steps
):
    assert validation_steps(num_steps, validations=validations) == steps


def test_whatever_the_numbers_the_last_step_is_validated_and_no_two_are_next_to_each_other():
    for num_steps in range(1, 200):
        for validations in range(1, 30):
            found = validation_steps(num_steps, validations=validations)
            every = max(1, round(num_steps / validations))
            gaps = [b - a for a, b in itertools.pairwise(found)]
            assert found[-1] == num_steps and found == sorted(set(found))
            assert all(gap >= min(2, every) for gap in gaps)
            wanted = min(validations, num_steps)
            assert wanted / 2 - 1 <= len(found) <= 1.5 * wanted + 1
