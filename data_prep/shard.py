"""A manifest -> tar shards of about equal hours, for fast sequential reading:
NeMo's tarred layout or Lhotse Shar.

    python data_prep/shard.py train.jsonl --out shards/train --hours 1
    python data_prep/shard.py train.jsonl --out shar/train --format shar

    python recipes/finetune.py data.train=shards/train data.validation=dev.jsonl

Started again after whatever ended it, it keeps the shards that are whole and
ends with the same bytes. Shards of another manifest are never replaced.
NeMo reads the first with
    is_tarred=true
    manifest_filepath=shards/train/sharded_manifests/manifest__OP_0..N_CL_.json
    tarred_audio_filepaths=shards/train/audio__OP_0..N_CL_.tar
and the second with shar_path=shar/train.
"""

import argparse
from pathlib import Path

from parakeet_ft.data.command import (
    SHORTEST_HOURS,
    add_run_flags,
    number_type,
    progress_bar,
    window_of,
)
from parakeet_ft.data.parallel import open_executor
from parakeet_ft.data.shards import FORMATS, write_shards
from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.files import refuse_pipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--hours",
        type=number_type(lowest=SHORTEST_HOURS),
        default=1.0,
        help="of audio a shard; default %(default)s",
    )
    parser.add_argument("--format", choices=FORMATS, default="nemo")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling; default %(default)s")
    add_run_flags(parser, filters=False)
    with exit_on_user_error():
        args = parser.parse_args()
        refuse_pipe(Path(args.manifest))
        if not Path(args.manifest).is_file():
            raise UserError(f"No manifest at {args.manifest}.")
        with open(args.manifest, "rb") as lines:
            total = sum(1 for line in lines if line.strip())
        with (
            open_executor(jobs=args.jobs, scheduler=args.scheduler, slurm=args.slurm) as executor,
            progress_bar(total, what="shards") as advance,
        ):
            done = write_shards(
                args.manifest,
                out=args.out,
                hours=args.hours,
                format=args.format,
                seed=args.seed,
                executor=executor,
                window=window_of(args),
                on_progress=advance,
            )
        hours = [shard["seconds"] / 3600 for shard in done["shards"]]
        print(
            f"{len(hours)} shards of {min(hours):.3f} to {max(hours):.3f} h, {sum(hours):.3f} h "
            f"and {sum(s['utterances'] for s in done['shards']):,} utterances in all: {args.out}"
        )


if __name__ == "__main__":
    main()
