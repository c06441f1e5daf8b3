"""One language of Mozilla Common Voice -> audio and manifests; train.tsv,
dev.tsv and test.tsv give the splits.

    python data_prep/common_voice.py cv-corpus-21.0/eu --out data/cv-eu
    python data_prep/common_voice.py cv-corpus-21.0/eu --out data/cv-eu \\
        --tables validated   # all that was validated, split by speaker
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.common_voice import read_common_voice
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument("--tables", nargs="+", default=["train", "dev", "test"], metavar="NAME")
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(read_common_voice(args.folder, tables=args.tables)),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
