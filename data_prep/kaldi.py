"""A Kaldi data directory (wav.scp, text; segments and utt2spk if there) ->
audio and manifests.

python data_prep/kaldi.py data/train --out data/mine
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.kaldi import read_kaldi
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument(
        "--audio-root",
        metavar="DIR",
        help="what relative paths of wav.scp are relative to; default: here",
    )
    parser.add_argument(
        "--allow-pipes", action="store_true", help="run the commands of wav.scp in a shell"
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(
                read_kaldi(args.folder, audio_root=args.audio_root, allow_pipes=args.allow_pipes)
            ),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
