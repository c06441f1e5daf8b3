"""What a run needs of its host is known before it begins, and what is missing is told."""

import os
from pathlib import Path

import pytest

from parakeet_ft import preflight
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.model.replicas import REPLICAS
from parakeet_ft.run.composition import compose, expand_shorthand
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.training import host, memory

UTTERANCES = [Utterance("a.wav", 12.0, "one two"), Utterance("b.wav", 30.0, "three")]


def settings(*overrides):
    given = ["model=parakeet_ctc_0.6b", "trainer=cpu", *overrides]
    return read_finetune(compose("finetune", expand_shorthand(given)))


def needs(*overrides, ranks_per_node=1, on_gpu=False):
    return host.needs(
        settings(*overrides),
        UTTERANCES,
        run_dir=Path("outputs/x"),
        ranks_per_node=ranks_per_node,
        on_gpu=on_gpu,
    )


def need(part, *overrides, **more):
    return next(found for found in needs(*overrides, **more) if part in found.what)


@pytest.fixture(autouse=True)
def nothing_is_here(monkeypatch):
    """The checkpoint is known by its name alone."""
    monkeypatch.setattr(memory, "locate", lambda source: None)


WEIGHTS = 4 * memory.num_weights(REPLICAS["parakeet_ctc_0.6b"])


def test_the_disk_holds_checkpoints_with_moments_one_more_than_kept_the_base_and_both_exports():
    found = need("checkpoints", "checkpoint.keep=2", "evaluation.average_last=1")
    assert found.bytes == pytest.approx((3 * 3 + 3 + 1 + 2) * WEIGHTS)
    given = "checkpoint.keep=2", "evaluation.average_last=1"
    with_average = need("checkpoints", *given, "evaluation.ema_decay=0.99")
    assert with_average.bytes - found.bytes == pytest.approx(3 * WEIGHTS)
    lora = need("checkpoints", *given, "adaptation=lora")
    assert lora.bytes < 0.7 * found.bytes


def test_free_bytes_are_those_of_the_nearest_folder_that_exists(tmp_path):
    found = host.free_on_disk(tmp_path / "not" / "yet")
    assert found == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize)


def test_shared_memory_holds_what_all_workers_have_ready():
    found = need("loader", "data.num_workers=3", "data.batch_seconds=120", ranks_per_node=2)
    assert found.bytes == 2 * 3 * 4 * 120 * 64_000
    assert need("loader", "data.num_workers=1", "data.batch_seconds=auto").bytes == 4 * 30 * 64_000


def test_beside_gpus_each_rank_holds_the_weights_once():
    names = [found.what for found in needs()]
    assert not any("copies" in name for name in names)
    one, eight = (need("copies", on_gpu=True, ranks_per_node=n) for n in (1, 8))
    assert eight.bytes == pytest.approx(8 * one.bytes)
    assert one.bytes == pytest.approx(WEIGHTS + host.SOFTWARE)


@pytest.mark.parametrize("part", ["checkpoints", "loader", "a .nemo", "copies"])
def test_what_is_missing_is_told_with_a_cure(part, monkeypatch):
    monkeypatch.setattr(host, "free_on_disk", lambda path: 1e12)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1e12)
    assert host.check(needs(on_gpu=True))[0].startswith("disk: checkpoints and exports in outputs")
    monkeypatch.setattr(host, "free_on_disk", lambda path: 1e6)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1e6)
    with pytest.raises(
        UserError, match=r"does not fit: .*about .* GB, free are 0.0 GB. \w+"
    ) as told:
        host.check([need(part, on_gpu=True)])
    assert part in str(told.value)


def test_a_run_of_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "free_on_disk", lambda path: 1e6)
    with pytest.raises(UserError, match="does not fit"):
        preflight.check_machine(settings(), {"train": UTTERANCES}, run_dir=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_of_unknown_size_leaves_the_batches():
    assert [found.what.split()[0] for found in needs("model=someone/else")] == ["batches"]
