"""Manifests -> train/dev/test manifests, disjoint by speaker, session or
sentence; touches no audio.

python data_prep/split.py all.jsonl --out data/mine --test-share 0.1
"""

import argparse
import os
from pathlib import Path

from parakeet_ft.data.command import add_split_flags, split_rules_from
from parakeet_ft.data.manifest import stream_manifest
from parakeet_ft.data.splits import split_manifests
from parakeet_ft.data.summary import Summary, print_summary
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_split_flags(parser, sentence_disjoint=False)
    with exit_on_user_error():
        args = parser.parse_args()
        written = split_manifests(
            args.manifests,
            out=Path(os.path.abspath(args.out)),
            rules=split_rules_from(args),
            split_by=args.split_by,
        )
        summary = Summary()
        for split in written:
            for utterance in stream_manifest(args.out / f"{split}.jsonl"):
                summary.add(utterance, split=split)
    print_summary(summary, title=f"{' '.join(args.manifests)} -> {args.out}")


if __name__ == "__main__":
    main()
