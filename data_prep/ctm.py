"""A CTM file (words with times) over recordings -> audio and manifests, cut at
pauses.

python data_prep/ctm.py calls.ctm --audio calls/ --out data/calls
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, number_type, run
from parakeet_ft.data.corpora.ctm import read_ctm
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("ctm")
    parser.add_argument(
        "--audio", metavar="DIR", help="folder of the recordings; default: that of the file"
    )
    parser.add_argument(
        "--pause-seconds",
        type=number_type(lowest=0),
        default=0.5,
        help="cut at pauses from here; default %(default)s",
    )
    parser.add_argument(
        "--max-seconds",
        type=number_type(above=0),
        default=20.0,
        help="longest utterance; default %(default)s",
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(
                read_ctm(
                    args.ctm,
                    audio=args.audio,
                    pause_seconds=args.pause_seconds,
                    max_seconds=args.max_seconds,
                )
            ),
            args,
            root=Path(args.audio or Path(args.ctm).parent),
            title=f"{args.ctm} -> {args.out}",
        )


if __name__ == "__main__":
    main()
