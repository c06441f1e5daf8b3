"""Seconds of audio a second of optimisation: ours, NeMo's stock settings, and NeMo tuned with
Lhotse's buckets; padding and peak memory of each.

    python benchmarks/throughput.py --short          # a tiny model, a minute or two
    python benchmarks/throughput.py                  # the bundled base's architecture
    python benchmarks/throughput.py --model parakeet_ctc_0.6b --hours 2
                                                     # a published architecture with random weights;
                                                     # in bf16 on a GPU
    python benchmarks/throughput.py --profile ours   # where one way's time goes, by operator

Made-up audio of log-normal lengths, 1 to 20 s; the ways take turns, --rounds times, each in a
process of its own, so that whatever else the machine does hits all alike. Stock: the classic
dataset in batches of 16 in float32, as NeMo's fine-tuning YAML has it. Tuned: Lhotse in buckets of
--batch-seconds, no fused loss, bf16 on a GPU. Ours: this project's plan and step, with batches of
the same seconds. The first --warm steps are not counted. Losses of transducers on a CPU are this
project's in all three, as NeMo's are minutes a step there.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _quiet
import lightning.pytorch as pl
import torch
from _peak import status_mb

HERE = Path(__file__).resolve().parent
WAYS = ("stock", "tuned", "ours")


def make_audio(folder: Path, *, hours: float, seed: int = 0) -> Path:
    """A manifest of noise with lengths drawn from a log-normal distribution (median 6 s), and texts
    of 14 characters a second.
    """
    import numpy
    import soundfile

    rng, lines, filled = numpy.random.default_rng(seed), [], 0.0
    words = random.Random(seed)
    while filled < 3600 * hours:
        seconds = float(min(max(rng.lognormal(numpy.log(6), 0.6), 1), 20))
        samples = round(16000 * seconds)
        path = folder / f"{len(lines)}.wav"
        soundfile.write(
            path, (3000 * rng.standard_normal(samples)).clip(-32768, 32767).astype("int16"), 16000
        )
        text = " ".join(
            words.choice(("bada", "conin", "fer", "gu", "miso"))
            for _ in range(round(2.8 * seconds))
        )
        lines.append(
            json.dumps({"audio_filepath": str(path), "duration": samples / 16000, "text": text})
        )
        filled += seconds
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


class Clock(pl.Callback):
    """Counts audio, padding and seconds of the steps after the first `warm`."""

    def __init__(self, warm: int, rate_hz: int) -> None:
        self.warm, self.rate_hz, self.batches, self.audio, self.samples = warm, rate_hz, 0, 0, 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        self.batches += 1  # batch_index begins anew in each pass of NeMo's
        if self.batches == self.warm:
            _wait()
            self.started = time.perf_counter()
        elif self.batches > self.warm:
            self.audio, self.samples = (
                self.audio + int(batch[1].sum()),
                self.samples + batch[0].numel(),
            )

    def on_train_end(self, trainer, module) -> None:
        _wait()
        self.seconds = time.perf_counter() - self.started

    def facts(self) -> dict[str, float]:
        peak = (
            torch.cuda.max_memory_allocated() / 1e6
            if torch.cuda.is_available()
            else status_mb("VmHWM")
        )
        return {
            "audio_per_second": self.audio / self.rate_hz / self.seconds,
            "padding": 1 - self.audio / self.samples,
            "peak_mb": peak,
        }


class Profile(pl.Callback):
    """Shares of the time of the steps after the first `warm`, by operator (self time; of the device
    where there is one).
    """

    def __init__(self, warm: int) -> None:
        self.warm, self.batches, self.profiler = warm, 0, torch.profiler.profile()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        self.batches += 1
        if self.batches == self.warm:
            self.profiler.start()

    def on_train_end(self, trainer, module) -> None:
        self.profiler.stop()

    def table(self, rows: int = 15) -> str:
        key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        found = sorted(self.profiler.key_averages(), key=lambda event: -getattr(event, key))
        total = sum(getattr(event, key) for event in found)
        lines = [
            f"| {event.key} | {getattr(event, key) / total:.1%} | {event.count} |"
            for event in found[:rows]
        ]
        rest = sum(getattr(event, key) for event in found[rows:]) / total
        return "\n".join(
            [
                "| operator | share of the time | calls |",
                "| --- | --- | --- |",
                *lines,
                f"| {len(found[rows:])} others | {rest:.1%} | |",
            ]
        )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train(
    way: str,
    *,
    model: str,
    manifest: Path,
    tokenizer: Path,
    steps: int,
    warm: int,
    batch_seconds: float,
    num_workers: int,
    profile: bool = False,
) -> dict[str, float]:
    """`steps` steps of one way after `warm` others; audio a second, share of padding, peak MB."""
    sys.path.insert(0, str(HERE.parent))
    _quiet.silence_nemo()
    from omegaconf import OmegaConf

    from parakeet_ft.batches import loaders
    from parakeet_ft.batches.plan import Plan
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.model import replicas
    from parakeet_ft.run import composition
    from parakeet_ft.training import adaptation, fine_tuner, optim

    gpu = torch.cuda.is_available()
    pl.seed_everything(1, verbose=False)
    net = replicas.build(architecture(model), tokenizer).to("cuda" if gpu else "cpu")
    clock = Clock(warm, net.preprocessor._sample_rate)
    watching = [clock, *([Profile(warm)] if profile else [])]
    loss = fine_tuner.use_loss_for(net, device="cuda" if gpu else "cpu")
    if way == "ours":
        config = composition.compose("finetune", ["optim.lr=1e-4"])
        devices = fine_tuner.resolve(**config["trainer"] | {"devices": "auto"})
        adaptation.set_learning(net, num_new_pieces=0, **config["adaptation"])
        utterances = read_manifest(manifest)
        plan = Plan(
            utterances,
            num_domain=len(utterances),
            batch_seconds=batch_seconds,
            seed=1,
        )
        settings = optim.settings(
            net, hours_per_pass=1, num_new_pieces=0, num_steps=warm + steps, **config["optim"]
        )
        tuner = fine_tuner.FineTuner(net, settings=settings, sets={}, base={}, batch_seconds=1)
        tuner.on_validation_epoch_end = lambda: None
        with tempfile.TemporaryDirectory() as folder:
            fine_tuner.fit(
                tuner,
                loaders.train_loader(plan, net, num_batches=warm + steps, num_workers=num_workers),
                num_steps=warm + steps,
                validations=1,
                gradient_clip=1.0,
                accumulate=1,
                devices=devices,
                callbacks=watching,
                loggers=[pl.loggers.CSVLogger(folder)],
                resume_from=None,
            )
        return (
            clock.facts()
            | {"precision": devices["precision"]}
            | ({"profile": watching[1].table()} if profile else {})
        )
    precision = "bf16-mixed" if way == "tuned" and gpu else "32-true"
    fitter = pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        max_steps=warm + steps,
        precision=precision,
        logger=False,
        callbacks=watching,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=way == "stock",
    )
    net.set_trainer(fitter)
    data = {
        "manifest_filepath": str(manifest),
        "sample_rate": 16000,
        "shuffle": True,
        "num_workers": num_workers,
        "pin_memory": True,
    }
    if way == "tuned":
        data |= {
            "use_lhotse": True,
            "batch_duration": batch_seconds,
            "quadratic_duration": None,
            "use_bucketing": True,
            "num_buckets": 10,
            "bucket_buffer_size": 2000,
            "shuffle_buffer_size": 2000,
            "max_duration": 20,
            "min_duration": 0.1,
            "seed": 1,
            "shard_seed": 1,
        }
        if hasattr(net, "joint"):
            net.joint.set_fuse_loss_wer(False)
            assert loss is None or not net.joint.fuse_loss_wer
    else:
        data |= {"batch_size": 16, "max_duration": 20, "min_duration": 0.1}
    net.setup_training_data(OmegaConf.create(data))
    for scorer in (getattr(net, "wer", None), getattr(net, "ctc_wer", None)):
        if scorer is not None:
            scorer.log_prediction = False
    net.setup_optimization(
        OmegaConf.create(
            {
                "name": "adamw",
                "lr": 1e-4,
                "betas": [0.9, 0.98],
                "weight_decay": 1e-3,
                "sched": {
                    "name": "CosineAnnealing",
                    "warmup_steps": 5000,
                    "min_lr": 5e-6,
                    "max_steps": 100000,
                },
            }
        )
    )
    fitter.fit(net)
    return (
        clock.facts()
        | {"precision": precision}
        | ({"profile": watching[1].table()} if profile else {})
    )


def architecture(name: str):
    """`tiny`: that of the bundled base; else a published one."""
    from parakeet_ft.model import replicas

    return replicas.REPLICAS.get(name) or replicas.Architecture(
        "ctc", 144, 6, 4, 64, 80, 256, xscaling=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="tiny, or a published checkpoint such as parakeet_tdt_0.6b_v3",
    )
    parser.add_argument("--hours", type=float, default=0.5, help="of audio")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-seconds", type=float, default=120)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument(
        "--short", action="store_true", help="30 minutes of audio, 6 steps, one round"
    )
    parser.add_argument(
        "--profile", choices=WAYS, help="run this way alone, once, under torch's profiler"
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.short:
        args.hours, args.steps, args.warm, args.rounds = 0.5, 6, 1, 1
    if args.way:
        print(
            json.dumps(
                train(
                    args.way,
                    model=args.model,
                    manifest=args.folder / "train.jsonl",
                    tokenizer=args.folder / "tokenizer",
                    steps=args.steps,
                    warm=args.warm,
                    batch_seconds=args.batch_seconds,
                    num_workers=args.num_workers,
                    profile=bool(args.profile),
                )
            )
        )
        return
    sys.path.insert(0, str(HERE.parent))
    from parakeet_ft.model import replicas

    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        make_audio(Path(folder), hours=args.hours)
        replicas.write_tokenizer(
            Path(folder) / "tokenizer", vocab_size=architecture(args.model).vocab_size
        )
        options = [
            f"--{key}={getattr(args, key.replace('-', '_'))}"
            for key in ("model", "steps", "warm", "batch-seconds", "num-workers")
        ]
        if args.profile:
            done = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    f"--way={args.profile}",
                    f"--profile={args.profile}",
                    f"--folder={folder}",
                    *options,
                ],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout.splitlines()[-1])
            print(found.pop("profile"))
            print(json.dumps(found))
            return
        for number in range(args.rounds):
            for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                done = subprocess.run(
                    [sys.executable, __file__, f"--way={way}", f"--folder={folder}", *options],
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
                results[way].append(json.loads(done.stdout.splitlines()[-1]))
    rows = {
        way: {
            key: statistics.median(found[key] for found in runs)
            for key in ("audio_per_second", "padding", "peak_mb")
        }
        | {"precision": runs[0]["precision"]}
        for way, runs in results.items()
    }
    print(
        "| way | audio s/s, median (lowest-highest) | padding | peak MB | precision |\n| --- | --- "
        "| --- | --- | --- |"
    )
    for way, row in rows.items():
        speeds = [found["audio_per_second"] for found in results[way]]
        print(
            f"| {way} | {row['audio_per_second']:.1f} ({min(speeds):.1f}-{max(speeds):.1f}) | "
            f"{row['padding']:.1%} | {row['peak_mb']:.0f} "
            f"| {row['precision']} |"
        )
    ours = rows["ours"]["audio_per_second"]
    print(
        json.dumps(
            {
                "model": args.model,
                "vs_stock": round(ours / rows["stock"]["audio_per_second"], 3),
                "vs_tuned": round(ours / rows["tuned"]["audio_per_second"], 3),
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
