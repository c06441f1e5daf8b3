"""Corpora -> one: manifests, folders that scripts wrote, and shards, which stay
where they are.

    python data_prep/merge.py data/a data/b --out data/all
    python data_prep/merge.py data/a train=more/clips.jsonl --out data/all

An input is a folder with train.jsonl ... or with shards in train/ ..., or a
manifest or folder of shards that is called train, dev or test, or has that and
= before it. Writes train.jsonl, dev.jsonl and test.jsonl of all that are files,
and merge.json, which names what a run reads; the command is shown. Says which
corpora hold copies of the same audio, and refuses to merge if dev or test of
one shares speakers, texts or audio with train of another.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from parakeet_ft.data.merge import Merged, merge
from parakeet_ft.data.splits import SPLITS
from parakeet_ft.errors import exit_on_user_error
from parakeet_ft.run.composition import hydra_quoted

KEYS = {"train": "data.train", "dev": "data.validation", "test": "data.test"}


def show(found: Merged, out: Path) -> None:
    """The table of hours and utterances, what is shared, and the command of a run."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{' '.join(found.names)} -> {out}"), title_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("")
    for column in ("hours", "utterances"):
        table.add_column(column, justify="right")
    for number, name in enumerate(found.names):
        for split in SPLITS:
            if count := found.count[number, split]:
                hours = f"{found.seconds[number, split] / 3600:.3f}"
                table.add_row(escape(name), split, hours, f"{count:,}")
    table.add_section()
    hours = f"{sum(found.seconds.values()) / 3600:.3f}"
    table.add_row("all", "", hours, f"{sum(found.count.values()):,}")
    Console().print(table)
    for line in found.copies:
        print(f"copies: {line}")
    for line in found.overlap:
        print(f"shared: {line}")
    print(f"a run reads it by: python recipes/finetune.py {' '.join(settings_of(found.data))}")
    lacking = [KEYS[split] for split in ("train", "dev") if not found.data[split]]
    if lacking:
        print(
            f"note: no input has {' or '.join(lacking)}, which a run needs: add it to the command. "
            "`python data_prep/split.py` divides a manifest."
        )


def settings_of(data: Mapping[str, Sequence[str]]) -> list[str]:
    """The settings of a run for each split, quoted for Hydra and for the shell."""
    settings = []
    for split, key in KEYS.items():
        names = [hydra_quoted(name) for name in data.get(split, ())]
        if names:
            value = names[0] if len(names) == 1 else f"[{','.join(names)}]"
            settings.append(shlex.quote(f"{key}={value}"))
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="merge though what is scored is trained on; say so where you show the scores",
    )
    with exit_on_user_error():
        args = parser.parse_args()
        found = merge(args.inputs, out=args.out, allow_overlap=args.allow_overlap)
        show(found, args.out)


if __name__ == "__main__":
    main()
