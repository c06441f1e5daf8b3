"""A Slurm for the tests of this folder, started when the first one asks for it."""

import pytest

from tests.cluster import slurm


@pytest.fixture(scope="session")
def slurm_environment(tmp_path_factory):
    """The environment in which sbatch finds a running Slurm of two nodes with one core each."""
    if reason := slurm.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    environment = slurm.start(folder)
    yield environment
    slurm.stop(folder, environment)
