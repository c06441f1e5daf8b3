"""Scoring with the tiny checkpoint: this code against an earlier commit of it, with all cores.

    python benchmarks/scale_scoring.py                    # 2 hours of audio, three turns
    python benchmarks/scale_scoring.py --minutes 10       # shorter
    python benchmarks/scale_scoring.py --model tiny_tdt_ctc

Files of 1 to 20 s (log-normal, median 5 s), 16 kHz, cut from the bundled speech. Each side is one
process that restores the model once, scores a little to be warm, and then scores all files whenever
it is its turn. The texts of the two must be the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import _sides
from transcribe import write_files

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "facbcc1"  # scored one batch after the other, in one piece
TARGET = 1.5
# What a side runs, in words that every commit since BEFORE understands.
SIDE = """
import json, sys, time
import _quiet
_quiet.silence_nemo()
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.model.restore import restore
from parakeet_ft.transcription.decode import transcribe
model, found = restore(sys.argv[1]).eval(), read_manifest(sys.argv[2])
transcribe(model, found[:20], batch_seconds=240.0)
print("ready", flush=True)
for _ in sys.stdin:
    begun, used = time.perf_counter(), time.process_time()
    texts = transcribe(model, found, batch_seconds=240.0)
    seconds = time.perf_counter() - begun
    found_out = {"seconds": seconds, "cpu": time.process_time() - used, "texts": texts}
    print(json.dumps(found_out), flush=True)
"""


class Side:
    """A process that scores the same files again and again."""

    def __init__(self, checkout: Path, model: str, manifest: Path) -> None:
        path = f"{checkout}:{checkout / 'benchmarks'}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SIDE, model, str(manifest)],
            env=os.environ | {"PYTHONPATH": path},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer("ready")

    def _answer(self, starts_with: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(starts_with):
                return line
        raise RuntimeError("a side ended before it had scored")

    def score(self) -> dict:
        """Seconds, seconds of all cores together, and texts."""
        assert self.process.stdin
        print("go", file=self.process.stdin, flush=True)
        return json.loads(self._answer("{"))

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def unpack(commit: str, folder: Path) -> Path:
    """The files of a commit, below `folder`."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True
    )
    folder.mkdir()
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def write_manifest(folder: Path, minutes: float) -> tuple[Path, float]:
    """A manifest of about so many minutes of files below `folder`, and their seconds."""
    import soundfile

    # A file has six seconds on average.
    paths, total = write_files(folder, round(minutes * 10))
    manifest = folder / "files.jsonl"
    rows = [
        {"audio_filepath": path, "duration": soundfile.info(path).duration, "text": "x"}
        for path in paths
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest, total


def measure(*, model: str, minutes: float, turns: int, before: str) -> dict:
    """Ratios of the earlier side's seconds to ours, and how many texts differ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, total = write_manifest(folder, minutes)
        sides = {
            "before": Side(unpack(before, folder / "before"), model, manifest),
            "now": Side(ROOT, model, manifest),
        }
        found: dict[str, list[dict]] = {side: [] for side in sides}
        for _ in range(turns):
            for side, process in sides.items():
                found[side].append(process.score())
        for process in sides.values():
            process.end()
    ratios = {
        key: [a[key] / b[key] for a, b in zip(found["before"], found["now"], strict=True)]
        for key in ("seconds", "cpu")
    }
    texts = {side: rows[0]["texts"] for side, rows in found.items()}
    return {
        "model": model,
        "before": before,
        "audio_hours": round(total / 3600, 2),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": {
            side: _sides.summary([r["seconds"] for r in rows]) for side, rows in found.items()
        },
        "times_as_fast": _sides.summary(ratios["seconds"]),
        "times_less_cpu": _sides.summary(ratios["cpu"]),
        "audio_s_per_s": round(total / statistics.median(r["seconds"] for r in found["now"])),
        "texts": len(texts["now"]),
        "differing_texts": sum(a != b for a, b in zip(texts["before"], texts["now"], strict=True)),
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--before", default=BEFORE, help="a commit (default: %(default)s)")
    args = parser.parse_args()
    found = measure(**vars(args))
    _sides.show(f"{args.model}, {found['audio_hours']} h of audio", found["seconds"], "seconds")
    print(_sides.verdict(found["times_as_fast"]["median"], TARGET))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
