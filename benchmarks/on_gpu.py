"""What only a GPU can show, in order of value, in at most nine minutes on one of 80 GB.

    python benchmarks/on_gpu.py --out on_gpu.jsonl      # --steps loss,graphs --minutes 4: less
    python benchmarks/on_gpu.py --device cpu --small    # every step on toys, to try the script
    itself

Each step runs in a process of its own with a limit of its own, and prints one JSON line as it ends,
so that what ran before the time was up counts. The last line says how many did. Without a GPU, and
without --device cpu, it says so and exits with 0. It needs the repository and NeMo, nothing else.
"""

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
DURATIONS = (0, 1, 2, 3, 4)


def search_path() -> str:
    """PYTHONPATH of a process that finds this repository and what this one finds."""
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def synchronise(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def timed(function, device: str, repeats: int = 3) -> dict[str, float]:
    """Seconds of function(), the first call apart, and the peak of the GPU's memory in GB."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return {
        "first_seconds": round(seconds[0], 4),
        "seconds": round(statistics.median(seconds[1:]), 4),
        "peak_gb": round(peak, 3),
    }


def machine(device: str, small: bool) -> dict:
    """What is here."""
    import torch

    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gb": round(properties.total_memory / 1e9, 1)}
        found["capability"] = list(torch.cuda.get_device_capability())
    return found


def loss_case(device: str, kind: str, sizes: tuple, dtype: str):
    """Projections, output layer, labels, lengths, and what the costs depend on."""
    import torch

    from parakeet_ft.model.joint_loss import Arcs

    batch, frames, length, vocabulary, hidden = sizes
    durations = DURATIONS if kind == "tdt" else ()
    torch.manual_seed(0)
    layers = torch.nn.ReLU(inplace=True), torch.nn.Linear(hidden, vocabulary + 1 + len(durations))
    output = torch.nn.Sequential(*layers).to(device)
    kind_of = getattr(torch, dtype)
    encoded = torch.randn(batch, frames, hidden).to(device, kind_of).requires_grad_()
    predicted = torch.randn(batch, length + 1, hidden).to(device, kind_of).requires_grad_()
    labels = torch.randint(0, vocabulary, (batch, length)).to(device)
    act_lens = torch.linspace(frames // 2, frames, batch).long().to(device)
    label_lens = torch.linspace(length // 2, length, batch).long().to(device)
    arcs = Arcs(vocabulary, durations, 0.02 if durations else 0.0)
    return encoded, predicted, output.to(kind_of), labels, act_lens, label_lens, arcs


def our_loss(case):
    from parakeet_ft.model.joint_loss import joint_costs

    encoded, predicted, output, labels, act_lens, label_lens, arcs = case
    weights = list(output.parameters())
    return joint_costs(encoded, predicted, output, weights, labels, act_lens, label_lens, arcs=arcs)


def loss(device: str, small: bool) -> dict:
    """The joint's loss on the device against the CPU's: costs and gradients."""
    import torch

    found = {}
    sizes = (3, 12, 5, 30, 16) if small else (8, 100, 30, 1024, 640)
    for kind in ("rnnt", "tdt"):
        results = []
        for place in ("cpu", device):
            case = loss_case(place, kind, sizes, "float32")
            costs = our_loss(case)
            grads = torch.autograd.grad(costs.sum(), [case[0], case[1], *case[2].parameters()])
            results.append([costs.detach().cpu(), *(grad.cpu() for grad in grads)])
        differences = [float((a - b).abs().max()) for a, b in zip(*results, strict=True)]
        found[kind] = {"cost": differences[0], "gradient": max(differences[1:])}
        if device == "cuda":
            found[kind] |= without_waiting(loss_case(device, kind, sizes, "bfloat16"))
    return found


def without_waiting(case) -> dict:
    """Whether the loss never waits for the GPU, and how many kernels a forward and backward pass
    starts.
    """
    import torch

    our_loss(case).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        our_loss(case).sum().backward()
        waits = ""
    except RuntimeError as error:
        waits = str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        our_loss(case).sum().backward()
    launches = sum(e.count for e in profile.key_averages() if "LaunchKernel" in e.key)
    return {"waits": waits, "kernels": launches}


def loss_speed(device: str, small: bool) -> dict:
    """Seconds and memory of the joint's loss, and of NeMo's numba losses on logits where they
    run.
    """
    import torch

    found = {}
    shapes = {"V1024": (16, 100, 30, 1024, 640), "V8192": (8, 250, 80, 8192, 640)}
    if small:
        shapes = {"small": (3, 12, 5, 30, 16)}
    for name, sizes in shapes.items():
        for kind in ("rnnt", "tdt"):
            for dtype in ("float32", "bfloat16"):
                case = loss_case(device, kind, sizes, dtype)
                key = f"{name} {kind} {dtype}"
                found[key] = timed(lambda case=case: our_loss(case).sum().backward(), device)
            case = loss_case(device, kind, sizes, "float32")
            try:
                found[f"{name} {kind} numba"] = timed(lambda case=case: numba_loss(case), device)
            except Exception as error:  # numba, nvvm or the memory may not be there
                found[f"{name} {kind} numba"] = f"{type(error).__name__}: {error}"[:200]
            if device == "cuda":
                torch.cuda.empty_cache()
    return found


def numba_loss(case) -> None:
    import numpy
    from nemo.collections.asr.losses.rnnt import resolve_rnnt_loss

    # numba-cuda 0.30 asks for what numpy 2.5 does not have any more.
    if not hasattr(numpy, "row_stack"):
        numpy.row_stack = numpy.vstack
    encoded, predicted, output, labels, act_lens, label_lens, arcs = case
    settings = {"durations": list(arcs.durations), "sigma": arcs.sigma} if arcs.durations else None
    name = "tdt" if arcs.durations else "warprnnt_numba"
    inner = resolve_rnnt_loss(name, arcs.blank, settings)
    logits = output(encoded.unsqueeze(2) + predicted.unsqueeze(1)).float()
    inner(logits, labels, act_lens, label_lens).sum().backward()


def graphs(device: str, small: bool) -> dict:
    """Texts of weights that changed and moved, against those of a fresh model; and whether a
    checkpoint can be restored again after a scoring, with NeMo's CUDA graphs and without.
    """
    import torch

    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.files import DEMO
    from parakeet_ft.model.restore import restore
    from parakeet_ft.transcription.decode import transcribe

    clips = read_manifest(DEMO / "dev.jsonl")[: 4 if small else 40]
    found = {}
    for cuda_graphs in (False, True):
        key = "with graphs" if cuda_graphs else "without"
        model = restore("tiny_tdt_ctc").to(device)
        try:
            transcribe(model, clips, cuda_graphs=cuda_graphs)
            restore("tiny_tdt_ctc")
            found[f"{key}, restored"] = True
            with torch.no_grad():
                for parameter in model.decoder.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
            model.cpu()
            if device == "cuda":
                torch.cuda.empty_cache()
            model.to(device)
            texts = transcribe(model, clips, cuda_graphs=cuda_graphs)
            fresh = restore("tiny_tdt_ctc")
            found[f"{key}, moved, restored"] = True
        except Exception as error:
            found[f"{key}, failed"] = f"{type(error).__name__}: {error}"[:300]
            continue
        fresh.load_state_dict(model.state_dict())
        same = transcribe(fresh.to(device), clips)
        found[f"{key}, texts"] = sum(a == b for a, b in zip(texts, same, strict=True)) / len(clips)
    return found


def run(device: str, small: bool) -> dict:
    """The whole recipe in mixed precision, with batches as large as fit, with bfloat16 weights."""
    found = {}
    for precision, seconds in (("bf16-mixed", 24), ("bf16-true", 24), ("bf16-mixed", "auto")):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                ROOT / "recipes" / "finetune.py",
                f"model={'tiny' if small else 'tiny_tdt_ctc'}",
                f"budget.steps={1 if small else 40}",
                "evaluation.validations=1",
                "evaluation.interpolation=[]",
                "logger=csv",
                f"trainer.precision={precision}",
                f"data.batch_seconds={seconds}",
                f"trainer={'auto' if device == 'cuda' else 'cpu'}",
            ]
            start = time.perf_counter()
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": search_path()},
            )
            lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
            found[f"{precision}, batches of {seconds} s"] = {
                "code": done.returncode,
                "seconds": round(time.perf_counter() - start, 1),
                "says": lines[-1][:300] if lines else "",
            }
    return found


def replica(name: str, small: bool, folder: Path):
    """A model of the published architecture with random weights."""
    import dataclasses

    import torch

    from parakeet_ft.model import replicas

    architecture = replicas.tiny("tdt" if "tdt" in name else "ctc")
    if not small:
        architecture = replicas.REPLICAS[name]
    architecture = dataclasses.replace(architecture)
    tokenizer = replicas.write_tokenizer(folder / "tokenizer", vocab_size=architecture.vocab_size)
    torch.manual_seed(0)
    return replicas.build(architecture, tokenizer or folder / "tokenizer")


def random_batch(seconds: int, device: str, small: bool) -> tuple:
    """Utterances of 12 s with 40 tokens each: audio, lengths, tokens, token lengths."""
    import torch

    rows, length = max(1, seconds // 12), (1 if small else 12) * 16000
    audio = 0.1 * torch.randn(rows, length, device=device)
    tokens = torch.randint(0, 50, (rows, 4 if small else 40), device=device)
    lengths = [torch.full((rows,), each.shape[1], device=device) for each in (audio, tokens)]
    return audio, lengths[0], tokens, lengths[1]


def train_step(model, optimizer, batch: tuple) -> None:
    """One step in mixed precision."""
    import torch

    from parakeet_ft.model.objective import training_loss

    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch[0].device.type, torch.bfloat16):
        training_loss(model, *batch)["loss"].backward()
    optimizer.step()


def steps(device: str, small: bool) -> dict:
    """Seconds and memory of a training step of real architectures, by seconds of audio in it; and
    with NeMo's joint and numba loss in sub-batches of 4.
    """
    import torch

    from parakeet_ft.model.transducer_loss import use_wavefront_loss

    found = {}
    for name in ("parakeet_tdt_0.6b_v3", "parakeet_ctc_0.6b"):
        with tempfile.TemporaryDirectory() as folder:
            model = replica(name, small, Path(folder)).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
        sides = ("NeMo", "ours") if hasattr(model, "joint") and device == "cuda" else ("ours",)
        for side in sides:
            if side == "ours":
                use_wavefront_loss(model)
            for seconds in (4,) if small else (120, 600, 1200):
                batch = random_batch(seconds, device, small)
                key = f"{name} {seconds} s {side}"
                try:
                    step = functools.partial(train_step, model, optimizer, batch)
                    found[key] = timed(step, device) | busy_share(step, device)
                except Exception as error:  # numba, nvvm or the memory may not be there
                    found[key] = f"{type(error).__name__}: {error}"[:200]
                optimizer.zero_grad(set_to_none=True)
    return found


def busy_share(function, device: str) -> dict[str, float]:
    """The share of a call's time in which the GPU computes."""
    import torch

    if device != "cuda":
        return {}
    synchronise(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        start = time.perf_counter()
        function()
        synchronise(device)
        seconds = time.perf_counter() - start
    computing = sum(event.self_device_time_total for event in profile.key_averages())
    return {"busy": round(computing / 1e6 / seconds, 3)}


def out_of_memory(device: str, small: bool) -> dict:
    """Whether memory that runs out in a step is known for what it is, and the next step works."""
    import torch

    from parakeet_ft.model.transducer_loss import use_wavefront_loss
    from parakeet_ft.training.bad_batches import is_out_of_memory

    with tempfile.TemporaryDirectory() as folder:
        model = replica("parakeet_tdt_ctc_110m", small, Path(folder)).to(device).train()
    use_wavefront_loss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    train_step(model, optimizer, random_batch(12, device, small))
    if device != "cuda":
        return {"known": None}
    found = {}
    total = torch.cuda.get_device_properties(0).total_memory
    for gigabytes in (4, 6, 8):
        torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / total)
        try:
            train_step(model, optimizer, random_batch(2400, device, small))
            known = "it fitted"
        except Exception as error:
            known = is_out_of_memory(error)
        train_step(model, optimizer, random_batch(12, device, small))
        found[f"{gigabytes} GB"] = known
    return found


def waits(device: str, small: bool) -> dict:
    """Where the host waits for the GPU in training steps, by place, for each family. Of our own
    code none is expected, but for the read of the batch before.
    """
    import warnings

    import torch

    found = {}
    for name in ("parakeet_tdt_ctc_110m", "parakeet_ctc_0.6b"):
        with tempfile.TemporaryDirectory() as folder:
            model = replica(name, small, Path(folder)).to(device).train()
            step = recipe_steps(model, Path(folder), device, seconds=4 if small else 120)
            step(2)
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                step(4)
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in said if "synchroniz" in str(w)]
        found[name] = {place: places.count(place) for place in dict.fromkeys(places)}
    return found


def recipe_steps(model, folder: Path, device: str, *, seconds: int):
    """A function that makes so many of the recipe's own steps, judged and clipped, without
    Lightning.
    """
    import torch

    from parakeet_ft.model.objective import training_loss
    from parakeet_ft.model.transducer_loss import use_wavefront_loss
    from parakeet_ft.training.adamw import AdamW
    from parakeet_ft.training.verdicts import Verdicts

    if hasattr(model, "joint"):
        use_wavefront_loss(model)
    optimizer, verdicts = AdamW(model.parameters(), lr=1e-5), Verdicts(None)
    batch = random_batch(seconds, device, seconds == 4)

    def run(count: int) -> None:
        for number in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                losses = training_loss(model, *batch)
            verdicts.judge(losses, samples=batch[1].sum())
            losses["loss"].backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            verdicts.judge_gradient(norm)
            optimizer.lost = verdicts.lost
            optimizer.step()
            verdicts.end_batch(step=number, position=number, utterances=1, ends_step=True)

    return run


def lean(device: str, small: bool) -> dict:
    """Seconds and memory of a step on 120 s with all weights of parakeet-ctc-1.1b, by what saves
    memory; a trial of parakeet_ft.training.batch_size, as data.batch_seconds=auto makes it.
    """
    from parakeet_ft.training.batch_size import Trial, untouched

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model = replica("parakeet_ctc_1.1b", small, Path(folder)).to(device).train()
    ways = (("bf16-true", "8bit", True), ("bf16-mixed", "8bit", True), ("bf16-true", 32, False))
    for precision, states, twice in ways:
        trial = Trial(
            model,
            seconds=2.0 if small else 20.0,
            tokens=5 if small else 100,
            precision=precision,
            copies=0,
            states=states,
            twice=twice,
        )
        key = f"{precision}, states {states}, layers computed {'twice' if twice else 'once'}"
        with untouched(model), trial.as_in_training():
            found[key] = timed(lambda trial=trial: trial.step(4 if small else 120), device, 2)
        trial.optimizer = None
    return found


def scoring(device: str, small: bool) -> dict:
    """Seconds of audio scored a second, with and without CUDA graphs; the texts must be equal."""
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.files import DEMO
    from parakeet_ft.model.restore import restore
    from parakeet_ft.transcription.decode import transcribe

    clips = read_manifest(DEMO / "replay.jsonl")[: 4 if small else None]
    model, found, texts = restore("tiny_tdt_ctc").to(device), {}, []
    for cuda_graphs in (False, True):
        start = time.perf_counter()
        texts.append(transcribe(model, clips, cuda_graphs=cuda_graphs))
        synchronise(device)
        speed = sum(u.duration for u in clips) / (time.perf_counter() - start)
        found["graphs" if cuda_graphs else "no graphs"] = round(speed, 1)
    return found | {"texts_equal": texts[0] == texts[1]}


def feeding(device: str, small: bool) -> dict:
    """Seconds of audio a second that the loader gives, by number of workers."""
    from parakeet_ft.batches.loaders import train_loader
    from parakeet_ft.batches.plan import Plan
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.files import DEMO
    from parakeet_ft.model.restore import restore

    model, found = restore("tiny"), {}
    utterances = read_manifest(DEMO / "train.jsonl")
    plan = Plan(
        utterances,
        num_domain=len(utterances),
        batch_seconds=24,
        seed=1,
        num_ranks=1,
        augmentation=None,
    )
    for workers in (0, 1) if small else (2, 4, 8, 16):
        loader = train_loader(plan, model, num_batches=4 if small else 200, num_workers=workers)
        start, samples = time.perf_counter(), 0
        for batch in loader:
            samples += int(batch[1].sum())
        found[f"{workers} workers"] = round(samples / 16000 / (time.perf_counter() - start), 1)
    return found


# Name -> (what runs, its limit in seconds), in order of value.
STEPS = {
    "machine": (machine, 60),
    "loss": (loss, 60),
    "graphs": (graphs, 60),
    "run": (run, 180),
    "waits": (waits, 60),
    "lean": (lean, 90),
    "steps": (steps, 140),
    "loss_speed": (loss_speed, 100),
    "out_of_memory": (out_of_memory, 60),
    "scoring": (scoring, 45),
    "feeding": (feeding, 45),
}


def run_step(name: str, args: argparse.Namespace, seconds: float) -> dict:
    """One step in a process of its own: what it found, or why it found nothing."""
    command = [sys.executable, __file__, "--only", name, "--device", args.device]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, *(["--small"] if args.small else [])],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=os.environ | {"PYTHONPATH": search_path()},
        )
    except subprocess.TimeoutExpired:
        return {"step": name, "ok": False, "error": f"not done after {seconds:.0f} s"}
    row = {"step": name, "ok": done.returncode == 0, "took": round(time.perf_counter() - start, 1)}
    if done.returncode:
        return row | {"error": " | ".join(done.stderr.strip().splitlines()[-3:])[-600:]}
    return row | {"found": json.loads(done.stdout.splitlines()[-1])}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="a file that gets the lines too")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--steps", default=",".join(STEPS), help="names with commas between")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="toys instead of real sizes")
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        import _quiet

        _quiet.silence_nemo()
        print(json.dumps(STEPS[args.only][0](args.device, args.small)))
        return
    if args.device == "cuda" and not has_gpu():
        print("No GPU here that torch can use: nothing was measured.")
        print(json.dumps({"gpu": False, "steps": 0}))
        return
    end = time.monotonic() + 60 * args.minutes
    rows = []
    for name in args.steps.split(","):
        left = end - time.monotonic()
        if left < 5:
            break
        rows.append(run_step(name, args, min(STEPS[name][1], left)))
        line = json.dumps(rows[-1])
        print(line, flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    good = sum(row["ok"] for row in rows)
    print(json.dumps({"gpu": args.device == "cuda", "steps": len(rows), "ok": good}))


if __name__ == "__main__":
    main()
