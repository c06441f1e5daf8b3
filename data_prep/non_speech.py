"""Noise, music and silence as utterances with empty text, made up or cut from a
folder: keeps a tuned model silent where nobody speaks.

    python data_prep/non_speech.py --hours 0.5 --out data/non_speech
    python data_prep/non_speech.py --hours 2 --out data/non_speech \\
        --from-folder recordings/noise

Writes OUT/train.jsonl; give it to training beside the speech, a few percent of
its hours. The folder must hold no speech.
"""

import argparse
from pathlib import Path

from parakeet_ft.data.command import number_type
from parakeet_ft.data.manifest import write_manifest
from parakeet_ft.data.non_speech import cut_folder, make_synthetic
from parakeet_ft.errors import UserError, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--hours", type=number_type(above=0), required=True)
    parser.add_argument(
        "--from-folder", metavar="DIR", help="cut these recordings instead of making noise up"
    )
    parser.add_argument(
        "--min-seconds",
        type=number_type(above=0),
        default=1.0,
        help="of an utterance; default %(default)s",
    )
    parser.add_argument(
        "--max-seconds",
        type=number_type(above=0),
        default=15.0,
        help="of an utterance; default %(default)s",
    )
    parser.add_argument("--seed", type=number_type(lowest=0, whole=True), default=0)
    with exit_on_user_error():
        args = parser.parse_args()
        if not 0 < args.min_seconds <= args.max_seconds or args.hours <= 0:
            raise UserError("Expected --hours above 0 and 0 < --min-seconds <= --max-seconds.")
        bounds = {
            "hours": args.hours,
            "min_seconds": args.min_seconds,
            "max_seconds": args.max_seconds,
            "seed": args.seed,
        }
        made = (
            cut_folder(args.from_folder, args.out, **bounds)
            if args.from_folder
            else make_synthetic(args.out, **bounds)
        )
        count = write_manifest(made, args.out / "train.jsonl")
        print(f"{count} utterances without speech: {args.out / 'train.jsonl'}")


if __name__ == "__main__":
    main()
