"""Feed damaged tables, audio, manifests, .nemo files and run directories to what reads them.

    python tests/faults/damaged_inputs.py                     all
    python tests/faults/damaged_inputs.py tables audio        some kinds
    python tests/faults/damaged_inputs.py --every 10          each tenth

Names what was not handled, and why. Last line: one JSON object with the counts, in all and by kind;
`harmless` are damages that change nothing of what comes out.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from damaged.case import Case, Outcome  # noqa: E402

KINDS = ("tables", "audio", "manifests", "nemo_files", "run_directories")


def gather(folder: Path, kinds: tuple[str, ...] = KINDS, *, every: int = 1) -> Iterator[Case]:
    """The cases of these kinds, each every-th of them; their files lie below `folder`."""
    for kind in kinds:
        place = folder / kind
        place.mkdir(parents=True, exist_ok=True)
        cases = importlib.import_module(f"damaged.{kind}").cases(place)
        yield from (case for number, case in enumerate(cases) if number % every == 0)


def try_out(case: Case) -> Outcome:
    """The outcome; an exception that leaves `run` is a traceback."""
    try:
        return case.run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome(traceback=True, message=traceback.format_exc())


def count(outcomes: list[Outcome]) -> dict[str, int]:
    """Each outcome counts once, as the worst that it is."""
    silent = sum(o.silent and not o.traceback for o in outcomes)
    tracebacks = sum(o.traceback for o in outcomes)
    handled = sum(o.handled and not o.silent and not o.traceback for o in outcomes)
    return {
        "inputs": len(outcomes),
        "handled": handled,
        "tracebacks": tracebacks,
        "silently_changed": silent,
        "harmless": len(outcomes) - handled - tracebacks - silent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "kinds",
        nargs="*",
        choices=[*KINDS, []],
        metavar="KIND",
        help=f"some of {', '.join(KINDS)}; default: all",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th input")
    parser.add_argument("--verbose", action="store_true", help="name every input and its message")
    args = parser.parse_args()
    found = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for case in gather(Path(folder), tuple(args.kinds or KINDS), every=args.every):
            outcome = try_out(case)
            found[case.kind].append(outcome)
            if args.verbose or outcome.traceback or outcome.silent:
                words = [
                    word for word in ("handled", "traceback", "silent") if getattr(outcome, word)
                ]
                print(
                    f"{case.kind} {case.name}: {' '.join(words) or 'harmless'}: {outcome.message}",
                    flush=True,
                )
    outcomes = [outcome for some in found.values() for outcome in some]
    by_kind = {kind: count(some) for kind, some in found.items()}
    print(json.dumps(count(outcomes) | {"by_kind": by_kind}))


if __name__ == "__main__":
    main()
