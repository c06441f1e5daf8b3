"""A table (CSV, TSV, JSON lines or Parquet) -> 16 kHz audio and train/dev/test
manifests.

    python data_prep/from_table.py recordings/metadata.csv --out data/mine

Columns: path (relative to the table) and text; speaker, offset, duration
(seconds) and language if there are, further ones are kept. No speaker is in two
splits. With few speakers, test and dev get one each, whose audio comes nearest
to the share asked for, and train the rest. Without speakers, or with two, no
sentence is in two splits.
"""

from functools import partial
from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.table import read_table
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("table")
    for column in ("path", "text", "speaker"):
        parser.add_argument(f"--{column}-column", metavar="NAME")
    parser.add_argument(
        "--audio-root",
        metavar="DIR",
        help="what paths are relative to; default: the table's folder",
    )
    parser.add_argument("--encoding", default="utf-8")
    with exit_on_user_error():
        args = parser.parse_args()
    read = partial(
        read_table,
        args.table,
        path_column=args.path_column,
        text_column=args.text_column,
        speaker_column=args.speaker_column,
        audio_root=args.audio_root,
        encoding=args.encoding,
    )
    root = Path(args.audio_root or Path(args.table).parent)
    with exit_on_user_error():
        run(lambda: absolute(read()), args, root=root, title=f"{args.table} -> {args.out}")


if __name__ == "__main__":
    main()
