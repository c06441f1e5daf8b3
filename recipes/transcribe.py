"""Transcribe files, folders and manifests with a tuned model: text, subtitles,
CTM, JSON.

    python recipes/transcribe.py outputs/demo/latest/best.nemo recordings/ \\
        talk.mp4 --out transcripts --format txt,srt
    python recipes/transcribe.py nvidia/parakeet-tdt-0.6b-v2 test.jsonl \\
        --out transcripts

Audio may have any rate, channels and length. OUT gets a file for each recording
and format, transcripts.jsonl (all of them in the order given, as a manifest
with pred_text) and progress.jsonl: started again with the same OUT, a killed
run goes on where it was. Recordings of more than a minute go through the model
with local attention if they fit in memory, else cut where nobody speaks;
--long-audio decides otherwise. Files that cannot be read are listed at the end,
and the exit code is 1.
"""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TextIO

from parakeet_ft.errors import UserError, disk_told, exit_on_user_error
from parakeet_ft.model.source import check_source, identity
from parakeet_ft.training import driver
from parakeet_ft.transcription.captions import FORMATS
from parakeet_ft.transcription.folder import PROGRESS, TranscriptFolder
from parakeet_ft.transcription.recordings import Recording, collect_recordings

ON_CPU = "to transcribe on the CPU, give --device cpu"
NAMED = 5  # of recordings without a word
WAYS, HEADS = ("auto", "full", "local", "chunked"), ("auto", "ctc", "transducer")


def transcribe(args: argparse.Namespace, recordings: list[Recording]) -> int:
    """Transcribe what has no transcript yet, write all files, print the summary; returns the exit
    code.
    """
    from parakeet_ft.run.console import libraries_to

    keyed = [(recording, recording.key()) for recording in recordings]
    settings = {"model": identity(args.model), "head": args.head, "long_audio": args.long_audio}
    with TranscriptFolder(args.out, formats=args.format, settings=settings) as folder:
        todo = [pair for pair in keyed if not folder.is_written(*pair)]
        failed: dict[str, str] = {}
        if todo:
            with libraries_to(args.out / "transcribe.log") as terminal:
                failed = decode(args, todo, folder, terminal)
        done = [pair for pair in keyed if pair[0].name not in failed]
        manifest, empty = folder.write_manifest(done)
    print(f"{len(done)} of {len(recordings)} recordings: {manifest}")
    if len(todo) < len(recordings):
        print(f"{len(recordings) - len(todo)} of them from before")
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        print(f"{len(empty)} without a word: {', '.join(empty[:NAMED])}{more}")
    if failed:
        print(
            f"\n{len(failed)} could not be transcribed:",
            *(f"  {name}: {reason}" for name, reason in failed.items()),
            sep="\n",
            file=sys.stderr,
        )
    return 1 if failed else 0


def decode(
    args: argparse.Namespace,
    todo: list[tuple[Recording, str]],
    folder: TranscriptFolder,
    terminal: TextIO,
) -> dict[str, str]:
    """The part that needs the model, with a progress bar; returns {name: why it failed}."""
    import torch
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from parakeet_ft.model import parts
    from parakeet_ft.model.restore import restore
    from parakeet_ft.transcription.decoding import set_decoding
    from parakeet_ft.transcription.long_audio import transcribe_recordings, way_lines

    console = Console(file=terminal, highlight=False, soft_wrap=not terminal.isatty())
    driver.check_seen(args.device or "auto", cpu=ON_CPU)
    if (args.device or "").startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}, but torch sees no GPU here. Leave --device out.")
    model = restore(args.model).to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    head = set_decoding(model, head=args.head, words=folder.with_words)["head"]
    console.print(
        f"{args.model}: {parts.family(model)}, {head} head, on {parts.device(model)}",
        markup=False,
    )
    columns = (
        *Progress.get_default_columns(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s of audio"),
    )
    ways: dict[str, str] = {}
    started = time.monotonic()

    def begin(total: float) -> None:
        for line in way_lines(ways) if ways else []:
            console.print(line, markup=False)
        progress.update(bar, total=total)

    with Progress(
        *columns, console=console, disable=not terminal.isatty(), transient=True
    ) as progress:
        bar = progress.add_task("audio", total=0.0)
        seconds, failed = transcribe_recordings(
            model,
            todo,
            folder,
            long_audio=args.long_audio,
            batch_seconds=args.batch_seconds,
            on_total=begin,
            on_long=ways.__setitem__,
            on_audio=lambda more: progress.advance(bar, more),
        )
    elapsed = time.monotonic() - started
    console.print(
        f"RTFx {seconds / elapsed:.1f}: {seconds / 3600:.3f} h of audio in {elapsed:.1f} s"
    )
    return failed


def _formats(text: str) -> list[str]:
    names = [name.strip().lower().lstrip(".") for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or 'no format'}: expected some of {','.join(FORMATS)}"
        )
    return list(dict.fromkeys(names))


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: expected cpu, cuda or cuda:1")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected seconds above 0")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .nemo, a hub id or a name such as parakeet_ctc_0.6b")
    parser.add_argument("inputs", nargs="+", metavar="FILE|FOLDER|MANIFEST.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--format",
        type=_formats,
        default=["txt"],
        metavar="A,B",
        help=f"some of {','.join(FORMATS)}; default txt",
    )
    parser.add_argument(
        "--long-audio",
        choices=WAYS,
        default="auto",
        help="how recordings of more than a minute are heard; default %(default)s",
    )
    parser.add_argument(
        "--head", choices=HEADS, default="auto", help="of a hybrid; auto: its transducer"
    )
    parser.add_argument(
        "--batch-seconds",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="audio a batch, with padding; default %(default)g",
    )
    parser.add_argument(
        "--device", type=_device, help="cpu, cuda, cuda:1; default: a GPU if there is one"
    )
    with exit_on_user_error():
        args = parser.parse_args()
        recordings = collect_recordings(args.inputs)
        driver.check(args.device or "auto", cpu=ON_CPU)
        check_source(args.model)
        try:
            with disk_told(args.out):
                sys.exit(transcribe(args, recordings))
        except KeyboardInterrupt:
            print(
                f"\nstopped: the same command goes on from {args.out / PROGRESS}", file=sys.stderr
            )
            sys.exit(130)


if __name__ == "__main__":
    main()
