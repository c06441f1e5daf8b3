"""Kill the demo's fine-tuning with SIGKILL at random moments, give the same command again, and
compare with the run that was never killed.

    python tests/faults/kill_many.py --kills 50                  one process
    python tests/faults/kill_many.py --kills 50 --processes 2    two ranks, one of them is killed
    python tests/faults/kill_many.py --kills 50 --shards shar    training and replay from shards

Each trial is a run of its own: started, killed at a moment drawn uniformly from the length of the
uninterrupted run, and started again unless it had finished. Identical means: every tensor of the
last checkpoint and of best.nemo, the report's scores, and the set of files. Processes are forked
from one that has imported NeMo, so that the moments fall into the run and not into its imports; the
demo is cut to a few utterances and steps, with a checkpoint after every step, so that many fall
into a save. Last line: `N of N identical`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIZES = {"train": 12, "dev": 3, "test": 3, "guard": 3, "guard_dev": 3, "replay": 12}


def write_manifests(folder: Path, *, shards: str | None) -> list[str]:
    """The first utterances of the demo's manifests, those that are trained on as shards of a few
    each if a layout is named, and the overrides that name them.
    """
    from parakeet_ft.data.manifest import read_manifest, write_manifest
    from parakeet_ft.data.parallel import InlineExecutor
    from parakeet_ft.data.shards import write_shards

    for name, size in SIZES.items():
        write_manifest(
            read_manifest(ROOT / "parakeet_ft" / "demo" / f"{name}.jsonl")[:size],
            folder / f"{name}.jsonl",
        )
    trained = {name: f"{name}.jsonl" for name in ("train", "replay")}
    for name in trained if shards else ():
        trained[name] = f"{name}_shards"
        write_shards(
            folder / f"{name}.jsonl",
            out=folder / trained[name],
            hours=15 / 3600,
            format=shards,
            executor=InlineExecutor,
        )
    roles = {
        "data.train": trained["train"],
        "data.validation": "dev.jsonl",
        "data.test": "test.jsonl",
        "data.guard_test": "guard.jsonl",
        "data.guard_validation": "guard_dev.jsonl",
        "data.replay.manifest": trained["replay"],
    }
    return [
        *(f"{key}={folder / name}" for key, name in roles.items()),
        "data.replay.ratio=1",
        "name=killed",
        "model=tiny",
    ]


def start(overrides: list[str], folder: Path, *, processes: int) -> list[int]:
    """Fork the recipe as a user runs it (as torchrun runs it for several ranks) in `folder`;
    returns the process numbers by rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            os.setsid()
            os.chdir(folder)
            log = os.open(folder / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if processes > 1:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    GROUP_RANK="0",
                    WORLD_SIZE=str(processes),
                    LOCAL_WORLD_SIZE=str(processes),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                    TORCHELASTIC_RUN_ID=f"kill-{port}",
                )
            sys.argv = [str(ROOT / "recipes" / "finetune.py"), *overrides]
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return children


def wait(children: list[int], *, seconds: float = 600) -> list[int]:
    """Exit codes by rank; what still runs after `seconds` is killed and counts as -9."""
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[child] for child in children]


def fingerprint(run_dir: Path) -> dict[str, object]:
    """All that must not differ: hashes of the last checkpoint's and best.nemo's tensors, scores,
    files.
    """
    import torch
    from nemo.collections.asr.models import ASRModel

    from parakeet_ft.training import checkpoints

    def digest(state: dict[str, torch.Tensor]) -> str:
        sha = hashlib.sha256()
        for key in sorted(state):
            sha.update(key.encode() + state[key].contiguous().numpy().tobytes())
        return sha.hexdigest()

    report = json.loads((run_dir / "report.json").read_text())
    last = checkpoints.read(checkpoints.find(run_dir / "checkpoints", "resume")[-1])
    return {
        "last": digest(last["state_dict"]),
        "best": digest(
            ASRModel.restore_from(str(run_dir / "best.nemo"), map_location="cpu").state_dict()
        ),
        "scores": report["tuned"],
        "history": report["history"],
        "files": sorted(
            str(p.relative_to(run_dir))
            for p in run_dir.rglob("*")
            if p.is_file() and "tensorboard" not in p.parts and p.name != ".lock"
        ),
    }


def finished(folder: Path) -> Path:
    """The one run of a trial. Raises RuntimeError if there are several or none: then a kill cost a
    run.
    """
    runs = [
        p
        for p in (folder / "outputs" / "killed").iterdir()
        if p.is_dir() and not p.is_symlink() and (p / "run.json").exists()
    ]
    if len(runs) != 1 or not json.loads((runs[0] / "run.json").read_text())["finished"]:
        raise RuntimeError(f"{len(runs)} runs under {folder}, expected one that finished")
    return runs[0]


def moment(folder: Path) -> str:
    """Where the kill fell, read from what it left on the disk."""
    root = folder / "outputs" / "killed"
    if any(json.loads(path.read_text())["finished"] for path in root.glob("[0-9]*/run.json")):
        return "after the end"
    if any(root.rglob("checkpoints/.*.tmp")):
        return "in a save of a checkpoint"
    if any(root.rglob("last.nemo")) or any(root.rglob(".*.tmp")):
        return "after training"
    return "in training" if any(root.rglob("resume-step=*.ckpt")) else "before training"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shards", choices=("nemo", "shar"), help="train from shards")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import nemo.collections.asr.models  # noqa: F401
    from nemo.utils import logging as nemo_logging

    nemo_logging._logger.addFilter(lambda record: record.levelno >= logging.ERROR)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        overrides = [
            *write_manifests(root, shards=args.shards),
            f"budget.steps={args.steps}",
            "evaluation.validations=2",
            "evaluation.interpolation=[0.5]",
            "checkpoint.every_steps=1",
            "data.num_workers=0",
            "logger=csv",
            *(
                ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={args.processes}"]
                if args.processes > 1
                else []
            ),
        ]
        (root / "whole").mkdir()
        begun = time.monotonic()
        codes = wait(start(overrides, root / "whole", processes=args.processes))
        if any(codes):
            print(
                (root / "whole" / "rank0.log").read_text()[-3000:],
                f"the uninterrupted run failed with exit codes {codes}",
                sep="\n",
            )
            return 1
        length = time.monotonic() - begun
        expected = fingerprint(finished(root / "whole"))
        print(f"uninterrupted: {length:.1f} s", flush=True)
        identical = 0
        for trial in range(args.kills):
            folder = root / f"trial{trial}"
            folder.mkdir()
            at = rng.uniform(0, length)
            children = start(overrides, folder, processes=args.processes)
            time.sleep(at)
            os.kill(rng.choice(children), signal.SIGKILL)
            killed = time.monotonic()
            wait(
                children, seconds=20
            )  # then the launcher ends those that wait for a rank which never came
            others = (
                f", the others ended after {time.monotonic() - killed:.1f} s"
                if args.processes > 1
                else ""
            )
            where = moment(folder)
            if where != "after the end":  # the same command would begin another run
                wait(start(overrides, folder, processes=args.processes))
            try:
                found = fingerprint(finished(folder))
                different = [key for key in expected if found[key] != expected[key]]
            except Exception as error:
                different = [f"{type(error).__name__}: {error}"]
            identical += not different
            print(
                f"kill {trial + 1:3d} at {at:5.1f} s, {where}{others}: "
                f"{'identical' if not different else f'DIFFERENT: {different}'}",
                flush=True,
            )
            if different:
                print((folder / "rank0.log").read_text()[-3000:])
    print(f"{identical} of {args.kills} identical")
    return 0 if identical == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
