"""Audio that goes away while a loader's workers read it is told as it is, and nobody waits."""

import pickle
import subprocess
import sys

import pytest
import torch

from parakeet_ft.batches.loaders import BatchDataset, TimedLoader
from parakeet_ft.data.audio_file import AudioError
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.run.directory import lost_audio_told


class Lost(BatchDataset):
    """A data set whose reading fails in its own way."""

    def __init__(self, error):
        self.error = error

    def batch(self, indices):
        raise self.error


def loader(dataset, *, num_workers):
    return TimedLoader(dataset, sampler=[[0], [1]], batch_size=None, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_is_deleted_under_a_loader_is_named_in_one_sentence(num_workers, speech):
    found = read_manifest(speech(count=3))
    dataset = BatchDataset(found, lambda text: [1], rate_hz=16000)
    with open(found[1].audio_filepath, "r+b") as file:
        file.truncate(0)
    batches = iter(loader(dataset, num_workers=num_workers))
    assert len(next(batches)) == 4
    with pytest.raises(AudioError) as told:
        next(batches)
    assert str(told.value) == f"{found[1].audio_filepath} has zero bytes."
    assert told.value.reason == "zero_bytes"
    assert torch.multiprocessing.active_children() == []


@pytest.mark.parametrize(
    "error", [UserError("no package for s3://"), OSError(5, "Input/output error", "a.tar")]
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_whatever_reading_says_is_told_as_lost_audio(error, num_workers):
    with pytest.raises(AudioError, match="no package for s3|Input/output error: 'a.tar'"):
        next(iter(loader(Lost(error), num_workers=num_workers)))


def test_a_worker_that_fails_in_any_other_way_lets_the_process_end():
    code = (
        "import torch\n"
        "from parakeet_ft.batches.loaders import TimedLoader\n"
        "from parakeet_ft.run import signals\n"
        "class Broken(torch.utils.data.Dataset):\n"
        "    def __getitem__(self, index):\n"
        "        raise RuntimeError('a bug')\n"
        "def learn():\n"
        "    for batch in TimedLoader(Broken(), sampler=[0], batch_size=None, num_workers=1,\n"
        "                             worker_init_fn=signals.leave_to_parent):\n"
        "        pass\n"
        "learn()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.strip().endswith("RuntimeError: a bug")


def test_an_error_of_audio_goes_from_process_to_process():
    sent = pickle.loads(pickle.dumps(AudioError("missing", "No audio at a.wav.")))
    assert (sent.reason, str(sent)) == ("missing", "No audio at a.wav.")


def test_a_run_that_loses_audio_says_what_is_kept_and_how_it_goes_on(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError) as told, lost_audio_told(tmp_path):
        raise AudioError("missing", "No audio at a.wav.")
    text = str(told.value)
    assert text.startswith("No audio at a.wav. ") and f"kept in {tmp_path}" in text
    assert "The same command continues once all audio can be read" in text
    assert not isinstance(told.value, AudioError) and told.value.code == 2
