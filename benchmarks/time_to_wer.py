"""Wall-clock from the command to a target dev WER on the demo's domain: ours against NeMo's stock
way, process start included.

    python benchmarks/time_to_wer.py                 # 3 seeds; --short: one seed and a lighter
    target

Both begin from the bundled `tiny`, a CTC checkpoint, so that NeMo's loss is its own. NeMo is
stopped after --times the seconds that ours took with the same seed; where it has not reached the
target by then, that stands for it, so the ratio is a lower bound and is shown as one.
"""

import argparse
import json
import tempfile

import _quiet  # noqa: F401
from _sides import HERE, events_of, show, summary, verdict


def reached(events: list[dict], target: float) -> float | None:
    """Seconds of the first validation at or below the target."""
    return next(
        (e["seconds"] for e in events if e["event"] == "validation" and e["val_wer"] <= target),
        None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target-wer", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--times", type=float, default=4, help="as long as ours is what NeMo may take"
    )
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    if args.short:
        args.seeds, args.target_wer, args.times = 1, 0.65, 3.2
    demo = HERE.parent / "parakeet_ft" / "demo"
    sides: dict[str, list[float]] = {"ours": [], "NeMo, stock": []}
    unreached = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, args.seeds + 1):
            ours, _ = events_of(
                [
                    str(HERE / "_ours.py"),
                    "--target-wer",
                    str(args.target_wer),
                    "--",
                    "model=tiny",
                    f"seed={seed}",
                    "evaluation.validations=24",
                    f"hydra.run.dir={folder}/ours{seed}",
                ],
                limit=1200,
            )
            seconds = reached(ours, args.target_wer)
            if seconds is None:
                raise SystemExit(
                    f"ours did not reach {args.target_wer} with seed {seed}: "
                    f"{[e['val_wer'] for e in ours if 'val_wer' in e]}"
                )
            limit = args.times * seconds
            stock, _ = events_of(
                [
                    str(HERE / "_stock.py"),
                    str(demo / "tiny.nemo"),
                    "--train",
                    str(demo / "train.jsonl"),
                    "--validation",
                    str(demo / "dev.jsonl"),
                    "--epochs",
                    "1000",
                    "--seed",
                    str(seed),
                    "--target-wer",
                    str(args.target_wer),
                    "--out",
                    f"{folder}/stock{seed}",
                ],
                limit=limit,
            )
            sides["ours"].append(seconds)
            stock_seconds = reached(stock, args.target_wer)
            unreached += stock_seconds is None
            sides["NeMo, stock"].append(stock_seconds or limit)
            best = min((e["val_wer"] for e in stock if "val_wer" in e), default=None)
            print(
                f"seed {seed}: ours {seconds:.0f} s, NeMo "
                + (
                    f"{stock_seconds:.0f} s"
                    if stock_seconds
                    else f"not in {limit:.0f} s (at best {best})"
                ),
                flush=True,
            )
    show(
        f"to a dev WER of {args.target_wer:g}",
        {name: summary(values) for name, values in sides.items()},
        "s",
    )
    ratio = summary(
        [stock / ours for stock, ours in zip(sides["NeMo, stock"], sides["ours"], strict=True)]
    )
    bound = "at least " if unreached else ""
    print(
        f"{bound}{ratio['median']:.1f} times sooner "
        f"({ratio['lowest']:.1f}-{ratio['highest']:.1f}); {verdict(ratio['median'], 3)}"
    )
    print(
        json.dumps(
            {
                "vs_stock": ratio["median"],
                "vs_stock_range": [ratio["lowest"], ratio["highest"]],
                "stock_never_reached": unreached,
                "target_wer": args.target_wer,
            }
        )
    )


if __name__ == "__main__":
    main()
