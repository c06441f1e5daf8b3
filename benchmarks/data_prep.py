"""Hours of audio a minute that data preparation converts, against what else one would run.

    python benchmarks/data_prep.py        # one hour of 44.1 kHz stereo MP3, WAV and FLAC
    python benchmarks/data_prep.py --manifest-lines 1000000

The first compares the whole pipeline (data_prep/from_table.py's stages, all filters, ledger,
manifests, report), --jobs processes, with (a) a loop of sox subprocesses that write the same FLAC,
(b) the bare work (decode, soxr, encode; no measuring, no ledger) in as many processes, (c) a loop
over librosa.load. Needs `apt-get install sox libsox-fmt-mp3`. Runs alternate, the median counts;
CPU seconds are those of all processes and are worth more on a machine that does other work too. The
second checks a manifest of so many lines (--quick) and gives seconds and MB. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RATE_HZ, SECONDS = 44100, 8.0


def generate(folder: Path, minutes: float) -> list[Path]:
    """Stereo files of 8 s, in turn MP3, WAV and FLAC: harmonics under syllables in noise, different
    in each file.
    """
    folder.mkdir(parents=True)
    time_s, paths = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ, []
    lines = ["path,text,speaker"]
    for number in range(round(minutes * 60 / SECONDS)):
        rng = np.random.default_rng(number)
        pitch = (
            2
            * np.pi
            * np.cumsum(120 + 40 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time_s))
            / RATE_HZ
        )
        voice = sum(np.sin(n * pitch) / n for n in range(1, 12)) * np.clip(
            np.sin(2 * np.pi * rng.uniform(3, 5) * time_s), 0, 1
        )
        mono = 0.1 * voice + 0.01 * rng.standard_normal(len(time_s))
        path = folder / f"{number:05d}.{('mp3', 'wav', 'flac')[number % 3]}"
        soundfile.write(
            path,
            np.stack([mono, 0.8 * mono + 0.005 * rng.standard_normal(len(mono))], axis=1),
            RATE_HZ,
        )
        paths.append(path)
        lines.append(
            f"{path.name},this is sentence number {number} of the benchmark spoken by "
            f"nobody,speaker{number % 40}"
        )
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return paths


def bare(job: tuple[str, str]) -> None:
    """Decode, mix, resample, encode: nothing that the result does not need."""
    samples, rate_hz = soundfile.read(job[0], dtype="float32", always_2d=True)
    soundfile.write(
        job[1], soxr.resample(samples.mean(axis=1), rate_hz, 16000), 16000, subtype="PCM_16"
    )


def run_limit(paths: list[Path], out: Path, jobs: int) -> None:
    out.mkdir()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare, [(str(p), str(out / f"{p.stem}.flac")) for p in paths], chunksize=16))


def run_sox(paths: list[Path], out: Path, jobs: int) -> None:
    out.mkdir()
    for path in paths:
        subprocess.run(
            [
                "sox",
                "-V1",
                str(path),
                "-b",
                "16",
                str(out / f"{path.stem}.flac"),
                "remix",
                "-",
                "rate",
                "16000",
            ],
            check=True,
        )


def run_librosa(paths: list[Path], out: Path, jobs: int) -> None:
    import librosa

    out.mkdir()
    for path in paths:
        samples, _ = librosa.load(path, sr=16000, mono=True)
        soundfile.write(out / f"{path.stem}.flac", samples, 16000, subtype="PCM_16")


def run_pipeline(paths: list[Path], out: Path, jobs: int) -> None:
    command = [
        sys.executable,
        str(ROOT / "data_prep" / "from_table.py"),
        str(paths[0].parent / "table.csv"),
        "--out",
        str(out),
        "--jobs",
        str(jobs),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def measure(minutes: float, jobs: int, repeats: int) -> dict[str, float]:
    runs: dict[str, Callable] = {
        "pipeline": run_pipeline,
        "limit": run_limit,
        "subprocess": run_sox,
        "librosa": run_librosa,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = generate(Path(folder) / "in", minutes)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(repeats):
            for name, function in runs.items():
                started, cpu_started = time.perf_counter(), cpu_seconds()
                function(paths, Path(folder) / f"{name}{repeat}", jobs)
                seconds[name].append(time.perf_counter() - started)
                cpu[name].append(cpu_seconds() - cpu_started)
                shutil.rmtree(Path(folder) / f"{name}{repeat}")
    wall = {name: statistics.median(values) for name, values in seconds.items()}
    used = {name: statistics.median(values) for name, values in cpu.items()}
    for name in runs:
        print(
            f"{name:10s} {wall[name]:7.1f} s wall {used[name]:7.1f} s CPU   "
            f"{minutes / wall[name]:6.2f} audio hours a minute"
            f"   (wall: {', '.join(f'{value:.1f}' for value in seconds[name])})"
        )
    return {
        f"{kind}vs_{name}": round(of[name] / of["pipeline"], 2)
        for kind, of in (("cpu_", used), ("", wall))
        for name in ("limit", "librosa", "subprocess")
    }


def cpu_seconds() -> float:
    """Of this process and of all children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def check_manifest(lines: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        soundfile.write(Path(folder) / "a.flac", 0.1 * rng.standard_normal(64000), 16000)
        words = np.array([f"word{i}" for i in range(5000)])
        with open(Path(folder) / "train.jsonl", "w") as out:
            for number in range(lines):
                text = " ".join(words[rng.integers(0, 5000, size=10)])
                out.write(
                    f'{{"audio_filepath": "a.flac", "duration": 4.0, "text": "{text}", "speaker": '
                    f'"s{number % 2000}"}}\n'
                )
        started = time.perf_counter()
        command = [
            sys.executable,
            str(ROOT / "data_prep" / "check.py"),
            f"{folder}/train.jsonl",
            "--quick",
            "--out",
            f"{folder}/check",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "lines": lines,
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "mb": round(usage.ru_maxrss / 1024),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of audio; default %(default)s")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--manifest-lines", type=int)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        json.dumps(
            check_manifest(args.manifest_lines)
            if args.manifest_lines
            else measure(args.minutes, args.jobs, args.repeats)
        )
    )


if __name__ == "__main__":
    main()
