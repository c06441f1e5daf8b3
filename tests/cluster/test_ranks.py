"""Two ranks on a CPU over gloo: they learn the same from different batches, one of them speaks, and
they fail together.
"""

import collections
import json
import os
from pathlib import Path

import pytest
import torch

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from tests.cluster import ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(speech):
    return speech(count=12)


def configure(nemo, manifest, *more):
    return composition.compose(
        "finetune",
        composition.expand_shorthand(
            [
                f"model={nemo}",
                f"data.train={manifest}",
                f"data.validation={manifest}",
                "data.allow_overlap=true",
                f"data.guard_validation={manifest}",
                "data.num_workers=0",
                "data.batch_seconds=4",
                "logger=csv",
                "evaluation.validations=2",
                "optim.lr=1e-3",
                "budget.epochs=2",
                *more,
            ]
        ),
    )


@pytest.fixture(scope="module")
def runs(tiny_nemo, manifest, tmp_path_factory):
    """run(strategy) -> directory of a run of two passes, `one` with one process; each made once."""
    folder, made = tmp_path_factory.mktemp("outputs"), {}

    def run(name):
        if name not in made:
            strategy = "auto" if name == "one" else name
            made[name] = folder / "e" / name
            config = configure(tiny_nemo("ctc"), manifest, f"trainer.strategy={strategy}")
            codes = ranks.on_ranks(
                ranks.finetune,
                config,
                made[name],
                outputs=folder / name,
                count=1 if name == "one" else 2,
            )
            assert set(codes) == {0}, (folder / name / "0.txt").read_text() + (
                folder / name / "1.txt"
            ).read_text()
        return made[name]

    return run


def weights(run_dir, rank=0):
    return torch.load(run_dir / f"{rank}.pt", weights_only=True)


def printed(run_dir, rank):
    return (run_dir.parents[1] / run_dir.name / f"{rank}.txt").read_text()


def test_ddp_ranks_end_with_the_same_weights(runs):
    one, other = (weights(runs("ddp"), rank) for rank in (0, 1))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_ddp_ranks_see_what_one_process_sees_nothing_twice_nothing_lost(runs, manifest):
    seen = {
        name: [json.loads((runs(name) / f"{rank}.json").read_text()) for rank in range(count)]
        for name, count in (("ddp", 2), ("one", 1))
    }
    counts = {
        name: collections.Counter(index for rank in seen[name] for index in rank) for name in seen
    }
    assert counts["ddp"] == counts["one"] == dict.fromkeys(range(len(read_manifest(manifest))), 2)
    assert all(seen["ddp"])


def test_a_batch_that_one_rank_cannot_hold_is_skipped_by_all(tiny_nemo, manifest, tmp_path):
    run_dir = tmp_path / "e" / "r"
    config = configure(tiny_nemo("ctc"), manifest)
    assert ranks.on_ranks(
        ranks.finetune_short_of_memory, config, run_dir, outputs=tmp_path / "out"
    ) == [0, 0], (tmp_path / "out" / "1.txt").read_text()
    (row,) = map(json.loads, (run_dir / "bad_batches.jsonl").read_text().splitlines())
    assert (row["rank"], row["position"], row["reason"]) == (1, 1, "memory ran out") and row[
        "utterances"
    ]
    assert json.loads((run_dir / "run.json").read_text())["effective"]["bad_batches"][
        "positions"
    ] == [1]
    assert all(
        torch.equal(value, weights(run_dir, 1)[key]) for key, value in weights(run_dir).items()
    )


def test_one_rank_speaks_and_writes(runs):
    run_dir = runs("ddp")
    told = printed(run_dir, 0)
    assert told.splitlines()[-1].startswith("domain WER ")
    assert "2 CPU rank(s), strategy ddp" in told
    assert printed(run_dir, 1) == ""
    alone = {p.name for p in runs("one").iterdir()}
    assert {p.name for p in run_dir.iterdir()} == alone | {"rank1", "1.pt", "1.json"} and {
        p.name for p in (run_dir / "rank1").iterdir()
    } == {"run.log"}


def test_two_ranks_score_the_checkpoint_as_one_does(runs):
    one, two = (json.loads((runs(name) / "report.json").read_text()) for name in ("one", "ddp"))
    assert one["baseline"] == two["baseline"] and two["baseline"]["domain"]["words"] > 0
    assert [point["step"] for point in two["history"]] != [] and two["tuned"].keys() == one[
        "tuned"
    ].keys()


def test_fsdp_learns_what_ddp_learns_and_exports_the_same_model(runs):
    from nemo.collections.asr.models import ASRModel

    ddp, fsdp = runs("ddp"), runs("fsdp")
    for one, other in (
        (weights(ddp), weights(fsdp)),
        *(
            (_restore(ASRModel, run / name) for run in (ddp, fsdp))
            for name in ("best.nemo", "last.nemo")
        ),
    ):
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)


def _restore(kind, path):
    return kind.restore_from(str(path), map_location="cpu").state_dict()


def test_fsdp_divides_every_weight(tiny_model, tmp_path):
    assert ranks.on_ranks(shard_and_count, tiny_model("hybrid").cfg, outputs=tmp_path) == [0, 0], (
        tmp_path / "0.txt"
    ).read_text()
    counts = [
        json.loads((tmp_path / f"{rank}.txt").read_text().splitlines()[-1]) for rank in (0, 1)
    ]
    whole = counts[0]["whole"]
    assert (
        sum(count["here"] for count in counts) == pytest.approx(whole, rel=0.02)
        and max(count["here"] for count in counts) < 0.6 * whole
    )


def shard_and_count(cfg):
    import torch
    from nemo.collections.asr.models import ASRModel

    from parakeet_ft.distributed import sharding

    model = ASRModel.from_config_dict(cfg)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    twin = sharding.sharded(model, mesh=mesh)
    print(
        json.dumps(
            {
                "whole": sum(p.numel() for p in model.parameters()),
                "here": sum(p.to_local().numel() for p in twin.parameters()),
            }
        )
    )


def test_a_signal_to_one_fsdp_rank_saves_on_all_and_the_run_continues_to_the_same_weights(
    runs, tiny_nemo, manifest, tmp_path
):
    config, run_dir = (
        configure(tiny_nemo("ctc"), manifest, "trainer.strategy=fsdp"),
        tmp_path / "e" / "r",
    )
    assert ranks.on_ranks(ranks.finetune, config, run_dir, 2, outputs=tmp_path / "first") == [
        75,
        75,
    ], (tmp_path / "first" / "0.txt").read_text()
    assert "SIGUSR1: saved at step" in (tmp_path / "first" / "0.txt").read_text()
    assert ranks.on_ranks(ranks.finetune, config, run_dir, outputs=tmp_path / "then") == [0, 0], (
        tmp_path / "then" / "0.txt"
    ).read_text()
    one, other = weights(run_dir), weights(runs("fsdp"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_first_exception_is_told_once_with_its_rank_and_ends_all(tiny_nemo, speech, tmp_path):
    manifest, scored, run_dir = speech(count=4), speech(count=2), tmp_path / "e" / "r"
    config = configure(
        tiny_nemo("ctc"),
        manifest,
        f"data.validation={scored}",
        f"data.guard_validation={scored}",
        "data.num_workers=1",
    )
    lost = Path(read_manifest(manifest)[2].audio_filepath)
    lost.unlink()
    assert sorted(ranks.on_ranks(ranks.finetune, config, run_dir, outputs=tmp_path / "o")) == [1, 2]
    told = [(tmp_path / "o" / f"{rank}.txt").read_text() for rank in (0, 1)]
    message = [
        (rank, line)
        for rank, text in enumerate(told)
        for line in text.splitlines()
        if line.startswith("error: ")
    ]
    assert len(message) == 1, told
    rank, line = message[0]
    assert (
        line.startswith(f"error: rank {rank} of 2 on {os.uname().nodename}: ") and lost.name in line
    )
    assert "The same command continues once all audio can be read" in line
    assert (run_dir / "failure.txt").read_text().strip() == line


def test_a_rank_that_waits_for_nobody_ends_when_another_fails(tmp_path):
    assert sorted(ranks.on_ranks(fail_on_second, tmp_path, outputs=tmp_path)) == [1, 2]
    assert (tmp_path / "0.txt").read_text() == "" and "rank 1 of 2" in (
        tmp_path / "1.txt"
    ).read_text()


def fail_on_second(run_dir):
    import time

    from parakeet_ft.distributed import ranks

    with ranks.ending_together(run_dir):
        if ranks.rank() == 1:
            raise UserError("gone")
        time.sleep(600)


def test_an_error_of_rank_0s_own_work_reaches_all_ranks(tmp_path):
    assert ranks.on_ranks(fail_on_first, outputs=tmp_path) == [7, 7]


def fail_on_first():
    from parakeet_ft.distributed import ranks

    def fail():
        raise UserError(f"only rank {ranks.rank()} came here")

    try:
        ranks.on_first(fail)
    except UserError as error:
        assert str(error) == "only rank 0 came here"
        os._exit(7)


def test_ranks_wait_for_the_check_of_their_node_beyond_their_timeout(tmp_path):
    assert ranks.on_ranks(check_slowly, outputs=tmp_path) == [7, 7], (
        tmp_path / "0.txt"
    ).read_text()


def check_slowly():
    import datetime
    import time

    import torch

    from parakeet_ft.distributed import ranks

    def slow():
        time.sleep(8)
        return ranks.rank()

    def fail():
        raise UserError(f"found by rank {ranks.rank()}")

    torch.distributed.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=3))
    assert ranks.once_a_node(slow) == (0 if ranks.rank() == 0 else None)
    try:
        ranks.once_a_node(fail)
    except UserError as error:
        assert str(error) == "found by rank 0"
    try:
        ranks.on_first(slow)  # as everything else, within the timeout
    except RuntimeError:
        os._exit(7)
    time.sleep(8)  # rank 0, which was the slow one, until the other has gone
    os._exit(7)


def test_a_rank_that_gives_no_flag_is_waited_for_no_longer_than_the_timeout(tmp_path):
    assert ranks.on_ranks(wait_for_a_flag, outputs=tmp_path) == [7, 7], (
        tmp_path / "0.txt"
    ).read_text()


def wait_for_a_flag():
    import time
    from types import SimpleNamespace

    from parakeet_ft.distributed import ranks
    from parakeet_ft.training.checkpointer import Checkpointer

    saver = Checkpointer(
        Path("nowhere"),
        every_minutes=None,
        every_steps=None,
        keep=1,
        keep_weights=1,
        timeout_minutes=0.05,
    )
    trainer = SimpleNamespace(
        world_size=2, global_rank=ranks.rank(), global_step=0, accumulate_grad_batches=1
    )
    saver.on_train_start(trainer, None)
    if ranks.rank():
        time.sleep(12)
        os._exit(7)
    start = time.monotonic()
    try:
        saver._agreed(trainer, 0)
    except RuntimeError:
        os._exit(7 if time.monotonic() - start < 10 else 1)


def test_the_interface_towards_a_host_has_the_address_that_it_is_reached_from():
    from parakeet_ft.distributed.ranks import interface_towards

    assert interface_towards("127.0.0.1", 80) == "lo"
    assert interface_towards("no such host", 80) is None


def test_work_is_divided_and_comes_back_in_order(tmp_path):
    assert ranks.on_ranks(divide_and_check, outputs=tmp_path, count=3) == [0, 0, 0], (
        tmp_path / "0.txt"
    ).read_text()


def divide_and_check():
    from parakeet_ft.distributed import ranks

    shares = []

    def square(mine):
        shares.append(len(mine))
        return [number**2 for number in mine]

    assert ranks.divide(square, list(range(7))) == [number**2 for number in range(7)]
    assert ranks.divide(square, [5]) == [25]
    assert ranks.add([1, ranks.rank()]) == [3, 3]
    assert shares == [[3, 1], [2, 0], [2, 0]][ranks.rank()]


def test_ranks_that_scored_audio_of_other_lengths_train_together(tiny_nemo, manifest, tmp_path):
    import numpy
    import soundfile

    path = tmp_path / "long.wav"
    soundfile.write(path, 0.1 * numpy.random.default_rng(0).standard_normal(60 * 16000), 16000)
    short = json.loads(manifest.read_text().splitlines()[0])
    long = {"audio_filepath": str(path), "duration": 60.0, "text": "a long one"}
    scored = tmp_path / "scored.jsonl"
    scored.write_text("".join(json.dumps(row) + "\n" for row in (long, short)))
    config = configure(
        tiny_nemo("ctc"),
        manifest,
        f"data.validation={scored}",
        f"data.guard_validation={scored}",
        "evaluation.validations=1",
        "budget.epochs=1",
    )
    config["data"]["allow_overlap"] = True
    run_dir = tmp_path / "e" / "r"
    codes = ranks.on_ranks(
        ranks.finetune_without_reserved_positions, config, run_dir, outputs=tmp_path / "out"
    )
    assert codes == [0, 0], (tmp_path / "out" / "1.txt").read_text()
    sizes = [int((run_dir / f"{rank}.positions").read_text()) for rank in range(2)]
    assert sizes[0] != sizes[1], "the ranks scored the same lengths, so this shows nothing"
    assert all(
        torch.equal(value, weights(run_dir, 1)[key]) for key, value in weights(run_dir).items()
    )


def short(nemo, manifest, *more):
    one = ("evaluation.validations=1", "evaluation.interpolation=[]", "budget.epochs=1")
    return configure(nemo, manifest, *one, *more)


@pytest.mark.long
def test_a_save_that_takes_longer_than_ranks_wait_for_each_other_ends_no_run(
    tiny_nemo, manifest, tmp_path
):
    run_dir = tmp_path / "e" / "r"
    # Whose checkpoint is gathered from the ranks first.
    config = short(tiny_nemo("ctc"), manifest, "trainer.strategy=fsdp")
    # A checkpoint of 2.6 MB, 0.9 MB of weights besides: about 30 s.
    codes = ranks.on_ranks(
        ranks.finetune_on_a_disk, config, run_dir, 120e3, 20, outputs=tmp_path / "out"
    )
    told = (tmp_path / "out" / "0.txt").read_text()
    assert codes == [0, 0], told + (tmp_path / "out" / "1.txt").read_text()
    saving = json.loads((run_dir / "run.json").read_text())["effective"]["checkpoints"]
    assert saving["seconds_writing"] > 20 and "waiting for the disk: resume-step=" in told


def test_a_disk_that_refuses_a_checkpoint_ends_all_ranks_in_words(tiny_nemo, manifest, tmp_path):
    codes = ranks.on_ranks(
        ranks.finetune_on_a_disk,
        short(tiny_nemo("ctc"), manifest),
        tmp_path / "e" / "r",
        None,
        60,
        outputs=tmp_path / "out",
    )
    told = "".join((tmp_path / "out" / f"{rank}.txt").read_text() for rank in (0, 1))
    assert set(codes) <= {1, 2} and 2 in codes, told
    assert told.count("cannot be saved: [Errno 28] No space left on device") == 1, told
