"""What a second process gives, and what ten times the data costs.

    python benchmarks/scaling.py               # --short: less data, one repeat

Training: audio seconds per second of optimisation with 1 and with 2 processes (DDP over gloo on
CPUs, one thread each), as efficiency. Data preparation: the same hour with 1 job, 2 jobs and 2
workers of a Dask cluster, as efficiency; and seconds and peak memory per hour of audio at 1x and
10x the data. A machine with two busy cores cannot show more than it has: efficiency of 1 is twice
the speed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _quiet  # noqa: F401
from _sides import HERE, show, summary

from data_prep import generate

FROM_TABLE = HERE.parent / "data_prep" / "from_table.py"


def training_speed(processes: int, *, steps: int, folder: Path) -> float:
    """Audio seconds per second between the first and the last step, all ranks."""
    overrides = [
        "trainer.accelerator=cpu",
        f"budget.steps={steps // processes}",
        "evaluation.validations=1",
        "data.num_workers=1",
        "logger=csv",
        f"hydra.run.dir={folder}/train{processes}-{time.time_ns()}",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            HERE / "_ours.py",
            "--",
            *overrides,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=900,
    )
    events = [
        json.loads(line)
        for line in done.stdout.splitlines()
        if line.startswith('{"event": "trained"')
    ]
    if len(events) != processes:
        raise SystemExit(
            f"{processes} processes, but {len(events)} told their speed:\n{done.stdout[-2000:]}"
        )
    return sum(event["audio_seconds_per_second"] for event in events)


@contextlib.contextmanager
def dask_cluster(workers: int):
    """Address of a scheduler with so many workers of one thread, each a process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def prepare(table: Path, out: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and peak MB of the largest process of one run of data_prep/from_table.py."""
    begun = time.perf_counter()
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, "
        "sys.argv[0].rsplit('/', 2)[0])\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: "
        "print(max(resource.getrusage(w).ru_maxrss for w in (0, -1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FROM_TABLE), str(table), "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - begun, int(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--minutes", type=float, default=20, help="of audio; ten times as much is prepared too"
    )
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    if args.short:
        args.repeats, args.steps, args.minutes = 1, 24, 10
    speeds: dict[int, list[float]] = {1: [], 2: []}
    seconds: dict[str, list[float]] = {"1 job": [], "2 jobs": [], "2 Dask workers": []}
    growth: dict[str, list[float]] = {"1x": [], "10x": []}
    memory: dict[str, list[float]] = {"1x": [], "10x": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate(folder / "one", args.minutes)
        generate(folder / "ten", 10 * args.minutes)
        one, ten = folder / "one" / "table.csv", folder / "ten" / "table.csv"
        with dask_cluster(2) as address:
            for repeat in range(args.repeats):
                for processes, found in speeds.items():
                    found.append(training_speed(processes, steps=args.steps, folder=folder))
                for name, arguments in (
                    ("1 job", ["--jobs", "1"]),
                    ("2 jobs", ["--jobs", "2"]),
                    ("2 Dask workers", ["--scheduler", address]),
                ):
                    seconds[name].append(prepare(one, folder / f"out{repeat}{name}", *arguments)[0])
                for name, table, hours in (
                    ("1x", one, args.minutes / 60),
                    ("10x", ten, args.minutes / 6),
                ):
                    took, peak = prepare(table, folder / f"grown{repeat}{name}", "--jobs", "2")
                    growth[name].append(took / hours)
                    memory[name].append(peak)
    efficiency = summary([two / (2 * one) for one, two in zip(speeds[1], speeds[2], strict=True)])
    prepared = {
        name: summary([a / (2 * b) for a, b in zip(seconds["1 job"], seconds[name], strict=True)])
        for name in ("2 jobs", "2 Dask workers")
    }
    show(
        "training",
        {f"{n} process{'es' if n > 1 else ''}": summary(found) for n, found in speeds.items()},
        "audio s/s",
    )
    show("data preparation", {name: summary(found) for name, found in seconds.items()}, "s")
    show(
        "efficiency of two",
        {"training": efficiency, **{f"preparation, {name}": row for name, row in prepared.items()}},
        "",
    )
    show("seconds per hour of audio", {name: summary(found) for name, found in growth.items()}, "s")
    show("peak memory", {name: summary(found) for name, found in memory.items()}, "MB")
    print(
        json.dumps(
            {
                "training_efficiency": efficiency["median"],
                "jobs_efficiency": prepared["2 jobs"]["median"],
                "dask_efficiency": prepared["2 Dask workers"]["median"],
                "time_per_hour_10x_to_1x": summary(
                    [b / a for a, b in zip(growth["1x"], growth["10x"], strict=True)]
                )["median"],
                "memory_10x_to_1x": summary(
                    [b / a for a, b in zip(memory["1x"], memory["10x"], strict=True)]
                )["median"],
            }
        )
    )


if __name__ == "__main__":
    main()
