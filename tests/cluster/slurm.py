"""A real Slurm on this machine: one controller, two virtual nodes with a core each, a database of
none. Needs root, slurm-wlm and munge.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.cluster.ranks import free_port

NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "munge")
MUNGE_KEY = Path("/etc/munge/munge.key")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=1 RealMemory=1000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here; empty if there can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    absent = [name for name in NEEDED if not shutil.which(name)]
    return f"not installed: {', '.join(absent)}" if absent else ""


def start(folder: Path) -> dict[str, str]:
    """Start the daemons; returns the environment in which Slurm's commands find them."""
    start_munge()
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir(parents=True)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=os.uname().nodename.partition(".")[0],
            folder=folder,
            port=free_port(),
            port_1=free_port(),
            port_2=free_port(),
        )
    )
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("SLURM_")
    } | {"SLURM_CONF": str(configuration)}
    for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
        subprocess.run(
            command,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    deadline = time.monotonic() + 60
    while (states := ask(environment, "sinfo", "-h", "-N", "-o", "%t").split()) != ["idle", "idle"]:
        assert time.monotonic() < deadline, (
            f"nodes are {states}\n{(folder / 'slurmctld.log').read_text()}"
        )
        time.sleep(0.3)
    return environment


def start_munge() -> None:
    """Slurm's messages are signed by munge, with one key for a cluster."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    for folder in (Path("/run/munge"), MUNGE_KEY.parent):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    if not MUNGE_KEY.exists():
        MUNGE_KEY.write_bytes(os.urandom(1024))
        MUNGE_KEY.chmod(0o400)
        shutil.chown(MUNGE_KEY, "munge", "munge")
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "munged"], check=True)


def stop(folder: Path, environment: dict[str, str]) -> None:
    """End all jobs and the daemons."""
    subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
    deadline = time.monotonic() + 30
    while ask(environment, "squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.2)
    for path in folder.glob("*.pid"):
        subprocess.run(["kill", path.read_text().strip()], capture_output=True)


def ask(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm's prints."""
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def job(environment: dict[str, str], number: str) -> dict[str, str]:
    """What Slurm knows of a job: JobState, Restarts, ExitCode, ..."""
    words = ask(environment, "scontrol", "show", "job", number).split()
    return dict(word.split("=", 1) for word in words if "=" in word)
