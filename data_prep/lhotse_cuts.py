"""Lhotse cuts (cuts.jsonl or .jsonl.gz, recordings in files) -> audio and
manifests, an utterance a supervision.

python data_prep/lhotse_cuts.py cuts.jsonl.gz --out data/mine
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.lhotse_cuts import read_lhotse_cuts
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("cuts")
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(read_lhotse_cuts(args.cuts)),
            args,
            root=Path(args.cuts).parent,
            title=f"{args.cuts} -> {args.out}",
        )


if __name__ == "__main__":
    main()
