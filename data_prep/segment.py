"""Long recordings -> utterances of at most --max-seconds, audio and manifests.

    python data_prep/segment.py talks/ --model parakeet-ctc.nemo \\
        --out data/talks     # talk.wav with its transcript talk.txt beside it
    python data_prep/segment.py calls/ --no-transcript \\
        --out data/calls     # cut where nobody speaks; texts are empty

With transcripts, each is aligned to its recording by CTC with the checkpoint,
cut at sentence ends (lines, . ! ?) and at pauses, and what fits badly is
dropped as low_alignment_score. Recordings that are aligned already are not
aligned again. Without, the utterances are for transcribing or pseudo-labelling.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from parakeet_ft.data.command import make_parser, number_type, progress_bar, run, stages_from
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.files import atomic_path


def cut_all(args: argparse.Namespace) -> list[Path]:
    """Write OUT/segments/NAME.json for each recording that has none of the same size and
    transcript; returns all of them, in order.
    """
    from parakeet_ft.data import audio
    from parakeet_ft.transcription import segmentation

    pairs, bare = segmentation.recordings_with_texts(args.folder)
    jobs = (
        [(path, "") for path in sorted([path for path, _ in pairs] + bare)]
        if args.no_transcript
        else pairs
    )
    if not jobs:
        which = (
            "" if args.no_transcript else " with a transcript of the same name (talk.wav, talk.txt)"
        )
        raise UserError(f"{args.folder} holds no recording{which}.")
    if bare and not args.no_transcript:
        print(
            f"note: {len(bare)} recordings have no transcript and are left out, the first: "
            f"{bare[0]}",
            file=sys.stderr,
        )
    model, written = None, []
    for number, (path, text) in enumerate(jobs):
        state = {
            "path": path,
            "bytes": os.path.getsize(path),
            "text": text,
            "max_seconds": args.max_seconds,
            "model": str(args.model),
        }
        target = args.out / "segments" / f"{number:05d}-{Path(path).stem[:60]}.json"
        written.append(target)
        if target.is_file() and json.loads(target.read_text())["state"] == state:
            continue
        with progress_bar(round(audio.probe(path).duration), what=Path(path).name[:40]) as advance:

            def on_progress(seconds: float) -> None:
                advance(round(seconds), seconds)

            if args.no_transcript:
                spans = segmentation.speech_spans(
                    path, max_seconds=args.max_seconds, on_progress=on_progress
                )
                rows = [{"begin": begin, "end": end, "text": ""} for begin, end in spans]
            else:
                model = model or load_model(args.model, log=args.out / "model.log")
                rows = [
                    dataclasses.asdict(s)
                    for s in segmentation.align_recording(
                        model, path, text, max_seconds=args.max_seconds, on_progress=on_progress
                    )
                ]
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps({"state": state, "rows": rows}, ensure_ascii=False))
    return written


def load_model(source: str, *, log: Path):
    """The checkpoint; what NeMo prints while it loads goes to `log`."""
    from parakeet_ft.model.restore import restore
    from parakeet_ft.run.console import libraries_to

    with libraries_to(log):
        return restore(source)


def read_segments(paths: list[Path]) -> Iterator[Utterance]:
    for path in paths:
        found = json.loads(path.read_text())
        for row in found["rows"]:
            extra = {"session": Path(found["state"]["path"]).stem} | (
                {"alignment_score": row["score"]} if "score" in row else {}
            )
            yield Utterance(
                audio_filepath=found["state"]["path"],
                duration=row["end"] - row["begin"],
                text=row["text"],
                offset=row["begin"],
                extra=extra,
            )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a .nemo or name with a CTC head, to align with")
    parser.add_argument("--no-transcript", action="store_true", help="cut by voice activity")
    parser.add_argument(
        "--max-seconds",
        type=number_type(above=0),
        default=20.0,
        help="longest utterance; default %(default)s",
    )
    parser.add_argument(
        "--min-score",
        type=number_type(),
        default=-2.0,
        help="worst mean log-probability of 2.4 s of an utterance; default %(default)s",
    )
    with exit_on_user_error():
        args = parser.parse_args()
        if bool(args.model) == args.no_transcript:
            raise UserError(
                "Expected either --model CHECKPOINT, to align the transcripts, or --no-transcript."
            )
        stages = stages_from(args)
        limits = dataclasses.replace(
            stages.limits,
            allow_empty_text=args.no_transcript,
            min_alignment_score=None if args.no_transcript else args.min_score,
        )
        paths = cut_all(args)
        run(
            lambda: read_segments(paths),
            args,
            root=args.folder.absolute(),
            title=f"{args.folder} -> {args.out}",
            stages=dataclasses.replace(stages, limits=limits),
        )


if __name__ == "__main__":
    main()
