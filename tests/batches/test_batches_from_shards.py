"""Training from shards is training from the single files that they were made of, to the bit."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from parakeet_ft.batches.loaders import train_loader
from parakeet_ft.batches.plan import Plan
from parakeet_ft.data.manifest import Utterance, read_manifest, write_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.data.sources import read_all
from parakeet_ft.settings.manifests import weighted


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """FLAC files of their own lengths, and shards of both layouts with six or so in each."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    rows = []
    for i in range(20):
        soundfile.write(folder / f"{i}.flac", 0.1 * rng.standard_normal(8000 + 400 * i), 16000)
        rows.append(Utterance(f"{i}.flac", 0.5 + 0.025 * i, f"it is {'what ' * (i % 3)}{i:02d}"))
    write_manifest(rows, folder / "m.jsonl")
    for layout in ("nemo", "shar"):
        write_shards(
            folder / "m.jsonl",
            out=folder / layout,
            hours=5 / 3600,
            format=layout,
            executor=InlineExecutor,
        )
    return folder


def loader(model, utterances, *, start=0, **options):
    plan = Plan(utterances, len(utterances), batch_seconds=3.0, seed=1, **options)
    num_batches = 2 * plan.steps_of_pass()
    return train_loader(plan, model, num_batches=num_batches, num_workers=0, start=start)


@pytest.mark.parametrize("layout", ["nemo", "shar"])
def test_batches_from_shards_are_those_from_single_files_to_the_bit(corpus, tiny_model, layout):
    model = tiny_model("ctc")
    shards = read_all(weighted(str(corpus / layout)))
    assert len({u.member.file for u in shards}) == 3
    by_text = {u.text: u for u in read_manifest(corpus / "m.jsonl")}
    single = [by_text[u.text] for u in shards]
    pairs = list(zip(loader(model, shards), loader(model, single), strict=True))
    assert len(pairs) > 8
    for ours, theirs in pairs:
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_loader_that_begins_in_the_middle_of_shards_goes_on_with_the_same_batches(
    corpus, tiny_model
):
    model, shards = tiny_model("ctc"), read_all(weighted(str(corpus / "nemo")))
    whole = list(loader(model, shards))
    for start in (1, 3, len(whole) - 2):
        rest = list(loader(model, shards, start=start))
        assert len(rest) == len(whole) - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_workers_read_the_same_from_shards_that_they_opened_before_they_were_forked(
    corpus, tiny_model
):
    model, shards = tiny_model("ctc"), read_all(weighted(str(corpus / "nemo")))
    plan = Plan(shards, len(shards), batch_seconds=3.0, seed=1)
    count = plan.steps_of_pass()
    here = list(train_loader(plan, model, num_batches=count, num_workers=0))
    there = list(train_loader(plan, model, num_batches=count, num_workers=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(here, there, strict=True))


def test_a_member_that_cannot_be_read_ends_the_training_and_is_named(corpus, tiny_model, tmp_path):
    shards = read_all(weighted(str(corpus / "nemo")))
    gone = dataclasses.replace(shards[0].member, file=str(tmp_path / "gone.tar"))
    broken = [dataclasses.replace(u, member=gone) for u in shards]
    with pytest.raises(Exception, match="gone.tar") as error:
        next(iter(loader(tiny_model("ctc"), broken)))
    assert error.value.code == 2
