"""The stages as command-line flags, and the run that every script of data_prep/ ends in: prepare,
table, report, exit code.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from parakeet_ft.data.filters import Limits
from parakeet_ft.data.leaks import find_leaks
from parakeet_ft.data.ledger import ledger_errors
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.parallel import num_cores, open_executor
from parakeet_ft.data.prepare import AudioStage, Source, Stages, prepare
from parakeet_ft.data.report import write_report
from parakeet_ft.data.splits import SPLITS, SplitRules
from parakeet_ft.data.summary import Summary, print_summary
from parakeet_ft.data.text import TextRules, load_replacements
from parakeet_ft.data.to_shards import check_folder, write_shards_of_splits
from parakeet_ft.errors import UserError

# Of a shard, less than four seconds: below, each utterance would be a shard of its own.
SHORTEST_HOURS = 0.001


def make_parser(doc: str, *, splits: bool = True) -> argparse.ArgumentParser:
    """A parser with the flags of all stages; the script adds what names its corpus. Without
    `splits`, --out is the script's too.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if splits:
        parser.add_argument(
            "--out",
            type=Path,
            required=True,
            metavar="DIR",
            help="folder for the manifests, audio/ and report.html",
        )
        add_split_flags(parser.add_argument_group("splits"))
    _add_audio_flags(parser.add_argument_group("audio"), shards=splits)
    _add_text_flags(parser.add_argument_group("text"))
    _add_filter_flags(parser.add_argument_group("filters ('off' switches one off)"))
    add_run_flags(parser.add_argument_group("run"))
    return parser


def number_type(
    *,
    lowest: float = -math.inf,
    highest: float = math.inf,
    above: float | None = None,
    whole: bool = False,
    off: bool = False,
) -> Callable[[str], float | None]:
    """A type for argparse: a finite number within these bounds, "off" (None) if that is allowed."""

    def parse(text: str) -> float | None:
        """A number, or None for "off"."""
        if off and text in ("off", "none"):
            return None
        value = _number(text, whole=whole)
        if not (lowest <= value <= highest and beyond < value < math.inf):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}")
        return value

    beyond = -math.inf if above is None else above
    bounds = []
    if lowest > -math.inf:
        bounds.append(f"of {lowest:g} or more")
    if above is not None:
        bounds.append(f"above {above}")
    if highest < math.inf:
        bounds.append(f"of at most {highest:g}")
    kind = "a whole number" if whole else "a number"
    wanted = f"{kind} {' and '.join(bounds)}".strip()
    if off:
        wanted += ", or off"
    return parse


def _number(text: str, *, whole: bool) -> float:
    """A number as it is typed; NaN if it is none."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return math.nan


def _names(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_split_flags(group, *, sentence_disjoint: bool = True) -> None:
    """The shares, named speakers and what splits are disjoint by."""
    group.add_argument(
        "--dev-share",
        type=number_type(lowest=0, highest=1),
        default=SplitRules.dev_share,
        help="share of the speakers (or sentences) for dev; default %(default)s",
    )
    group.add_argument(
        "--test-share",
        type=number_type(lowest=0, highest=1),
        default=SplitRules.test_share,
        help="the same for test; default %(default)s",
    )
    group.add_argument(
        "--dev-speakers",
        type=_names,
        default=(),
        metavar="A,B",
        help="speakers whose utterances are dev",
    )
    group.add_argument(
        "--test-speakers",
        type=_names,
        default=(),
        metavar="A,B",
        help="speakers whose utterances are test",
    )
    group.add_argument(
        "--split-by",
        default="auto",
        metavar="WHAT",
        help="what must not be in two splits: speaker, sentence, a further field (session ...), or "
        "`given` for the corpus's own splits; auto takes given, speaker, session or sentence, the "
        "first that the data has",
    )
    if sentence_disjoint:
        group.add_argument(
            "--sentence-disjoint",
            action="store_true",
            help="drop from train what is said in dev or test too",
        )


def _add_audio_flags(group, *, shards: bool) -> None:
    """How audio is read and written; `shards`: if it may be written into shards."""
    if shards:
        group.add_argument(
            "--shards",
            type=number_type(lowest=SHORTEST_HOURS),
            metavar="HOURS",
            help="write DIR/train, DIR/dev and DIR/test as tars of about so many hours (NeMo's "
            "layout, which data.train=DIR/train reads) and no file for each utterance; reads "
            "all audio twice",
        )
    group.add_argument(
        "--in-place", action="store_true", help="refer to the original files and convert nothing"
    )
    group.add_argument(
        "--channel",
        type=number_type(lowest=0, whole=True),
        help="take this channel, counted from 0; default: the mean of all",
    )


def _add_text_flags(group) -> None:
    """What is done to texts."""
    group.add_argument("--case", choices=("keep", "lower"), default="keep")
    group.add_argument("--punctuation", choices=("keep", "strip"), default="keep")
    group.add_argument(
        "--spell-numbers",
        metavar="LANGUAGE",
        help="write numbers in words, in a language of num2words (en, de ...)",
    )
    group.add_argument(
        "--replacements",
        metavar="TABLE",
        help="two tab-separated columns, from and to, applied before all else",
    )
    group.add_argument(
        "--keep-quotes", action="store_true", help="leave typographic quotes and dashes as they are"
    )


def _add_filter_flags(group) -> None:
    """What is dropped."""
    for field, help_text in (
        ("min_duration", "seconds"),
        ("max_duration", "seconds"),
        ("min_chars_per_second", ""),
        ("max_chars_per_second", ""),
        ("min_level_dbfs", "RMS below is silence"),
        ("max_clipped", "share of the samples at full scale"),
    ):
        group.add_argument(
            f"--{field.replace('_', '-')}",
            type=number_type(off=True),
            default=getattr(Limits, field),
            metavar="X",
            help=f"{help_text}{'; ' if help_text else ''}default %(default)s",
        )
    group.add_argument(
        "--max-same-text",
        type=number_type(lowest=1, whole=True, off=True),
        default=None,
        metavar="N",
        help="keep a sentence at most N times; default off",
    )
    group.add_argument(
        "--keep-duplicate-audio", action="store_true", help="keep recordings with the same samples"
    )
    group.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="a .nemo, tokenizer.model or its folder: drops what it cannot write, "
        "and what CTC cannot align exactly",
    )


def add_run_flags(group, *, filters: bool = True) -> None:
    """--jobs, --scheduler, --slurm, and --max-dropped where there are filters."""
    group.add_argument(
        "--jobs",
        type=number_type(lowest=1, whole=True),
        default=num_cores(),
        metavar="N",
        help="processes, or Slurm workers; default %(default)s",
    )
    group.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="run on this Dask cluster, whose machines see the same files",
    )
    group.add_argument(
        "--slurm", action="store_true", help="start --jobs Dask workers through Slurm"
    )
    if filters:
        group.add_argument(
            "--max-dropped",
            type=number_type(lowest=0, highest=1),
            default=0.05,
            metavar="SHARE",
            help="exit code 1 if a larger share of the utterances is dropped; default %(default)s",
        )


def stages_from(args: argparse.Namespace) -> Stages:
    """The stages that the flags ask for. Raises UserError."""
    in_shards = getattr(args, "shards", None) is not None
    if in_shards and args.in_place:
        raise UserError(
            "--shards writes audio and --in-place leaves it where it is: expected one of the two."
        )
    limits = Limits(
        min_duration=args.min_duration,
        max_duration=args.max_duration,
        min_chars_per_second=args.min_chars_per_second,
        max_chars_per_second=args.max_chars_per_second,
        min_level_dbfs=args.min_level_dbfs,
        max_clipped=args.max_clipped,
        max_same_text=None if args.max_same_text is None else int(args.max_same_text),
        drop_duplicate_audio=not args.keep_duplicate_audio,
    )
    text = TextRules(
        case=args.case,
        punctuation=args.punctuation,
        numbers=args.spell_numbers,
        plain_quotes=not args.keep_quotes,
        replacements=load_replacements(args.replacements) if args.replacements else (),
    )
    stages = Stages(
        audio=AudioStage(
            convert=not args.in_place,
            channel=args.channel,
            max_duration=args.max_duration,
            files=not in_shards,
        ),
        text=text,
        limits=limits,
    )
    return (
        dataclasses.replace(
            stages,
            splits=split_rules_from(args),
            split_by=args.split_by,
            sentence_disjoint=args.sentence_disjoint,
        )
        if "split_by" in args
        else stages
    )


def split_rules_from(args: argparse.Namespace) -> SplitRules:
    """The rules of the splits' flags. Raises UserError."""
    return SplitRules(
        dev_share=args.dev_share,
        test_share=args.test_share,
        dev_groups=args.dev_speakers,
        test_groups=args.test_speakers,
    )


def load_encoder(path: Path | None) -> tuple[Callable[[str], Sequence[int]] | None, int]:
    """(text -> ids, id of <unk>) of a .nemo, a tokenizer.model or the folder of one. Raises
    UserError.
    """
    if path is None:
        return None, 0
    from parakeet_ft.tokenizer.sentencepiece_model import (
        load_sentencepiece,
        read_tokenizer,
        read_tokenizer_dir,
    )

    if path.suffix == ".nemo":
        model = read_tokenizer(path)
        if model is None:
            raise UserError(
                f"{path} holds no tokenizer.model, or several; expected a NeMo checkpoint with one "
                f"SentencePiece tokenizer."
            )
    elif path.is_file():
        model = path.read_bytes()
    else:
        model = read_tokenizer_dir(path)
    processor = load_sentencepiece(model, where=str(path))
    return processor.encode, processor.unk_id()


def window_of(args: argparse.Namespace) -> int:
    """Tasks under way at once: two a process; on a cluster, whose size may change, enough for some
    hundred workers.
    """
    return 512 if args.scheduler or args.slurm else 2 * max(1, args.jobs)


@contextmanager
def progress_bar(total: int, *, what: str) -> Iterator[Callable[[int, float], None]]:
    """A bar with hours of audio, audio hours per second and the time left; yields
    advance(utterances, seconds).
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[hours]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, transient=not sys.stderr.isatty(), disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(what, total=total, hours="")
        seconds = 0.0

        def advance(count: int, more: float) -> None:
            """Move the bar by so many utterances and seconds."""
            nonlocal seconds
            seconds += more
            elapsed = progress.tasks[task].elapsed or 1e-9
            progress.update(
                task,
                advance=count,
                hours=f"{seconds / 3600:.2f} h audio, {seconds / 3600 / elapsed:.4f} h/s",
            )

        yield advance


def run(
    source: Source,
    args: argparse.Namespace,
    *,
    root: Path,
    title: str,
    stages: Stages | None = None,
    only_examine: bool = False,
) -> Summary:
    """Prepare a source as the flags say, print the table, write report.html, and exit with 1 if
    more than --max-dropped is lost.
    """
    stages = stages or stages_from(args)
    if not only_examine:
        check_folder(args.out, shards=not stages.audio.files)
    encode, unknown_id = load_encoder(args.tokenizer)
    total = sum(1 for _ in source())
    with open_executor(jobs=args.jobs, scheduler=args.scheduler, slurm=args.slurm) as executor:
        with progress_bar(total, what="audio") as advance:
            summary, ledger = prepare(
                source,
                root=root,
                out=args.out,
                stages=stages,
                executor=executor,
                window=window_of(args),
                encode=encode,
                unknown_id=unknown_id,
                only_examine=only_examine,
                on_progress=advance,
            )
        if not stages.audio.files and summary.num_kept:
            with progress_bar(summary.num_kept, what="shards") as advance:
                write_shards_of_splits(
                    source,
                    ledger,
                    root=root,
                    out=args.out,
                    stage=stages.audio,
                    hours=args.shards,
                    executor=executor,
                    window=window_of(args),
                    on_progress=advance,
                )
    with ledger_errors(ledger.path):
        leaks = find_leaks(ledger, pairs=split_pairs(summary))
        ledger.close()
    report = write_report(summary, args.out / "report.html", title=title, leaks=leaks)
    print_summary(summary, title=title)
    for line in leaks.lines():
        print(f"shared: {line}")
    if not only_examine:
        what, ending = ("manifests", ".jsonl") if stages.audio.files else ("shards", "")
        written = (str(args.out / f"{name}{ending}") for name in SPLITS if summary.count[name])
        print(f"{what}: {' '.join(written)}")
    print(f"report: {report}")
    finish(summary, max_dropped=args.max_dropped)
    return summary


def split_pairs(summary: Summary) -> list[tuple[str, str]]:
    """(held-out split, other split) for the audit: test and dev against train, test against dev;
    other names each against those before.
    """
    names = sorted(
        summary.count,
        key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name),
    )
    return [(names[i], names[j]) for i in range(len(names)) for j in range(i)]


def _why_none(summary: Summary) -> str:
    """What dropped all utterances, and what to do where that is plain."""
    counts = [f"{int(count)} {reason}" for reason, (count, _) in summary.dropped.items()]
    told = f"dropped were {', '.join(counts)}; report.html shows which."
    if set(summary.dropped) == {"empty_text"}:
        told += (
            " Not one has a text: expected a column or key of texts, or a file beside each audio "
            "file (a.txt for a.wav; --text-suffix). recipes/transcribe.py writes texts for audio "
            "that has none."
        )
    return told


def finish(summary: Summary, *, max_dropped: float) -> None:
    """Exit with code 1, saying why, if too much was dropped or nothing is left."""
    if not summary.num_kept:
        print(f"error: no utterance is left: {_why_none(summary)}", file=sys.stderr)
        sys.exit(1)
    if summary.dropped_share > max_dropped:
        print(
            f"error: {100 * summary.dropped_share:.1f} % of the utterances were dropped, more than "
            f"--max-dropped {max_dropped:g} allows; the manifests hold the rest.",
            file=sys.stderr,
        )
        sys.exit(1)


def absolute(utterances: Iterator[Utterance]) -> Iterator[Utterance]:
    """Audio paths made absolute from the working directory."""
    import os

    for utterance in utterances:
        if utterance.pipe is not None or utterance.member is not None:
            yield utterance
        else:
            path = os.path.abspath(utterance.audio_filepath)
            yield dataclasses.replace(utterance, audio_filepath=path)
