"""A training step before and now: seconds, questions that would wait for a GPU, and memory.

    python benchmarks/scale_step.py                # some five minutes on two cores
    python benchmarks/scale_step.py --rounds 1     # to try it out

Steps of the bundled CTC model on the demo, by one process and by two ranks over gloo on a CPU, each
side in processes of its own, in turns; "before" is the commit BEFORE, taken from the repository's
history. Memory: growth of a process in a step of a replica of parakeet-ctc-1.1b with few layers,
float32, with its layers kept and computed twice, beside what parakeet_ft.training.memory computes;
and that for all of its weights on a GPU, computed with the bytes a weight measured here. The last
line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _quiet
from _sides import summary

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "facbcc1"
STEPS, WARM = 9, 2
LAYERS, ROWS, SECONDS, TOKENS = 6, 5, 12.0, 40  # of the replica, and of its batch


def steps_of(ranks: int, count_waits: bool) -> dict:
    """Wall and CPU seconds of each step of this rank, and the questions asked in them."""
    import contextlib

    import _waits
    import lightning.pytorch as pl
    import torch

    from parakeet_ft.batches.loaders import train_loader
    from parakeet_ft.batches.plan import Plan
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.distributed.ranks import join, rank
    from parakeet_ft.files import DEMO
    from parakeet_ft.model.restore import restore
    from parakeet_ft.run import composition
    from parakeet_ft.run.console import Narrator
    from parakeet_ft.training import adaptation, bad_batches, callbacks, fine_tuner, optim

    class Clock(pl.Callback):
        def __init__(self):
            self.times = []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            self.times.append((time.perf_counter(), time.process_time()))

    torch.set_num_threads(1)
    join(timeout_minutes=5)
    torch.manual_seed(0)
    model, config = restore("tiny"), composition.compose("finetune", [])
    adaptation.set_learning(model, num_new_pieces=0, **config["adaptation"])
    clips = read_manifest(DEMO / "train.jsonl")
    plan = Plan(clips, num_domain=len(clips), batch_seconds=24, seed=1, num_ranks=ranks)
    folder = Path(tempfile.mkdtemp())
    learning = optim.settings(
        model, hours_per_pass=1, num_new_pieces=0, num_steps=STEPS, **config["optim"]
    )
    tuner = fine_tuner.FineTuner(
        model,
        settings=learning,
        sets={},
        base={},
        batch_seconds=1,
        bad_batches=bad_batches.BadBatches(folder / "bad.jsonl", plan, most=9, say=print),
    )
    tuner.on_validation_epoch_end = lambda: None
    devices = fine_tuner.resolve(**config["trainer"] | {"accelerator": "cpu"})
    say = Narrator((folder / "said.txt").open("w"))
    counted, clock = _waits.Waits(), Clock()
    with counted if count_waits else contextlib.nullcontext():
        fine_tuner.fit(
            tuner,
            train_loader(plan, model, num_batches=STEPS, num_workers=0, rank=rank()),
            num_steps=STEPS,
            validations=1,
            gradient_clip=1.0,
            accumulate=1,
            devices=devices,
            callbacks=[callbacks.ProgressBar(say, num_steps=STEPS), clock],
            loggers=[pl.loggers.CSVLogger(folder)],
            resume_from=None,
        )
    pairs = zip(clock.times[WARM:], clock.times[WARM - 1 :], strict=False)
    spent = [(now[0] - then[0], now[1] - then[1]) for now, then in pairs]
    waits = {f"{name} in {where}": times for (name, where), times in counted.found.items()}
    return {"wall": [s[0] for s in spent], "cpu": [s[1] for s in spent], "waits": waits}


def growth(twice: bool) -> dict:
    """GB by which a step of the replica grows the process, and bytes of optimiser states a
    weight.
    """
    import torch

    from parakeet_ft.model import replicas
    from parakeet_ft.training.batch_size import Trial, peak_bytes, resident_bytes, untouched

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        replicas.write_tokenizer(Path(folder), vocab_size=1024)
        model = replicas.build(architecture(), Path(folder)).train()
    trial = Trial(
        model,
        seconds=SECONDS,
        tokens=TOKENS,
        precision="32-true",
        copies=0,
        states="8bit" if twice else 32,
        twice=twice,
    )
    with untouched(model), trial.as_in_training():
        trial.step(1.0)
        before = resident_bytes(reset=True)
        started = time.perf_counter()
        trial.step(ROWS * SECONDS)
        seconds = time.perf_counter() - started
        peak = peak_bytes() - before
    states = [v for state in trial.optimizer.state.values() for v in state.values()]
    kept = sum(v.nbytes for v in states if isinstance(v, torch.Tensor))
    weights = sum(p.numel() for p in model.parameters())
    return {"gb": peak / 1e9, "seconds": seconds, "state_bytes": kept / weights}


def architecture():
    """parakeet-ctc-1.1b with few layers."""
    import dataclasses

    from parakeet_ft.model.replicas import REPLICAS

    return dataclasses.replace(REPLICAS["parakeet_ctc_1.1b"], n_layers=LAYERS)


def computed() -> dict:
    """GB that memory.py computes: for the measured step, and for the whole model on a GPU with
    batches of 120 s in utterances of 20 s.
    """
    from parakeet_ft.model.replicas import REPLICAS
    from parakeet_ft.training import memory

    found = {}
    for twice in (False, True):
        found["twice" if twice else "once"] = (
            memory.activation_bytes(
                architecture(),
                device="cpu",
                size=4,
                batch_seconds=ROWS * SECONDS,
                longest_seconds=SECONDS,
                most_tokens=TOKENS,
                full_attention=True,
                checkpointing=twice,
            )
            / 1e9
        )
    for precision in ("bf16-true", "bf16-mixed"):
        found[f"1.1b, {precision}"] = memory.estimate(
            REPLICAS["parakeet_ctc_1.1b"],
            device="gpu",
            precision=precision,
            strategy="none",
            num_ranks=1,
            batch_seconds=120,
            longest_seconds=20,
            most_tokens=100,
            checkpointing=True,
            states="8bit",
        ).total
    return found


def child(root: Path, *arguments: object, environment: dict | None = None) -> subprocess.Popen:
    """This script on the package in `root`, for one figure."""
    folders = [str(root), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)} | (environment or {}),
    )


def result_of(process: subprocess.Popen) -> dict:
    """What a child found. Raises RuntimeError if it failed."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a process of the benchmark ended with {process.returncode}: {out}")
    return json.loads(out.splitlines()[-1])


def timed_steps(root: Path, ranks: int) -> dict:
    """Rank 0's seconds."""
    port, processes = 20_000 + os.getpid() % 10_000 + time.monotonic_ns() % 997, []
    for rank in range(ranks):
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        given = {key: str(value) for key, value in place.items()} if ranks > 1 else {}
        processes.append(child(root, "--steps-of", ranks, environment=given))
    found = [result_of(process) for process in processes]
    return found[0]


def earlier(folder: Path) -> Path | None:
    """The package as it was at BEFORE; None where the history is not here."""
    command = f"git archive {BEFORE} | tar -x -C {folder}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True)
    return folder if done.returncode == 0 else None


def measure(rounds: int = 2) -> dict:
    """All figures."""
    found: dict = {"memory": {}}
    with tempfile.TemporaryDirectory() as folder:
        before = earlier(Path(folder))
        sides = ({"before": before} if before else {}) | {"now": ROOT}
        for ranks in (1, 2):
            spent: dict = {name: {"wall": [], "cpu": []} for name in sides}
            for _ in range(rounds):
                for name, root in sides.items():
                    once = timed_steps(root, ranks)
                    print(f"{ranks} rank(s), {name}: {once}", flush=True)
                    for kind in ("wall", "cpu"):
                        spent[name][kind] += once[kind]
            found[f"{ranks} rank(s)"] = {
                name: {f"{kind} seconds a step": summary(values) for kind, values in kinds.items()}
                for name, kinds in spent.items()
            }
        for name, root in sides.items():
            waits = result_of(child(root, "--steps-of", 1, "--count-waits"))["waits"]
            found[f"questions in {STEPS} steps, {name}"] = waits
            found[f"questions a step, {name}"] = round(sum(waits.values()) / STEPS, 2)
    ours = computed()
    for way in ("once", "twice"):
        measured = result_of(child(ROOT, "--growth", way))
        found["memory"][f"layers computed {way}"] = {
            "measured_gb": round(measured["gb"], 3),
            "computed_gb": round(ours.pop(way), 3),
            "seconds": round(measured["seconds"], 1),
            "state_bytes_a_weight": round(measured["state_bytes"], 3),
        }
    return found | {"computed_gb": {key: round(value, 1) for key, value in ours.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--count-waits", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--growth", choices=("once", "twice"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps_of or args.growth:
        _quiet.silence_nemo()
        job = (
            growth(args.growth == "twice")
            if args.growth
            else steps_of(args.steps_of, args.count_waits)
        )
        print(json.dumps(job))
        return
    found = measure(args.rounds)
    sides = found["1 rank(s)"], found["2 rank(s)"]
    for ranks, rows in zip((1, 2), sides, strict=True):
        for name, kinds in rows.items():
            for kind, row in kinds.items():
                print(f"{ranks} rank(s), {name}, {kind}: {row}")
    if "before" in sides[0]:
        found["ratios"] = {
            f"{ranks} rank(s), {kind}": round(
                rows["now"][kind]["median"] / rows["before"][kind]["median"], 3
            )
            for ranks, rows in zip((1, 2), sides, strict=True)
            for kind in rows["now"]
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
