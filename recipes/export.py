"""Export a tuned model; each export is checked to transcribe as the model does.

    python recipes/export.py outputs/demo/latest/best.nemo --to nemo,onnx \\
        --out exported
    python recipes/export.py best.nemo --to onnx,onnx-int8,transformers \\
        --out exported --check test.jsonl

nemo          OUT/NAME.nemo, restored again
onnx          OUT/onnx/: what the package onnx-asr loads; CTC, RNNT, TDT
onnx-int8     OUT/onnx-int8/: the same with 8-bit weights; texts may differ,
              with a WER at most --max-wer-rise above the model's
transformers  OUT/transformers/: ParakeetForCTC, processor and tokenizer, for
              AutoModelForCTC and AutoProcessor; CTC heads only

Of a hybrid, each format holds the head that --head names. Every clip's text
must be the model's own: a format that fails is not written, and the exit code
is 1. OUT/exports.json says of which model the exports are.
"""

import argparse
import sys
from pathlib import Path

from parakeet_ft.data.manifest import Utterance, missing_audio
from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.export import parity, record
from parakeet_ft.export.formats import TARGETS, check_formats
from parakeet_ft.model.source import check_source, fetch


def export(args: argparse.Namespace, clips: list[Utterance], heads: dict[str, str]) -> int:
    """Write and check each target with its head, print a line on each; returns the exit code."""
    from parakeet_ft.run.console import libraries_to

    code = 0
    with libraries_to(args.out / "export.log") as terminal:
        expected = {}
        for head in dict.fromkeys(heads.values()):
            model, _ = parity.greedy_model(args.model, head=head)
            expected[head] = parity.transcribe_clips(model, clips)
            del model
        for target, head in heads.items():
            found = parity.export_checked(
                args.model,
                target,
                args.out,
                clips=clips,
                expected=expected[head],
                head=head,
                name=args.name,
                what=parity.clips_named(args.check),
                max_wer_rise=args.max_wer_rise,
            )
            print(*found.lines(), sep="\n", file=terminal)
            if found.accepted:
                record.note(args.out, target, found.where, source=fetch(args.model), head=head)
            code = code if found.accepted else 1
    return code


def check(args: argparse.Namespace) -> tuple[list[Utterance], dict[str, str]]:
    """The clips, and the head that each target will hold, once everything that can be is checked
    without torch. Raises UserError.
    """
    unknown = [target for target in args.to if target not in TARGETS]
    if unknown or not args.to:
        raise UserError(f"--to {','.join(args.to)}: expected some of {','.join(TARGETS)}.")
    check_source(args.model)
    clips = parity.read_clips(args.check)
    if missing := missing_audio(clips):
        raise UserError(
            f"{len(missing)} of the clips in {args.check} are not there, the first: {missing[0]}"
        )
    return clips, check_formats(fetch(args.model), args.to, head=args.head)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .nemo, a hub id or a name such as parakeet_ctc_0.6b")
    parser.add_argument(
        "--to",
        required=True,
        type=lambda text: list(dict.fromkeys(text.split(","))),
        metavar="A,B",
        help=",".join(TARGETS),
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--check",
        default="12",
        metavar="N|MANIFEST",
        help="clips of the bundled demo, or a manifest of your own; default %(default)s",
    )
    parser.add_argument(
        "--head",
        choices=("auto", "ctc", "transducer"),
        default="auto",
        help="of a hybrid; auto: its transducer, for transformers its CTC head",
    )
    parser.add_argument(
        "--max-wer-rise",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="of int8, absolute; default %(default)s",
    )
    parser.add_argument("--name", help="of the .nemo; default: the model's")
    with exit_on_user_error():
        args = parser.parse_args()
        args.name = args.name or Path(args.model).stem
        sys.exit(export(args, *check(args)))


if __name__ == "__main__":
    main()
