"""A part of the damaged inputs of damaged_inputs.py, in this process: each is told in words."""

import pytest
from damaged_inputs import gather, try_out


@pytest.mark.parametrize("kind", ["tables", "audio", "manifests", "nemo_files", "run_directories"])
def test_damaged_inputs_are_told_in_words_and_change_nothing_silently(tmp_path, kind):
    for case in gather(tmp_path, (kind,), every=4):
        outcome = try_out(case)
        bad = outcome.traceback or outcome.silent
        assert not bad, f"{case.kind} {case.name}: {outcome.message}"
