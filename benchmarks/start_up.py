"""From the command to an answer: help, mistakes, and the first optimisation step of the demo
against NeMo's stock way.

    python benchmarks/start_up.py              # --short: one repeat

Both sides begin from the bundled `tiny`, a CTC checkpoint, so that NeMo's loss is its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import _quiet  # noqa: F401
from _sides import HERE, events_of, show, summary, verdict

RECIPE = HERE.parent / "recipes" / "finetune.py"
ANSWERS = {
    "--help": ["--help"],
    "a misspelt key": ["optim.lrr=1"],
    "a missing manifest": ["data.train=none.jsonl", "data.validation=none.jsonl"],
}
LIMIT_SECONDS = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    repeats = 1 if args.short else args.repeats
    demo = HERE.parent / "parakeet_ft" / "demo"
    seconds: dict[str, list[float]] = {name: [] for name in ANSWERS}
    first: dict[str, list[float]] = {"ours": [], "NeMo": []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for name, arguments in ANSWERS.items():
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, RECIPE, *arguments], capture_output=True, cwd=folder
                )
                seconds[name].append(time.perf_counter() - begun)
            ours, _ = events_of(
                [
                    str(HERE / "_ours.py"),
                    "--only-first-step",
                    "--",
                    "model=tiny",
                    f"hydra.run.dir={folder}/ours{repeat}",
                ],
                limit=300,
            )
            stock, _ = events_of(
                [
                    str(HERE / "_stock.py"),
                    str(demo / "tiny.nemo"),
                    "--train",
                    str(demo / "train.jsonl"),
                    "--validation",
                    str(demo / "dev.jsonl"),
                    "--epochs",
                    "1",
                    "--first-step-only",
                    "--out",
                    f"{folder}/stock{repeat}",
                ],
                limit=300,
            )
            first["ours"].append(ours[0]["seconds"])
            first["NeMo"].append(stock[0]["seconds"])
    rows = {name: summary(values) for name, values in seconds.items()}
    show("answer to", rows, "s")
    steps = {f"first step, {name}": summary(values) for name, values in first.items()}
    show("from the command", steps, "s")
    ratio = summary(
        [stock / ours for stock, ours in zip(first["NeMo"], first["ours"], strict=True)]
    )
    slowest = max(row["median"] for row in rows.values())
    print(
        f"answers: slowest {slowest:.2f} s, limit {LIMIT_SECONDS} s: "
        f"{'met' if slowest < LIMIT_SECONDS else 'MISSED'}"
    )
    print(
        f"first step: {ratio['median']:.2f} times sooner than NeMo; {verdict(ratio['median'], 2)}"
    )
    print(
        json.dumps(
            {
                "slowest_answer_seconds": slowest,
                "vs_stock": ratio["median"],
                "vs_stock_range": [ratio["lowest"], ratio["highest"]],
            }
        )
    )


if __name__ == "__main__":
    main()
