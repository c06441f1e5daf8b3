"""LJSpeech or a corpus in its layout (metadata.csv with id|text|normalised
text, wavs/) -> audio and manifests.

python data_prep/ljspeech.py LJSpeech-1.1/ --out data/ljspeech
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.ljspeech import read_ljspeech
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument(
        "--raw-text", action="store_true", help="the second column instead of the third"
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(read_ljspeech(args.folder, raw_text=args.raw_text)),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
