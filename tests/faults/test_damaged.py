"""A part of the damaged inputs of damaged_inputs.py, in this process: each is told in words."""

import pytest
from damaged_inputs import gather, try_out


# Restoring a model takes a fifth of a second.
@pytest.mark.parametrize(
    ("kind", "every"),
    [("tables", 4), ("audio", 4), ("manifests", 4), ("nemo_files", 9), ("run_directories", 4)],
)
def test_damaged_inputs_are_told_in_words_and_change_nothing_silently(tmp_path, kind, every):
    for case in gather(tmp_path, (kind,), every=every):
        outcome = try_out(case)
        bad = outcome.traceback or outcome.silent
        assert not bad, f"{case.kind} {case.name}: {outcome.message}"
