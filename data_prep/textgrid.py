"""Recordings with Praat TextGrids of the same name -> audio and manifests, an
utterance an interval that has text.

python data_prep/textgrid.py interviews/ --out data/interviews --tier utterances
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.textgrid import read_textgrids
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument("--tier", metavar="NAME", help="default: all interval tiers")
    parser.add_argument(
        "--speaker-from-tier", action="store_true", help="the name of the tier is the speaker"
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(
                read_textgrids(
                    args.folder, tier=args.tier, speaker_from_tier=args.speaker_from_tier
                )
            ),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
