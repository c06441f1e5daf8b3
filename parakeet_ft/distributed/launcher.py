"""Who runs a command: this process, one process for each device of this machine, or a job on
Slurm.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from parakeet_ft.distributed.ranks import CHECKED, find_place
from parakeet_ft.errors import Stopped, UserError
from parakeet_ft.settings.finetune import Launcher, Trainer
from parakeet_ft.urls import masked

# The last line of a batch script: 75 is a run that saved and stopped, 138 one that USR1 ended where
# there was nothing to save.
REQUEUE = 'code=$?; case $code in 75|138) exec scontrol requeue "$SLURM_JOB_ID";; esac; exit $code'


def start(*, launcher: Launcher, trainer: Trainer, arguments: list[str]) -> None:
    """Return if this process shall run the command; else have it run elsewhere and exit as that
    did.

    arguments: the command line behind the script's name.
    """
    if find_place().num_ranks > 1:
        return
    if launcher.kind == "slurm":
        submit([os.path.abspath(sys.argv[0]), *arguments], launcher)
        sys.exit(0)
    num_ranks = count_devices(accelerator=trainer.accelerator, devices=trainer.devices)
    if trainer.num_nodes not in ("auto", 1):
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}, but this process was started alone. On "
            f"every node start the command with srun "
            "(recipes/slurm/finetune.sbatch does), with torchrun --nnodes, or submit it with "
            "launcher=slurm launcher.nodes=N."
        )
    if num_ranks > 1:
        sys.exit(run_ranks([sys.argv[0], *arguments], num_ranks=num_ranks))


def count_devices(*, accelerator: str, devices: int | str) -> int:
    """How many ranks this machine shall run: `devices`, or for auto one for each GPU and one for a
    CPU.
    """
    if devices != "auto":
        return int(devices)
    # torch takes a second to import, so it is asked only where a driver is.
    if accelerator == "cpu" or not (
        shutil.which("nvidia-smi") or list(Path("/dev").glob("nvidia[0-9]*"))
    ):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def run_ranks(command: list[str], *, num_ranks: int) -> int:
    """Run `python command` once for each rank and return the exit code of the first that failed, or
    0; when one fails the others are ended.

    SIGTERM, SIGINT and SIGUSR1 are passed on; the ranks have a minute to save, and the exit code is
    that of Stopped.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[CHECKED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_ranks)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id="parakeet-ft",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        shutdown_timeout=60,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"error: rank {rank} of {num_ranks} was killed by "
                f"{signal.Signals(-failure.exitcode).name}"
                f"{' (out of memory?)' if failure.exitcode == -signal.SIGKILL else ''}. The same "
                f"command continues the run.",
                file=sys.stderr,
            )
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException:
        return Stopped.code
    return 0


def submit(command: list[str], job: Launcher) -> list[str]:
    """Submit `python command` with submitit, a job for each of the seeds if there are any; prints
    and returns the jobs' numbers.

    The script that sbatch gets, and what the jobs print, are in the job's folder. Two minutes
    before the time is up the ranks get SIGUSR1; a run that saved and stopped is put back into the
    queue, and continues.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("launcher=slurm needs submitit: pip install 'parakeet-ft[slurm]'") from None
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise UserError(
            "launcher=slurm, but there is no sbatch here. Expected a machine of a Slurm cluster; "
            "leave launcher out to run on this one."
        )
    script, *arguments = (argument for argument in command if not argument.startswith("launcher"))
    # One task drives one GPU; a task with a whole node would have to start processes that Slurm
    # does not see.
    executor = submitit.SlurmExecutor(folder=Path(job.folder).resolve())
    executor.update_parameters(**_parameters(job))
    commands = [[script, *arguments, *seed] for seed in _seeds(job)]
    with executor.batch():
        jobs = [executor.submit(run_script, *given, folder=os.getcwd()) for given in commands]
    for submitted, given in zip(jobs, commands, strict=True):
        print(
            f"submitted job {submitted.job_id}: {masked(' '.join(given[1:]))}\n"
            f"  prints to {submitted.paths.stdout}"
        )
    return [submitted.job_id for submitted in jobs]


def _seeds(job: Launcher) -> list[list[str]]:
    """What each job has at the end of its command line."""
    return [[f"seed={seed}"] for seed in job.seeds] if job.seeds else [[]]


def _parameters(job: Launcher) -> dict[str, Any]:
    """The job in submitit's terms; what is not set is left to the cluster."""
    further: dict[str, str | bool | None] = {"requeue": True, "signal": "USR1@120"}
    if job.account:
        further["account"] = job.account
    for key, equals, value in (option.partition("=") for option in job.sbatch):
        further[key] = value if equals else True
    wanted = {
        "gpus_per_node": job.gpus_per_node or None,
        "partition": job.partition,
        "mem": f"{job.memory_gb:g}GB" if job.memory_gb else None,
    }
    return {
        "job_name": "parakeet-ft",
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks_per_node or max(1, job.gpus_per_node),
        "cpus_per_task": job.cpus_per_task,
        "time": max(1, round(60 * job.hours)),
        "stderr_to_stdout": True,
        "additional_parameters": further,
        "teardown": [REQUEUE],
        "srun_args": ["--kill-on-bad-exit=0", "--wait=60", f"--cpus-per-task={job.cpus_per_task}"],
        **{key: value for key, value in wanted.items() if value is not None},
    }


def run_script(script: str, *arguments: str, folder: str) -> None:
    """In a job: run a script in `folder`, as python would."""
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
