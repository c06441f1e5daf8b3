"""What fine-tuning gains on the domain and loses elsewhere: NeMo's stock settings, the same with a
sensible schedule, and ours.

    python benchmarks/forgetting.py       # the demo, 3 seeds
    python benchmarks/forgetting.py --passes 6 data.train=a.jsonl data.validation=b.jsonl \\
        data.test=c.jsonl                 # your data, the demo's guard

Every way starts from the same checkpoint and passes as often over the same domain data. Each result
is kept in --out and not made again. Prints a table of domain and guard test WER, mean
(lowest-highest) over the seeds, and one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import _quiet
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
STOCK = {
    "NeMo, stock settings": ["--lr", "1e-4", "--warmup-steps", "5000"],
    "NeMo, sensible lr and warm-up": ["--lr", "5e-4", "--warmup-steps", "10"],
}
OURS = {
    "ours, no replay": ["data.replay.ratio=0"],
    "ours, replay": [],
    "ours, replay, LoRA": ["adaptation=lora", "adaptation.lora_rank=8", "adaptation.lora_alpha=16"],
}
DEMO = [
    "data.guard_validation=bundled:guard_dev.jsonl",
    "data.guard_test=bundled:guard.jsonl",
    "data.replay.manifest=bundled:replay.jsonl",
]


def run_ours(overrides: list[str], run_dir: Path, *, python: str) -> dict[str, float]:
    """One run of the recipe; {domain, guard, base_domain, base_guard} test WER and the share of
    weights that learn.
    """
    subprocess.run(
        [python, HERE.parent / "recipes" / "finetune.py", *overrides, f"hydra.run.dir={run_dir}"],
        check=True,
    )
    report = json.loads((run_dir / "report.json").read_text())
    learning = json.loads((run_dir / "run.json").read_text())["effective"]["adaptation"]
    return {
        "domain": report["tuned"]["domain"]["wer"],
        "guard": report["tuned"]["guard"]["wer"],
        "base_domain": report["baseline"]["domain"]["wer"],
        "base_guard": report["baseline"]["guard"]["wer"],
        "learning_share": learning["learning"] / (learning["learning"] + learning["frozen"]),
    }


def run_stock(
    options: list[str],
    run_dir: Path,
    *,
    python: str,
    sets: dict[str, str],
    base: str,
    passes: int,
    seed: int,
) -> dict[str, float]:
    """One run of NeMo's way, its best checkpoint scored by this project's scorer."""
    subprocess.run(
        [
            python,
            HERE / "_stock.py",
            base,
            "--train",
            sets["train"],
            "--validation",
            sets["validation"],
            "--epochs",
            str(passes),
            "--seed",
            str(seed),
            "--out",
            run_dir,
            *options,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    _quiet.silence_nemo()
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.model import restore
    from parakeet_ft.scoring import wer
    from parakeet_ft.transcription import decode

    model, found = restore.restore(str(run_dir / "best.nemo")), {"learning_share": 1.0}
    for name, key in (("domain", "test"), ("guard", "guard_test")):
        utterances = read_manifest(sets[key])
        found[name] = wer.score(
            [u.text for u in utterances], decode.transcribe(model, utterances)
        ).wer
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", help="settings of recipes/finetune.py, for every way of ours"
    )
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", help="only these, separated by semicolons")
    parser.add_argument("--out", type=Path, default=Path("outputs/forgetting"))
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    from parakeet_ft import preflight
    from parakeet_ft.model.source import locate
    from parakeet_ft.run import composition
    from parakeet_ft.settings.finetune import read_finetune

    overrides = [
        *(DEMO if any(o.startswith("data.train=") for o in args.overrides) else []),
        *args.overrides,
        f"budget.epochs={args.passes}",
    ]
    config = composition.compose("finetune", composition.expand_shorthand(overrides))
    settings = read_finetune(config)
    sets, base = preflight.manifest_paths(settings.data), str(locate(settings.model.source))
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, args.seeds + 1):
        for way in [w for w in (*STOCK, *OURS) if not args.ways or w in args.ways.split(";")]:
            run_dir = args.out / way.replace(",", "").replace(" ", "_") / f"seed{seed}"
            kept = run_dir / "result.json"
            if not kept.exists():
                found = (
                    run_stock(
                        STOCK[way],
                        run_dir,
                        python=args.python,
                        sets=sets,
                        base=base,
                        passes=args.passes,
                        seed=seed,
                    )
                    if way in STOCK
                    else run_ours(
                        [*overrides, *OURS[way], f"seed={seed}"], run_dir, python=args.python
                    )
                )
                kept.write_text(json.dumps(found))
            results.setdefault(way, []).append(json.loads(kept.read_text()))
    first = next(found for runs in results.values() for found in runs if "base_domain" in found)
    table = Table("way", "weights that learn", "domain WER %", "guard WER %", box=None)
    table.add_row(
        "base", "", f"{100 * first['base_domain']:.1f}", f"{100 * first['base_guard']:.1f}"
    )
    summary = {"base": {"domain": first["base_domain"], "guard": first["base_guard"]}}
    for way, runs in results.items():
        cells, summary[way] = [], {}
        for key in ("domain", "guard"):
            values = [found[key] for found in runs]
            cells.append(
                f"{100 * statistics.mean(values):.1f} "
                f"({100 * min(values):.1f}-{100 * max(values):.1f})"
            )
            summary[way][key] = {"mean": statistics.mean(values), "values": values}
        table.add_row(way, f"{100 * runs[0]['learning_share']:.1f} %", *cells)
    Console(width=120).print(table)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
