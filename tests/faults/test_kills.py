"""Runs that are killed with SIGKILL end as if nothing had happened."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.parametrize(("kills", "options"), [(1, []), (1, ["--shards", "nemo", "--seed", "3"])])
def test_runs_killed_at_random_moments_end_with_the_weights_of_the_uninterrupted_run(
    kills, options
):
    script = Path(__file__).with_name("kill_many.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", str(kills), *options],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.splitlines()[-1] == f"{kills} of {kills} identical", (
        done.stdout + done.stderr
    )
