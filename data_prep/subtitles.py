"""Recordings with subtitles of the same name (talk.mp4, talk.en.srt; SRT,
WebVTT ...) -> audio and manifests.

    python data_prep/subtitles.py talks/ --out data/talks

Lines are joined up to the end of a sentence. Subtitles are often loose: have
the result aligned by segment.py where it matters.
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, number_type, run
from parakeet_ft.data.corpora.subtitles import read_subtitles
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder")
    parser.add_argument(
        "--merge-seconds",
        type=number_type(above=0),
        default=15.0,
        help="longest utterance that lines are joined to; default %(default)s",
    )
    parser.add_argument(
        "--pad-seconds",
        type=number_type(lowest=0),
        default=0.1,
        help="added at both ends; default %(default)s",
    )
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(
                read_subtitles(
                    args.folder, merge_seconds=args.merge_seconds, pad_seconds=args.pad_seconds
                )
            ),
            args,
            root=Path(args.folder),
            title=f"{args.folder} -> {args.out}",
        )


if __name__ == "__main__":
    main()
