"""The short form of every benchmark, in turn; rewrites the first table of benchmarks/README.md.

    make bench

A row that misses its target says so. The long forms, with more repeats, are each script's own and
have their own tables below.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"

# script and arguments -> {key of its JSON: (what it says, target, whether the target is a lower
# bound)}
CLAIMS: dict[tuple[str, ...], dict[str, tuple[str, float, bool]]] = {
    ("start_up.py", "--short"): {
        "slowest_answer_seconds": ("slowest answer to help or a mistake, s", 0.6, False),
        "vs_stock": ("first step of the demo, times sooner than NeMo", 2, True),
    },
    ("transducer_loss.py", "--short"): {
        "rnnt_ratio": ("RNN-T loss, times faster than NeMo's (small size)", 100, True),
        "tdt_ratio": ("TDT loss, times faster than NeMo's (small size)", 100, True),
        "rnnt_step_ratio": ("RNN-T training step, times faster", 5, True),
        "joint_time_ratio": ("loss with the joint inside against held logits", 0.95, True),
        "joint_padded_time_ratio": ("the same, where half is padding", 1, True),
    },
    ("throughput.py", "--short"): {
        "vs_stock": ("training throughput against NeMo's stock settings", 1.5, True),
        "vs_tuned": ("training throughput against NeMo as its maintainers tune it", 1.0, True),
    },
    ("time_to_wer.py", "--short"): {
        "vs_stock": ("time to a dev WER, times sooner than NeMo's stock way", 3, True)
    },
    ("transcribe.py", "--short"): {
        "vs_nemo": ("transcription, times faster than NeMo's transcribe()", 1.3, True)
    },
    ("data_prep.py", "--minutes", "20", "--repeats", "1"): {
        "vs_limit": ("data preparation against the bare decoding and encoding", 0.8, True),
        "vs_subprocess": ("data preparation against a loop of sox", 3, True),
    },
    ("scaling.py", "--short"): {
        "training_efficiency": ("training, efficiency of 2 processes", 0.8, True),
        "jobs_efficiency": ("data preparation, efficiency of 2 jobs", 0.8, True),
        "time_per_hour_10x_to_1x": (
            "data preparation, time per hour at 10x the data to 1x",
            1.2,
            False,
        ),
        "memory_10x_to_1x": ("data preparation, peak memory at 10x the data to 1x", 1.2, False),
    },
}


def run(command: tuple[str, ...]) -> tuple[dict[str, float] | None, float]:
    """The JSON of a benchmark's last line, None if it failed, and its seconds."""
    begun = time.time()
    done = subprocess.run(
        [sys.executable, HERE / command[0], *command[1:]], stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines()
    return (
        json.loads(lines[-1])
        if not done.returncode and lines and lines[-1].startswith("{")
        else None
    ), time.time() - begun


def row(command: tuple[str, ...], claim: tuple[str, float, bool], value: float | None) -> str:
    what, target, at_least = claim
    met = value is not None and (value >= target if at_least else value <= target)
    shown = "failed" if value is None else f"{value:.3g}"
    return (
        f"| {what} | `{' '.join(command)}` | {shown} | {'at least' if at_least else 'at most'} "
        f"{target:g}: {'met' if met else '**missed**'} |"
    )


def main() -> None:
    begun, rows = time.time(), []
    for command, claims in CLAIMS.items():
        print(f"== {' '.join(command)}", flush=True)
        found, seconds = run(command)
        print(f"   {seconds:.0f} s", flush=True)
        rows += [
            row(command, claim, None if found is None else found.get(key))
            for key, claim in claims.items()
        ]
    table = "\n".join(
        ["| claim | benchmark | figure | target |", "| --- | --- | --- | --- |", *rows]
    )
    text = (
        f"{BEGIN}\n\n{table}\n\nTaken by `make bench` in {(time.time() - begun) / 60:.0f} "
        f"minutes.\n\n{END}"
    )
    README.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: text, README.read_text(), flags=re.DOTALL)
    )
    print(table)


if __name__ == "__main__":
    main()
