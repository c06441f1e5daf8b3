"""Ten million lines: from the command to the first batch, a pass planned, and the memory of all
ranks and workers of a machine.

    python benchmarks/scale_plan.py --lines 10000000     # --lines 200000 takes a minute
    python benchmarks/scale_plan.py --lines 10000000 --folder /data/big    # and keeps it

The manifest is synthetic: segments of 5 to 20 s with texts of their own, 500 of them in each long
recording, which is a sparse file. A start is a process of its own: manifests read, hashed and
checked (audio, overlap, tokenizer), five passes counted, the first one described, its first batch
yielded; the second start finds what the first left in the cache. Nothing of NeMo is loaded. The way
it was, lists of Python objects, is timed at --plain lines and computed from that for --lines.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _quiet  # noqa: F401
import numpy as np
from _peak import status_mb

RANKS, WORKERS = 8, 4
PER_RECORDING = 500
BATCH_SECONDS = 120.0
TARGETS = {"first_start_s": 120, "second_start_s": 10, "pass_s": 10, "pss_gb": 4}


def make(folder: Path, lines: int) -> Path:
    """train.jsonl with so many lines, dev.jsonl, and the recordings; as they are if they are
    there.
    """
    manifest = folder / f"train_{lines}.jsonl"
    if manifest.exists():
        return manifest
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnoprstuvwyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 10, 100_000)]
    _recording(folder / "audio" / "0.wav")
    with (folder / "part").open("w") as file:
        for number in range(-(-lines // PER_RECORDING)):
            if number:
                _link(folder / "audio" / "0.wav", folder / "audio" / f"{number}.wav")
            count = min(PER_RECORDING, lines - number * PER_RECORDING)
            file.writelines(_lines(f"audio/{number}.wav", count, words, rng, speaker=number // 20))
    with (folder / "dev.jsonl").open("w") as file:
        _recording(folder / "audio" / "dev.wav")
        file.writelines(_lines("audio/dev.wav", 200, words, rng, speaker="dev"))
    (folder / "part").rename(manifest)
    return manifest


def _lines(path, count, words, rng, *, speaker):
    """Lines of one recording; word frequencies fall as those of a language do."""
    seconds = rng.uniform(5, 20, count).round(2)
    sizes = rng.integers(8, 21, count)
    drawn = np.minimum(rng.pareto(0.6, sizes.sum()).astype(np.int64), len(words) - 1)
    at = 0
    for i, size in enumerate(sizes):
        text = " ".join([words[k] for k in drawn[at : at + size]])
        at += size
        yield (
            f'{{"audio_filepath": "{path}", "duration": {seconds[i]}, "text": "{text}", '
            f'"offset": {20.0 * i}, "speaker": "s{speaker}", "lang": "en"}}\n'
        )


def _recording(path: Path) -> None:
    """A sparse WAV of all segments, 16 kHz."""
    import struct

    size = PER_RECORDING * 20 * 16000 * 2
    head = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + head)
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


def _link(first: Path, other: Path) -> None:
    """Another name of a file; a file of its own where a file has too many."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(first, other)
        except FileExistsError:
            raise
        except OSError:
            _recording(other)


def start(manifest: Path) -> None:
    """What a run does before its first batch, the model aside; prints what took how long."""
    begun = time.perf_counter()
    from parakeet_ft import preflight
    from parakeet_ft.run.composition import compose

    took = {}

    def lap(name):
        took[name] = round(time.perf_counter() - begun - sum(took.values()), 2)

    overrides = [
        f"data.train={manifest}",
        f"data.validation={manifest.parent / 'dev.jsonl'}",
        "tokenizer.max_unknown_share=1",
        "trainer.accelerator=cpu",
    ]
    settings = preflight.check_settings(compose("finetune", overrides))
    lap("settings")
    preflight.read_manifests(settings.data, thorough=True)
    lap("read")
    sets = preflight.check_inputs(settings)
    lap("checks")
    preflight.identity_of(settings)
    lap("identity")
    preflight.check_machine(settings, sets, run_dir=manifest.parent)
    lap("machine")
    plan = plan_of(sets["train"])
    lap("plan")
    from parakeet_ft.training import budget

    steps = budget.num_steps(plan, epochs=5, hours=None, steps=None, accumulate=1)
    lap("steps of five passes")
    plan.describe()
    lap("describe")
    plan.batch_at(0, rank=0)
    lap("first batch")
    print(json.dumps({"steps": steps, "took": took}))


def plan_of(corpus, *, num_ranks=RANKS):
    """The plan of a corpus that is trained on alone."""
    from parakeet_ft.batches.plan import Plan

    return Plan(
        corpus,
        num_domain=len(corpus),
        batch_seconds=BATCH_SECONDS,
        seed=1,
        num_ranks=num_ranks,
    )


def timed_start(manifest: Path, cache: Path) -> dict:
    """`start` in a process of its own, with the seconds of the whole process."""
    begun, cpu = time.perf_counter(), cpu_of_children()
    done = subprocess.run(
        [sys.executable, __file__, "--start", manifest],
        env=os.environ | {"PARAKEET_FT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {
        "seconds": round(time.perf_counter() - begun, 2),
        "cpu": round(cpu_of_children() - cpu, 2),
    }


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pass_seconds(manifest: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds, of a pass planned in this process, nothing of it kept."""
    from parakeet_ft.data.corpus import Corpus

    plan = plan_of(Corpus.open(manifest, thorough=False))
    begun, cpu = time.perf_counter(), time.process_time()
    plan._plan(17)
    return round(time.perf_counter() - begun, 2), round(time.process_time() - cpu, 2)


def pss_mb(processes: list[int]) -> float:
    """Memory of processes together, pages that several map divided among them."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def rank(manifest, number, reading, read, ready, done) -> None:
    """One rank: its plan, and forked workers that read what a loader's would."""
    from parakeet_ft.data.corpus import Corpus

    corpus = Corpus.open(manifest, thorough=False)
    plan = plan_of(corpus)
    batches = plan.batches_of_pass(0)
    context = multiprocessing.get_context("fork")
    gc.collect()

    def work(worker):
        characters = 0
        if reading:
            for index in range(number + worker * RANKS, len(batches), RANKS * WORKERS):
                characters += sum(len(corpus[i].text) for i in batches[index])
        read.put(characters)
        done.wait()

    workers = [context.Process(target=work, args=(worker,)) for worker in range(WORKERS)]
    for worker in workers:
        worker.start()
    ready.put([os.getpid(), *(worker.pid for worker in workers)])
    for worker in workers:
        worker.join()


def memory(manifest: Path, *, reading: bool) -> float:
    """GB of 8 ranks with 4 workers each, after their workers have read a whole pass, or nothing."""
    context = multiprocessing.get_context("spawn")
    done, ready, read = context.Event(), context.Queue(), context.Queue()
    ranks = [
        context.Process(target=rank, args=(manifest, number, reading, read, ready, done))
        for number in range(RANKS)
    ]
    for process in ranks:
        process.start()
    processes = [pid for _ in ranks for pid in ready.get()]
    characters = sum(read.get() for _ in range(RANKS * WORKERS))
    assert bool(characters) == reading
    found = pss_mb(processes) / 1024
    done.set()
    for process in ranks:
        process.join()
    return round(found, 2)


def plain(manifest: Path, lines: int) -> dict:
    """The way it was, for one rank: a list of utterances read twice, and a pass as lists."""
    from parakeet_ft.data.manifest import read_manifest

    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.jsonl"
        with manifest.open() as source, part.open("w") as out:
            out.writelines(line for line, _ in zip(source, range(lines), strict=False))
        before, begun = status_mb("VmRSS"), time.perf_counter()
        utterances = read_manifest(part)
        read = time.perf_counter() - begun
        used = status_mb("VmRSS") - before
    begun = time.perf_counter()
    rng = random.Random("1 0")
    durations = [u.duration for u in utterances]
    ordered = sorted(range(lines), key=lambda i: durations[i] * rng.uniform(0.9, 1.1))
    batches, longest = [], 0.0
    for index in ordered:
        longest = max(longest, durations[index])
        if batches and longest * (len(batches[-1]) + 1) <= BATCH_SECONDS:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = durations[index]
    rng.shuffle(batches)
    planned = time.perf_counter() - begun
    return {"lines": lines, "read_s": read, "pass_s": planned, "list_mb": used}


def measure(*, lines: int, plain_lines: int, folder: Path) -> dict:
    """All figures, and of the way it was those computed for as many lines."""
    manifest, cache = make(folder, lines), folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["PARAKEET_FT_CACHE"] = str(cache)
    first = told("first start", timed_start(manifest, cache))
    second = told("second start", timed_start(manifest, cache))
    planned = told("pass", pass_seconds(manifest))
    pss = told("pss", memory(manifest, reading=True))
    bare = told("pss before reading", memory(manifest, reading=False))
    old = told("the way it was", plain(manifest, min(lines, plain_lines)))
    scale = lines / old["lines"]
    return {
        "lines": lines,
        "hours": round(lines * 12.5 / 3600),
        "first_start_s": first["seconds"],
        "first_start_cpu_s": first["cpu"],
        "second_start_s": second["seconds"],
        "second_start_cpu_s": second["cpu"],
        "pass_s": planned[0],
        "pass_cpu_s": planned[1],
        "pss_gb": pss,
        "pss_before_reading_gb": bare,
        "first": first["took"],
        "second": second["took"],
        "cache_gb": round(sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 1e9, 2),
        "plain": {key: round(value, 2) for key, value in old.items()},
        "plain_computed": {
            "reading_twice_s": round(2 * old["read_s"] * scale),
            "five_passes_s": round(5 * old["pass_s"] * scale),
            "lists_of_8_ranks_gb": round(RANKS * old["list_mb"] * scale / 1024, 1),
        },
        "load": os.getloadavg()[0],
        "targets": TARGETS,
    }


def told(name: str, found):
    """A figure, also as soon as it is there."""
    print(name, found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--plain", type=int, default=200_000, help="lines for the way it was")
    parser.add_argument("--folder", type=Path, help="for manifest, audio and cache; kept")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        start(args.start)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        print(json.dumps(measure(lines=args.lines, plain_lines=args.plain, folder=folder)))


if __name__ == "__main__":
    main()
