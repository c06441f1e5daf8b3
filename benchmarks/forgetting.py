"""What fine-tuning gains on the domain and loses elsewhere: NeMo's own loop, its weights with our
selection, and ours.

    python benchmarks/forgetting.py --domains demo                  # needs nothing else
    python benchmarks/domains.py --digits FOLDER --speechocean FOLDER --out data/domains
    python benchmarks/forgetting.py --jobs 2                        # all domains, ways and seeds

A domain is the bundled demo, or a folder in --data with train.jsonl, dev.jsonl and test.jsonl.
Every way starts from the same base and passes as often over the same domain data; guard and, for
ours, replay are the demo's. Each result is kept in --out with a hash of its settings, manifests and
base (not of the code: its commit is kept beside), and made again when that differs.

Prints a table for each domain (--markdown: as in benchmarks/README.md), and one JSON object.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _gains
import _ways
import numpy as np
from rich.console import Console

from parakeet_ft import preflight
from parakeet_ft.data.command import number_type
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.files import DEMO, file_hash, json_hash, read_json, write_json
from parakeet_ft.model.source import locate
from parakeet_ft.run.provenance import git_commit
from parakeet_ft.settings.finetune import Finetune, read_finetune

DOMAINS = ("demo", "digits", "adults", "children")
WAYS = ("nemo_stock", "nemo_sensible", "nemo_selected", "ours", "lora")
COUNT = number_type(lowest=1, whole=True)
ROLES = {"train": "train", "validation": "dev", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Domain:
    """A domain's folder of manifests, the settings of ours, its sets, and where its results lie."""

    name: str
    folder: Path
    overrides: list[str]
    settings: Finetune
    sets: dict[str, Corpus]
    base: Path
    out: Path

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """Hashes of all that is read."""
        return {"base": file_hash(self.base), "sets": preflight.set_facts(self.settings.data)}


def read_domain(name: str, args: argparse.Namespace) -> Domain:
    """A domain, all of whose files are there. Raises UserError."""
    folder = DEMO if name == "demo" else (args.data / name).resolve()
    manifests = {role: folder / f"{split}.jsonl" for role, split in ROLES.items()}
    if missing := [str(path) for path in manifests.values() if not path.is_file()]:
        raise UserError(
            f"--domains {name}: {', '.join(missing)} is not there. Expected demo, or a folder in "
            f"--data ({args.data}) with train.jsonl, dev.jsonl and test.jsonl, as "
            "benchmarks/domains.py makes for digits, adults and children."
        )
    named = [f"data.{role}='{path}'" for role, path in manifests.items()]
    overrides = ["data=demo", *(named if name != "demo" else []), *args.overrides]
    settings = read_finetune(_ways.composed(overrides))
    base = locate(settings.model.source)
    if base is None:
        raise UserError(f"{settings.model.source} is not on this machine; expected a .nemo file.")
    sets = preflight.read_manifests(settings.data)
    preflight.check_data(settings.data, sets)
    preflight.warn(preflight.check_choice(sets))
    return Domain(name, folder, overrides, settings, sets, base, args.out / name)


def kept(path: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in a file, made (again) unless it was made of what `key` is the hash of."""
    with contextlib.suppress(ValueError):
        if (found := read_json(path)).get("key") == key:
            return found
    commit, begun = git_commit(), time.time()
    made = make()
    about = {"key": key, "commit": commit, "seconds": round(time.time() - begun, 1)}
    write_json(path, about | made)
    return about | made


def run_base(domain: Domain) -> dict[str, Any]:
    """Errors of the base."""
    return kept(
        domain.out / "base" / "result.json",
        json_hash(domain.inputs),
        lambda: _ways.errors(domain.base, domain.sets),
    )


def run_seed(domain: Domain, seed: int, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The results of all ways with a seed, one after another."""
    job = _ways.Job(
        folder=domain.folder,
        out=domain.out,
        seed=seed,
        passes=args.passes,
        overrides=domain.overrides,
        base=domain.base,
        inputs=domain.inputs,
        evaluation=domain.settings.evaluation,
        python=args.python,
    )

    def make(way: str) -> dict[str, Any]:
        made = _ways.make(way, job, domain.sets)
        return made | _ways.errors(job.run_dir(way) / "best.nemo", domain.sets)

    found = {}
    for way in args.ways:
        path = job.run_dir(way) / "result.json"
        found[way] = kept(path, job.key(way), functools.partial(make, way))
        done = f"{domain.name}, {_ways.TITLES[way]}, seed {seed}"
        print(f"{done}: {found[way]['seconds']:.0f} s", file=sys.stderr)
    return found


def rows_of(
    domain: Domain, base: dict[str, Any], runs: dict[str, list[dict[str, Any]]]
) -> tuple[_gains.Scored, _gains.Scored, list[_gains.Row]]:
    """Domain, guard, and the row of every way."""
    domain_set, guard_set = (
        _gains.Scored(
            np.array([len(u.text.split()) for u in domain.sets[key]]),
            [u.speaker for u in domain.sets[key]],
            np.array(base[name]),
        )
        for name, key in (("domain", "test"), ("guard", "guard_test"))
    )
    default_gain = None
    if "ours" in runs:
        errors = [np.array(run["domain"]) for run in runs["ours"]]
        default_gain = -_gains.change(errors, domain_set).difference
    rows = [
        _gains.row(_ways.TITLES[way], found, domain_set, guard_set, default_gain=default_gain)
        for way, found in runs.items()
    ]
    return domain_set, guard_set, rows


def measure(domains: Sequence[Domain], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each domain the results: {base: ..., runs: {way: [of each seed]}}."""
    bases = [run_base(domain) for domain in domains]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        waiting = [
            [pool.submit(run_seed, domain, seed, args) for seed in args.seeds] for domain in domains
        ]
        try:
            found = [[future.result() for future in futures] for futures in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [
        {"base": base, "runs": {way: [seed[way] for seed in seeds] for way in args.ways}}
        for base, seeds in zip(bases, found, strict=True)
    ]


def show(domain: Domain, found: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Print a domain's table; returns what the JSON object holds of it."""
    scored, guard, rows = rows_of(domain, found["base"], found["runs"])
    seeds = ", ".join(map(str, args.seeds))
    title = f"{domain.name}: {scored.describe()}; guard: {guard.describe()}; seeds {seeds}"
    lines = [_gains.base_cells(scored, guard), *(list(_gains.cells(row)) for row in rows)]
    if args.markdown:
        print(f"{_gains.markdown(title, lines)}\n")
    else:
        Console(width=120).print(_gains.table(title, lines))
    results = [found["base"], *(run for runs in found["runs"].values() for run in runs)]
    if len(commits := {result["commit"] for result in results}) > 1:
        print(f"{domain.name}: results of several commits: {', '.join(map(str, commits))}")
    return {
        "base": {"domain": scored.base_wer, "guard": guard.base_wer},
        "seconds": {way: [run["seconds"] for run in runs] for way, runs in found["runs"].items()},
        **{way: dataclasses.asdict(row) for way, row in zip(args.ways, rows, strict=True)},
    }


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _numbers(text: str) -> list[int]:
    names = _names(text)
    if not names or not all(name.isdecimal() for name in names):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers, such as 1,2,3")
    return [int(name) for name in names]


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", help="settings of recipes/finetune.py, such as model=base.nemo"
    )
    parser.add_argument(
        "--domains",
        type=_names,
        default=list(DOMAINS),
        metavar="A,B",
        help=f"demo, or folders in --data; default {','.join(DOMAINS)}",
    )
    parser.add_argument(
        "--ways",
        type=_names,
        default=list(WAYS),
        metavar="A,B",
        help=f"of {', '.join(_ways.TITLES)}; default all but no_replay and one_speed",
    )
    parser.add_argument("--seeds", type=_numbers, default=[1, 2, 3], metavar="1,2,3")
    parser.add_argument("--passes", type=COUNT, default=5, help="default %(default)s")
    parser.add_argument("--data", type=Path, default=Path("data/domains"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("outputs/forgetting"), metavar="FOLDER")
    parser.add_argument("--jobs", type=COUNT, default=1, help="runs at a time, one core each")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    return parser.parse_args()


def main() -> None:
    args = read_arguments()
    with exit_on_user_error():
        if unknown := [way for way in args.ways if way not in _ways.TITLES]:
            raise UserError(f"--ways {', '.join(unknown)}: expected {', '.join(_ways.TITLES)}.")
        args.out = args.out.resolve()
        domains = [read_domain(name, args) for name in args.domains]
        found = measure(domains, args)
        shown = {
            domain.name: show(domain, results, args)
            for domain, results in zip(domains, found, strict=True)
        }
    if not args.markdown:
        print(_gains.LEGEND)
    print(json.dumps({"passes": args.passes, "seeds": args.seeds, "domains": shown}))


if __name__ == "__main__":
    main()
