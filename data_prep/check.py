"""Audit existing manifests: every path, real durations, levels, texts,
duplicates, what the splits share.

    python data_prep/check.py train.jsonl dev.jsonl test.jsonl
    python data_prep/check.py shards/train          # and what else training
                                    # takes for a manifest
    python data_prep/check.py train.jsonl --quick   # a million lines a minute:
                                    # durations trusted, a sample decoded

Writes OUT/report.html and OUT/dropped.jsonl, and with --write also
OUT/SPLIT.jsonl: what is left, with real durations. Exit code 1 if more than
--max-dropped would be dropped. Splits are named by the files: train, dev (val,
validation), test (eval).
"""

import argparse
import dataclasses
from pathlib import Path

from parakeet_ft.data.audit import skim
from parakeet_ft.data.command import (
    finish,
    load_encoder,
    make_parser,
    progress_bar,
    run,
    stages_from,
)
from parakeet_ft.data.corpora.nemo_manifest import read_manifests, split_names
from parakeet_ft.data.layouts import expand
from parakeet_ft.data.report import write_report
from parakeet_ft.data.storage import is_remote
from parakeet_ft.data.summary import print_summary
from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.urls import without_secrets


def count_lines(paths: list[str]) -> int:
    """Lines of manifests, utterances of shards."""
    total = 0
    for path in paths:
        if not Path(path).is_file():
            total += sum(1 for _ in read_manifests([path]))
            continue
        with open(path, "rb") as lines:
            total += sum(1 for _ in lines)
    return total


def check(args: argparse.Namespace) -> None:
    """Examine what the command line names, and report. Raises UserError."""
    sources = [source for name in args.manifests for source in expand(name)]
    if args.write and any(source.tar or is_remote(source.manifest) for source in sources):
        raise UserError(
            "--write writes manifests of single files, and these are shards, or lie elsewhere: "
            "leave it out, or use data_prep/nemo_manifest.py, which makes files of them."
        )
    names, stages = split_names(args.manifests), stages_from(args)
    limits = dataclasses.replace(stages.limits, check_claimed_duration=True)
    title = " ".join(args.manifests)
    if args.quick:
        encode, unknown_id = load_encoder(args.tokenizer)
        with progress_bar(count_lines(args.manifests), what="lines") as advance:
            summary = skim(
                args.manifests,
                names,
                limits=limits,
                encode=encode,
                unknown_id=unknown_id,
                on_progress=advance,
            )
        report = write_report(summary, args.out / "report.html", title=title)
        print_summary(summary, title=title)
        print(f"report: {report}")
        finish(summary, max_dropped=args.max_dropped)
        return
    stages = dataclasses.replace(
        stages,
        audio=dataclasses.replace(stages.audio, convert=False),
        limits=limits,
        split_by="given",
    )
    run(
        lambda: read_manifests(args.manifests, splits=names),
        args,
        root=Path(args.manifests[0]).parent.absolute(),
        title=title,
        stages=stages,
        only_examine=not args.write,
    )


def main() -> None:
    parser = make_parser(__doc__, splits=False)
    parser.add_argument("manifests", nargs="+", type=without_secrets)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="trust durations and decode only a sample of 200 of each manifest",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("check"),
        metavar="DIR",
        help="folder of the report; default %(default)s",
    )
    parser.add_argument(
        "--write", action="store_true", help="write what is left as OUT/SPLIT.jsonl"
    )
    with exit_on_user_error():
        args = parser.parse_args()
        check(args)


if __name__ == "__main__":
    main()
