"""What saving costs a run: the host's memory at its highest, and how long training stands still,
before (the code of another commit) and after (this code).

    python benchmarks/scale_saving.py --before COMMIT                      both, on a 0.1B replica
    python benchmarks/scale_saving.py --before COMMIT memory --replica parakeet_ctc_0.6b
    python benchmarks/scale_saving.py --before COMMIT disk

memory: a whole run of a replica with random weights on the CPU (it is scored, three steps, two
validations, candidates, export), sampled ten times a second: what is the process's own (anonymous),
and all that is resident in proportion, mapped files included, which the system takes back when
memory is short. disk: two ranks on the CPU that give each other up after 30 s, and a disk on which
the tiny model's checkpoint takes a minute; a run in which they give up after an hour says how long
training stood still before. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import _quiet
import real_size
from _peak import peak_of

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT_SECONDS, CHECKPOINT_BYTES = 60, 39e6  # of the tiny model with its moments
GIVEN_UP_MINUTES, PATIENT_MINUTES = 0.5, 60
RUN_LIMIT_SECONDS = 1800
BETWEEN_SAMPLES = 0.1


def checkout(commit: str, folder: Path) -> Path:
    """The code of a commit in a folder of its own."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
    return folder


def settings_for(model: str, folder: Path, *more: str) -> list[str]:
    """Overrides for a run on a few utterances of the demo; writes the manifests."""
    from parakeet_ft.data.manifest import read_manifest, write_manifest

    folder.mkdir(parents=True, exist_ok=True)
    for name, size in {"train": 8, "dev": 2}.items():
        rows = read_manifest(ROOT / "parakeet_ft" / "demo" / f"{name}.jsonl")[:size]
        write_manifest(rows, folder / f"{name}.jsonl")
    return [
        f"model={model}",
        f"data.train={folder / 'train.jsonl'}",
        f"data.validation={folder / 'dev.jsonl'}",
        "data.num_workers=0",
        "data.batch_seconds=8",
        "logger=csv",
        "trainer.accelerator=cpu",
        *more,
    ]


def run_recipe(overrides: list[str], run_dir: Path, **more: Any) -> None:
    """The recipe in this process, with the code that is on its path."""
    from parakeet_ft.run import composition
    from parakeet_ft.settings.finetune import read_finetune
    from recipes.finetune import finetune

    settings = read_finetune(
        composition.compose("finetune", composition.expand_shorthand(overrides))
    )
    finetune(settings, run_dir=run_dir, command=["benchmark"], **more)


def in_processes(
    root: Path, child: str, result: Path, overrides: list[str], *, minutes: float, ranks: int = 1
) -> list[int]:
    """Run this file's `child` in `ranks` processes with the code in `root`; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        place = {
            "RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_RANK": rank,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = os.environ | {"PYTHONPATH": str(root)}
        if ranks > 1:
            environment |= {key: str(value) for key, value in place.items()}
        command = [sys.executable, __file__, "--child", child, "--result", f"{result}.{rank}"]
        with Path(f"{result}.{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [*command, "--minutes", str(minutes), *overrides],
                    env=environment,
                    cwd=root,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    end = time.monotonic() + RUN_LIMIT_SECONDS
    for process in processes:
        try:
            process.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    return [process.wait() for process in processes]


# The host's memory.


def sample(phase: dict[str, str], peaks: dict[str, dict[str, float]]) -> None:
    """Keep the highest GB of each phase, without end."""
    while True:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        found = {
            "own": (kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]) * 1024 / 1e9,
            "resident": kilobytes["Pss"] * 1024 / 1e9,
        }
        highest = peaks.setdefault(phase["name"], found)
        for key, value in found.items():
            highest[key] = max(highest[key], value)
        time.sleep(BETWEEN_SAMPLES)


def child_memory(overrides: list[str], result: Path, minutes: float) -> None:
    """A whole run; leaves {phase: {own, resident}} in GB."""
    from parakeet_ft.run.console import Narrator

    phase, peaks, begin = {"name": "importing"}, {}, Narrator.phase

    def note(self: Narrator, name: str) -> None:
        phase["name"] = name.partition(" /")[0].partition(":")[0]
        begin(self, name)

    Narrator.phase = note
    threading.Thread(target=sample, args=(phase, peaks), daemon=True).start()
    with tempfile.TemporaryDirectory(dir=result.parent) as folder:
        run_recipe(overrides, Path(folder) / "e" / "r")
    result.write_text(json.dumps(peaks))


def measure_memory(before: Path, replica: str, layers: int | None, folder: Path) -> dict[str, Any]:
    """Peaks of both sides, by phase and of all."""
    _, _, millions = peak_of(real_size.make, replica, layers, folder)
    overrides = settings_for(
        str(folder / "base.nemo"),
        folder / "data",
        "budget.steps=3",
        "evaluation.validations=2",
        "evaluation.average_last=2",
        "evaluation.interpolation=[0.5]",
        "checkpoint.keep=1",
    )
    found: dict[str, Any] = {"replica": replica, "weights_gb": round(4 * millions / 1e3, 2)}
    for side, root in (("before", before), ("after", ROOT)):
        result = folder / side
        codes = in_processes(root, "memory", result, overrides, minutes=PATIENT_MINUTES)
        if any(codes):
            raise RuntimeError(Path(f"{result}.0.log").read_text()[-3000:])
        peaks = json.loads(Path(f"{result}.0").read_text())
        for phase, row in peaks.items():
            print(f"| {side} | {phase} | {row['own']:.1f} | {row['resident']:.1f} |", flush=True)
        found[side] = {
            key: round(max(row[key] for row in peaks.values()), 2) for key in ("own", "resident")
        } | {"own_after_training": round(own_after_training(peaks), 2)}
    return found


def own_after_training(peaks: dict[str, dict[str, float]]) -> float:
    """The highest of the phases that follow training: candidates and export."""
    return max(
        row["own"] for phase, row in peaks.items() if phase.startswith(("choosing", "exporting"))
    )


# A slow disk.


def slow_down() -> None:
    """Have checkpoints written as a disk would that takes a minute for one."""
    rate = CHECKPOINT_BYTES / CHECKPOINT_SECONDS
    try:
        from parakeet_ft.training import saving
    except ImportError:
        from parakeet_ft.training import checkpoints

        write_whole = checkpoints.write

        def write(content: Any, path: Path) -> None:
            write_whole(content, path)
            time.sleep(path.stat().st_size / rate)

        checkpoints.write = write
        return
    write_block = saving.CountedFile.write_block

    def write_slowly(self: Any, block: memoryview) -> int:
        time.sleep(len(block) / rate)
        return write_block(self, block)

    saving.CountedFile.write_block = write_slowly


def note_stalls(saver: type, stalls: dict[str, float]) -> None:
    """Add up the seconds inside each hook in which a run saves."""

    def timed(name: str) -> Any:
        hook = getattr(saver, name)

        def call(*given: Any) -> None:
            begun = time.monotonic()
            hook(*given)
            stalls[name] = stalls.get(name, 0.0) + time.monotonic() - begun

        return call

    for name in ("on_train_batch_start", "on_validation_end", "on_train_end"):
        setattr(saver, name, timed(name))


def child_disk(overrides: list[str], result: Path, minutes: float) -> None:
    """A rank of a run on a slow disk; leaves the seconds for which it stood still, by hook."""
    from parakeet_ft.distributed import ranks

    try:
        from parakeet_ft.training.checkpointer import Checkpointer
    except ImportError:
        from parakeet_ft.training.checkpoints import Checkpointer
    slow_down()
    stalls: dict[str, float] = {}
    note_stalls(Checkpointer, stalls)
    run_dir = result.parent / result.name.partition(".")[0] / "r"
    ranks.join(timeout_minutes=minutes)
    with ranks.ending_together(run_dir):
        run_recipe(overrides, run_dir)
    result.write_text(json.dumps(stalls))


def measure_disk(before: Path, folder: Path) -> dict[str, Any]:
    """Exit codes of both ranks, and how long training stood still for the save in its middle."""
    overrides = settings_for(
        "tiny",
        folder / "data",
        "budget.steps=40",
        "evaluation.validations=1",
        "evaluation.interpolation=[]",
        "checkpoint.every_steps=20",
        "trainer.strategy=ddp",
        "trainer.devices=2",
    )
    found: dict[str, Any] = {"checkpoint_seconds": CHECKPOINT_SECONDS}
    for name, root, minutes in (
        ("before", before, GIVEN_UP_MINUTES),
        ("before_patient", before, PATIENT_MINUTES),
        ("after", ROOT, GIVEN_UP_MINUTES),
    ):
        result = folder / name
        begun = time.monotonic()
        codes = in_processes(root, "disk", result, overrides, minutes=minutes, ranks=2)
        row: dict[str, Any] = {"codes": codes, "seconds": round(time.monotonic() - begun)}
        if not any(codes):
            stalls = json.loads(Path(f"{result}.0").read_text())
            row["stood_still_in_the_middle"] = round(stalls["on_train_batch_start"], 2)
            row["stood_still_at_the_end"] = round(
                stalls["on_validation_end"] + stalls["on_train_end"], 2
            )
        elif name != "before":
            raise RuntimeError(Path(f"{result}.0.log").read_text()[-3000:])
        print(f"| {name} | {row} |", flush=True)
        found[name] = row
    return found


def measure(parts: list[str], before: str, replica: str, layers: int | None) -> dict[str, Any]:
    """{part: figures} of both sides."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = checkout(before, Path(temporary) / "before")
        for part in parts:
            folder = Path(temporary) / part
            folder.mkdir()
            found[part] = (
                measure_disk(root, folder)
                if part == "disk"
                else measure_memory(root, replica, layers, folder)
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="memory|disk")
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--replica", default="parakeet_tdt_ctc_110m")
    parser.add_argument("--layers", type=int, default=None, help="fewer, to try it out")
    parser.add_argument("--child", choices=("memory", "disk"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    _quiet.silence_nemo()
    if args.child:
        child = {"memory": child_memory, "disk": child_disk}[args.child]
        child(args.parts, args.result, args.minutes)
        return
    if not args.before:
        parser.error("--before names the commit to compare with")
    parts = args.parts or ["memory", "disk"]
    print(json.dumps(measure(parts, args.before, args.replica, args.layers)))


if __name__ == "__main__":
    main()
