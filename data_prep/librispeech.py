"""LibriSpeech, whole or one subset -> audio and manifests; train-*, dev-* and
test-* give the splits.

python data_prep/librispeech.py LibriSpeech/ --out data/librispeech --in-place
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.librispeech import read_librispeech
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument("--suffix", default=".flac", help="of the audio files")
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(read_librispeech(args.folder, suffix=args.suffix)),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
