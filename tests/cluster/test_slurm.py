"""A real Slurm with two virtual nodes: jobs of two tasks, put back into the queue by hand and by
their time limit, end as the run that was never stopped.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from parakeet_ft.run import composition
from parakeet_ft.training import checkpoints
from tests.cluster import ranks, slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
STEPS = 10


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return ranks.demo_settings(tmp_path_factory.mktemp("sets"), steps=STEPS)


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    """The run of two ranks that is never stopped, started without Slurm."""
    folder = tmp_path_factory.mktemp("reference")
    config = composition.compose("finetune", composition.expand_shorthand(settings))
    assert ranks.on_ranks(ranks.finetune, config, folder / "run", outputs=folder) == [0, 0], (
        folder / "0.txt"
    ).read_text()
    return folder / "run"


def wait_for(condition, what, seconds=ranks.SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return found


def tasks_of(run_dir):
    """The processes that train in run_dir, without their loader workers."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            str(run_dir).encode() in b" ".join(words)
            and any(word.endswith(b"recipes/finetune.py") for word in words)
            and b"python" in words[0]
        ):
            with contextlib.suppress(OSError):
                fields = path.with_name("stat").read_text().rpartition(")")[2].split()
                found[int(path.parent.name)] = int(fields[1]), words
    # A worker is a fork of its task: the same command line.
    return [
        pid
        for pid, (parent, words) in found.items()
        if parent not in found or found[parent][1] != words
    ]


def is_pending_or_done(pid, number):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    return any(
        int(line.split()[1], 16) >> (number - 1) & 1
        for line in lines
        if line.startswith(("SigPnd", "ShdPnd"))
    )


def reached(run_dir, step):
    return any(
        checkpoints.step_of(path) >= step
        for path in checkpoints.find(run_dir / "checkpoints", "resume")
    )


def start_again(environment, number, run_dir, restarts):
    """Wait until the job is in the queue for the given time with its tasks gone, and spare it
    Slurm's two minutes there.

    Not all of them: slurmd refuses a job that begins within the second of its requeue ("already
    killed"), and the job has then failed.
    """
    wait_for(
        lambda: (
            slurm.job(environment, number).get("Restarts") == str(restarts)
            and slurm.job(environment, number)["JobState"] == "PENDING"
            and not tasks_of(run_dir)
        ),
        f"restart {restarts}",
    )
    slurm.ask(environment, "scontrol", "update", f"JobId={number}", "StartTime=now+5")


@pytest.mark.long
def test_a_job_requeued_by_hand_and_by_its_time_limit_ends_as_the_run_that_was_never_stopped(
    slurm_environment, settings, reference, tmp_path
):
    run_dir, environment = (
        tmp_path / "run",
        slurm_environment
        | {"PYTHON": sys.executable, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
    )
    submitted = slurm.ask(
        environment,
        "sbatch",
        "--parsable",
        "--nodes=2",
        "--cpus-per-task=1",
        "--time=20",
        f"--output={tmp_path / 'job.log'}",
        f"--chdir={ranks.ROOT}",
        str(ranks.ROOT / "recipes" / "slurm" / "finetune.sbatch"),
        *(setting for setting in settings if not setting.startswith("data.num_workers")),
        "data.num_workers=2",
        "trainer=ddp_multinode",
        "trainer.accelerator=cpu",
        f"hydra.run.dir={run_dir}",
    )
    number = submitted.strip()
    assert number.isdigit(), submitted

    wait_for(lambda: reached(run_dir, 2), "step 2")
    slurm.ask(environment, "scontrol", "requeue", number)
    start_again(environment, number, run_dir, 1)

    step = checkpoints.step_of(checkpoints.newest(run_dir / "checkpoints")[0])
    wait_for(
        lambda: len(tasks_of(run_dir)) == 2 and reached(run_dir, step + 1),
        "a step after the restart",
    )
    # Stopped, so that no step is done until Slurm finds that two minutes are left, which it looks
    # for twice a minute. It may wake them itself.
    tasks = tasks_of(run_dir)
    for pid in tasks:
        os.kill(pid, signal.SIGSTOP)
    hours, minutes, _ = slurm.job(environment, number)["RunTime"].split(":")
    slurm.ask(
        environment,
        "scontrol",
        "update",
        f"JobId={number}",
        f"TimeLimit={60 * int(hours) + int(minutes) + 2}",
    )
    try:
        wait_for(
            lambda: all(is_pending_or_done(pid, signal.SIGUSR1) for pid in tasks),
            "SIGUSR1 of Slurm",
            seconds=60,
        )
    finally:
        for pid in tasks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    start_again(environment, number, run_dir, 2)
    slurm.ask(environment, "scontrol", "update", f"JobId={number}", "TimeLimit=20")

    wait_for(
        lambda: (
            slurm.job(environment, number)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING")
        ),
        "the job's end",
    )
    log = (tmp_path / "job.log").read_text()
    assert slurm.job(environment, number)["JobState"] == "COMPLETED", log
    assert "SIGUSR1: saved at step" in log and log.count(f"continuing {run_dir}") == 2
    assert not [line for line in log.splitlines() if line.startswith("error:")]
    stored = json.loads((run_dir / "run.json").read_text())
    assert len(stored["resumed_at_steps"]) == 2 and stored["effective"]["trainer"]["num_nodes"] == 2
    newest = [
        checkpoints.read(checkpoints.find(directory / "checkpoints", "resume")[-1])
        for directory in (run_dir, reference)
    ]
    assert [content["global_step"] for content in newest] == [STEPS, STEPS]
    one, other = (content["state_dict"] for content in newest)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert (
        json.loads((run_dir / "report.json").read_text())["tuned"]
        == json.loads((reference / "report.json").read_text())["tuned"]
    )


def test_launcher_slurm_submits_the_command_once_for_each_seed(slurm_environment, tmp_path):
    settings = ranks.demo_settings(tmp_path / "sets", steps=1)
    done = subprocess.run(
        [
            sys.executable,
            str(ranks.ROOT / "recipes" / "finetune.py"),
            *settings,
            "launcher=slurm",
            "launcher.gpus_per_node=0",
            "launcher.cpus_per_task=1",
            "launcher.hours=0.5",
            "launcher.seeds=[3,4]",
            'launcher.sbatch=["comment=test"]',
            "name=x",
        ],
        cwd=tmp_path,
        env=slurm_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    numbers = [
        line.split()[2].rstrip(":")
        for line in done.stdout.splitlines()
        if line.startswith("submitted job")
    ]
    for number in numbers:
        wait_for(
            lambda number=number: (
                slurm.job(slurm_environment, number)["JobState"]
                not in ("PENDING", "RUNNING", "COMPLETING")
            ),
            "the job's end",
        )
        log = next((tmp_path / "outputs" / "slurm").glob(f"{number}*.out")).read_text()
        assert slurm.job(slurm_environment, number)["JobState"] == "COMPLETED", log
    runs = [
        json.loads(path.read_text())
        for path in (tmp_path / "outputs" / "x").glob("[0-9]*/run.json")
    ]
    assert sorted(run["config"]["seed"] for run in runs) == [3, 4] and all(
        run["finished"] for run in runs
    )
    script = next((tmp_path / "outputs" / "slurm").glob("*.sh")).read_text()
    for line in (
        "#SBATCH --signal=USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --time=30",
        "#SBATCH --comment=test",
        "--kill-on-bad-exit=0",
        "scontrol requeue",
    ):
        assert line in script


def test_data_is_prepared_by_workers_that_slurm_starts(slurm_environment, speech, tmp_path):
    manifest = speech(count=4)
    script = [sys.executable, str(ranks.ROOT / "data_prep" / "nemo_manifest.py"), str(manifest)]
    local = subprocess.run(
        [*script, "--out", str(tmp_path / "local"), "--jobs", "1"],
        capture_output=True,
        text=True,
        cwd=ranks.ROOT,
    )
    dask = {
        "CORES": "1",
        "MEMORY": "500MB",
        "WALLTIME": "00:10:00",
        "LOG_DIRECTORY": str(tmp_path / "logs"),
    }
    environment = (
        slurm_environment
        | {f"DASK_JOBQUEUE__SLURM__{key}": value for key, value in dask.items()}
        | {"DASK_TEMPORARY_DIRECTORY": str(tmp_path)}
    )
    done = subprocess.run(
        [*script, "--out", str(tmp_path / "slurm"), "--jobs", "2", "--slurm"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ranks.ROOT,
        timeout=ranks.SECONDS,
    )
    assert local.returncode == done.returncode == 0, done.stdout + done.stderr
    one, other = (
        (tmp_path / where / "train.jsonl").read_text().replace(str(tmp_path / where), "")
        for where in ("local", "slurm")
    )
    assert one == other != ""
    assert list((tmp_path / "logs").glob("*")), "no job of Slurm's left a log"


def test_without_slurm_the_launcher_says_so(tmp_path):
    path = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not shutil.which("sbatch", path=folder)
    )
    done = subprocess.run(
        [sys.executable, str(ranks.ROOT / "recipes" / "finetune.py"), "launcher=slurm"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and "there is no sbatch here" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "outputs").exists()
