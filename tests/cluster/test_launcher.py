"""One command, several ranks: the recipe starts them itself, torchrun does, or the environment says
that somebody has.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from parakeet_ft.distributed import launcher
from parakeet_ft.distributed.ranks import Place, find_place, first_host
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.settings.finetune import read_finetune
from parakeet_ft.training import checkpoints
from tests.cluster import ranks
from tests.cluster.test_slurm import reached, tasks_of, wait_for

RECIPE = str(ranks.ROOT / "recipes" / "finetune.py")


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_rank_ends_torchrun_and_the_plain_command_continues_on_its_own_ranks(tmp_path):
    run_dir, environment = tmp_path / "run", os.environ | {"OMP_NUM_THREADS": "1"}
    settings = [
        *ranks.demo_settings(tmp_path / "sets", steps=6),
        "trainer.devices=2",
        f"hydra.run.dir={run_dir}",
    ]
    with (tmp_path / "torchrun.log").open("w") as log:
        torchrun = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=2",
                RECIPE,
                *settings,
            ],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        wait_for(lambda: reached(run_dir, 1) or torchrun.poll() is not None, "the first step")
        tasks = [pid for pid in tasks_of(run_dir) if pid != torchrun.pid]
        os.kill(max(tasks), signal.SIGKILL)
        assert torchrun.wait(ranks.SECONDS) != 0
    assert [pid for pid in tasks_of(run_dir)] == []
    stopped_at = checkpoints.step_of(checkpoints.newest(run_dir / "checkpoints")[0])
    assert stopped_at < 6, (tmp_path / "torchrun.log").read_text()

    done = subprocess.run(
        [sys.executable, RECIPE, *settings],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        done.stdout.count(f"continuing {run_dir}") == done.stdout.count("fine-tuning") == 1
        and "2 CPU rank(s), strategy ddp" in done.stdout
    )
    stored = json.loads((run_dir / "run.json").read_text())
    assert (
        stored["resumed_at_steps"] == [stopped_at]
        and stored["finished"]
        and stored["effective"]["budget"]["num_ranks"] == 2
    )
    assert (run_dir / ".hydra" / "config.yaml").exists() and not (tmp_path / "outputs").exists()


def test_the_place_comes_from_torchrun():
    place = find_place(
        {
            "RANK": "5",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "n1",
            "MASTER_PORT": "29500",
        }
    )
    assert place == Place(
        rank=5, num_ranks=8, local_rank=1, ranks_per_node=4, num_nodes=2, address="n1", port=29500
    )


SRUN = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-004,9]",
    "SLURM_NTASKS": "16",
}


def test_the_place_comes_from_srun_the_same_port_on_every_rank_and_another_for_another_job():
    place = find_place(SRUN)
    assert (
        place.rank,
        place.num_ranks,
        place.local_rank,
        place.ranks_per_node,
        place.num_nodes,
        place.address,
    ) == (9, 16, 1, 8, 2, "gpu003")
    assert (
        place.port
        == find_place(SRUN | {"SLURM_PROCID": "0"}).port
        != find_place(SRUN | {"SLURM_JOB_ID": "13"}).port
    )
    assert find_place(SRUN | {"MASTER_ADDR": "x", "MASTER_PORT": "7"}).address == "x"


def test_a_batch_script_without_srun_is_one_process_whatever_the_job_has():
    assert (
        find_place(
            {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        )
        == Place()
    )


def test_uneven_tasks_are_refused():
    with pytest.raises(UserError, match="15 tasks on 2 nodes.*--ntasks-per-node"):
        find_place(SRUN | {"SLURM_STEP_NUM_TASKS": "15"})


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[003,7-9]-ib,x", "gpu003-ib"),
        ("a,b", "a"),
        ("", "127.0.0.1"),
    ],
)
def test_the_first_host_of_slurms_list(names, first):
    assert first_host(names) == first


def test_a_cpu_runs_one_rank_unless_more_are_asked_for():
    assert launcher.count_devices(accelerator="cpu", devices="auto") == 1
    assert launcher.count_devices(accelerator="auto", devices=3) == 3


def test_several_nodes_started_alone_are_refused_with_what_to_do():
    with pytest.raises(
        UserError, match=r"trainer.num_nodes=2, but this process was started alone.*srun"
    ):
        settings = read_finetune(
            composition.compose("finetune", ["trainer=cpu", "trainer.num_nodes=2"])
        )
        launcher.start(launcher=settings.launcher, trainer=settings.trainer, arguments=[])


TRAINER = {
    "accelerator": "cpu",
    "devices": "auto",
    "num_nodes": "auto",
    "strategy": "auto",
    "precision": "auto",
    "timeout_minutes": 5,
    "tf32": True,
    "activation_checkpointing": "auto",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": 2}, "trainer.devices=2, but .* gives 1"),
        ({"precision": "16-mixed"}, "16-mixed works neither on a CPU"),
        ({"accelerator": "gpu"}, "sees no GPU"),
    ],
)
def test_what_this_machine_is_not_is_refused(change, message):
    from parakeet_ft.training import fine_tuner

    with pytest.raises(UserError, match=message):
        fine_tuner.resolve(**TRAINER | change)


def test_auto_is_told_as_what_it_became():
    from parakeet_ft.run import console
    from parakeet_ft.training import fine_tuner

    devices = fine_tuner.resolve(**TRAINER | {"precision": 32})
    assert (devices["strategy"], devices["precision"], devices["num_ranks"]) == (
        "none",
        "32-true",
        1,
    )
    assert console.devices_line(devices) == "1 CPU rank(s), strategy none, precision 32-true"
    assert console.devices_line(
        devices
        | {
            "accelerator": "gpu",
            "devices": 2,
            "devices_found": 8,
            "num_nodes": 2,
            "strategy": "ddp",
        }
    ) == (
        "2 GPU rank(s) on each of 2 nodes, strategy ddp, precision 32-true; 6 of this node's 8 "
        "GPUs are not used"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=0", "trainer.devices=0: expected auto or a whole number from 1"),
        ("trainer.num_nodes=two", "trainer.num_nodes=two"),
        ("trainer.timeout_minutes=0", "expected a number above 0"),
        ("evaluation.ema_decay=0.9", "evaluation.ema_decay with trainer.strategy=fsdp"),
    ],
)
def test_settings_that_no_ranks_can_use_are_refused_before_any_starts(override, message):
    from parakeet_ft import preflight
    from parakeet_ft.run import composition

    with pytest.raises(UserError, match=message):
        preflight.check_settings(composition.compose("finetune", ["trainer=fsdp", override]))
