"""An STM file over recordings -> audio and manifests, an utterance a line.

python data_prep/stm.py talks.stm --audio talks/ --out data/talks
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.stm import read_stm
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("stm")
    parser.add_argument(
        "--audio", metavar="DIR", help="folder of the recordings; default: that of the file"
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(read_stm(args.stm, audio=args.audio)),
            args,
            root=Path(args.audio or Path(args.stm).parent),
            title=f"{args.stm} -> {args.out}",
        )


if __name__ == "__main__":
    main()
