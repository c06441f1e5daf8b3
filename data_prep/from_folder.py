"""A folder of audio with a text of the same name beside each file (a.wav,
a.txt) -> audio and manifests.

python data_prep/from_folder.py recordings/ --out data/mine --speaker-from
folder
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.folder import read_folder
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument("--text-suffix", default=".txt")
    parser.add_argument(
        "--speaker-from",
        choices=("folder", "prefix"),
        help="the file's folder, or its name up to the first _ or -",
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(
                read_folder(
                    args.folder, text_suffix=args.text_suffix, speaker_from=args.speaker_from
                )
            ),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
