"""How many processes read audio follows from what was measured, and the reason is told."""

import pytest

from parakeet_ft.batches.loaders import BatchDataset
from parakeet_ft.batches.workers import GPU_RATE, Reading, choose, device_rate, measure
from parakeet_ft.data.manifest import read_manifest

FLAC, OPUS = Reading(2676.0, 2), Reading(173.0, 4)


def chosen(reading, *, wanted=6000.0, cores=64, shared_memory=64e9):
    return choose(
        reading,
        wanted=wanted,
        wanted_is="measured",
        batch_seconds=120,
        rate_hz=16000,
        cores=cores,
        shared_memory=shared_memory,
    )


@pytest.mark.parametrize(
    ("reading", "cores", "number"), [(FLAC, 64, 3), (OPUS, 64, 44), (OPUS, 8, 7), (FLAC, 1, 1)]
)
def test_as_many_as_feed_the_device_and_one_core_is_left_for_the_trainer(reading, cores, number):
    found = chosen(reading, cores=cores)
    assert found.num_workers == number
    told = f"there are {cores} core(s)" in found.reason
    assert told == (number != {FLAC: 3, OPUS: 44}[reading])


def test_a_small_shared_memory_is_not_overrun():
    found = chosen(FLAC, shared_memory=64e6)  # docker's default; 120 s of 16 bits are 3.84 MB
    assert found.num_workers == 3 and 3 * 4 * 3.84e6 < 64e6
    found = chosen(OPUS, shared_memory=64e6)  # floats, twice as large
    assert found.num_workers == 2 and "shared memory" in found.reason
    assert "44 would feed it" in found.reason
    assert chosen(OPUS, shared_memory=1e6).num_workers == 1


def test_a_trial_of_batches_tells_what_the_device_learns_from():
    tried = {"tried": [{"audio_per_second": 40.0}, {"audio_per_second": 900.0}, {"fits": False}]}
    assert device_rate(tried, num_weights=10, on_gpu=True) == (900.0, "measured")
    rate, who = device_rate({}, num_weights=1_200_000_000, on_gpu=True)
    assert rate == GPU_RATE / 2 and "estimated" in who
    assert device_rate({"tried": []}, num_weights=10, on_gpu=False)[0] < 1000


def test_the_speed_of_reading_is_measured_on_the_files_themselves(speech):
    found = read_manifest(speech(count=5))
    read = []
    dataset = BatchDataset(found, lambda text: [1], rate_hz=16000)
    original = dataset.read
    dataset.read = lambda index, held=None: read.append(index) or original(index, held)
    reading = measure(dataset)
    assert reading.audio_per_second > 1 and reading.sample_bytes == 2
    assert sorted(set(read)) == [0, 1, 2, 3, 4]
    assert measure(BatchDataset(found[:1], lambda text: [1], rate_hz=16000)).audio_per_second > 1
