"""Two hosts, which are network namespaces joined by a cable: it is pulled for five seconds, then
one host dies.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from parakeet_ft.training import checkpoints
from tests.cluster import ranks
from tests.cluster.test_slurm import wait_for

pytestmark = pytest.mark.long
HOSTS = ("10.77.0.1", "10.77.0.2")


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces that reach each other by one cable and nothing else; the end
    of the cable has the host's name.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names = [f"pk{os.getpid()}{end}" for end in "ab"]
    if subprocess.run(["ip", "netns", "add", names[0]], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for name, address in zip(names, HOSTS, strict=True):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for device in (name, "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def torchrun(host, number, port, log, settings):
    """The recipe on one of two hosts; a process group of its own, so that all of it can be
    killed.
    """
    command = [
        "ip",
        "netns",
        "exec",
        host,
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        f"--node-rank={number}",
        f"--master-addr={HOSTS[0]}",
        f"--master-port={port}",
        str(ranks.ROOT / "recipes" / "finetune.py"),
        *settings,
    ]
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=ranks.ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_pulled_cable_is_survived_and_a_dead_host_ends_the_other(hosts, tmp_path):
    run_dir, port = tmp_path / "run", ranks.free_port()
    settings = [
        *ranks.demo_settings(tmp_path / "sets", steps=10_000),
        f"hydra.run.dir={run_dir}",
        "trainer.num_nodes=2",
        "trainer.timeout_minutes=1",
    ]
    logs = [tmp_path / f"{host}.log" for host in hosts]
    with logs[0].open("w") as one, logs[1].open("w") as other:
        runs = [
            torchrun(host, number, port, log, settings)
            for number, (host, log) in enumerate(zip(hosts, (one, other), strict=True))
        ]
        try:

            def step():
                assert all(run.poll() is None for run in runs), "".join(
                    log.read_text() for log in logs
                )
                return max(
                    map(checkpoints.step_of, checkpoints.find(run_dir / "checkpoints", "resume")),
                    default=0,
                )

            wait_for(lambda: step() >= 1, "the first step")
            ip("-n", hosts[0], "link", "set", hosts[0], "down")
            time.sleep(5)
            ip("-n", hosts[0], "link", "set", hosts[0], "up")
            before = step()
            wait_for(lambda: step() >= before + 3, "steps after the cable is back")

            # The cable first: a host without power says goodbye to nobody.
            ip("-n", hosts[1], "link", "set", hosts[1], "down")
            # All of the host's processes: torchrun's workers are in sessions of their own.
            for pid in subprocess.run(
                ["ip", "netns", "pids", hosts[1]], capture_output=True, text=True, check=True
            ).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            assert runs[0].wait(ranks.SECONDS) != 0
        finally:
            for run in runs:
                if run.poll() is None:
                    os.killpg(run.pid, signal.SIGKILL)
    told = logs[0].read_text()
    assert (
        "error: rank 0 of 2" in told
        and "lost the others" in told
        and "its host or network is down" in told
    )
    assert (run_dir / "failure.txt").exists()
