"""Ten thousand hours on one page: the plan, shards, scoring, saving and the step, each by its own
benchmark (scale_*.py), in turn.

    python benchmarks/scale.py            # hours on two cores: ten million lines, 20 h of shards
    python benchmarks/scale.py --short    # each part at a small size, some 20 minutes
    python benchmarks/scale.py plan shards

The last line is one JSON object: by part what its benchmark printed as its own last line, null
where it failed.
"""

import argparse
import json
import sys

from run_all import run

BEFORE = "facbcc1"  # the last commit of the ways that the parts compare with
# By part its script's arguments at full size, and at a small one.
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "plan": (["--lines", "10000000"], ["--lines", "200000"]),
    "shards": (["--hours", "20"], ["--hours", "0.5"]),
    "scoring": ([], ["--minutes", "10", "--turns", "1"]),
    "saving": (
        ["--before", BEFORE, "--replica", "parakeet_ctc_0.6b"],
        ["--before", BEFORE, "--layers", "2"],
    ),
    "step": ([], ["--rounds", "1"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    found = {}
    for part in args.parts or PARTS:
        command = (f"scale_{part}.py", *PARTS[part][args.short])
        print(f"== {' '.join(command)}", flush=True)
        found[part], seconds = run(command)
        print(f"   {seconds:.0f} s", flush=True)
    print(json.dumps(found))
    sys.exit(0 if all(found.values()) else 1)


if __name__ == "__main__":
    main()
