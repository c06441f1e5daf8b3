"""Say whether this machine can run parakeet-ft, and what cures it if not.

    python recipes/doctor.py            Python, packages, torch and driver, GPU,
                                        NeMo, audio, memory, disks, hub
    python recipes/doctor.py --offline  asks nothing of the network
    python recipes/doctor.py --json     the same for programs

Exit code 0 if nothing is wrong (there may be warnings), 1 if something is.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

# Where nothing is installed yet, this is asked as well.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from parakeet_ft.doctor import facts, findings
from parakeet_ft.errors import exit_on_user_error


def show(lines: list[findings.Line]) -> None:
    """A line for each thing, its cure below it."""
    width = max(len(line.name) for line in lines)
    for line in lines:
        print(f"{line.status:<8} {line.name:<{width}}  {line.found}")
        if line.cure:
            print(f"{'':<8} {'':<{width}}  -> {line.cure}")
    wrong = sum(line.status == findings.WRONG for line in lines)
    warnings = sum(line.status == findings.WARNING for line in lines)
    print(f"{wrong} wrong, {warnings} warning(s), {len(lines) - wrong - warnings} ok")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offline", action="store_true", help="ask nothing of the network")
    parser.add_argument("--json", action="store_true", help="print JSON")
    with exit_on_user_error():
        args = parser.parse_args()
        print("loading torch and NeMo, to see whether they load ...", file=sys.stderr, flush=True)
        lines = findings.examine(facts.gather(offline=args.offline))
        ok = all(line.status != findings.WRONG for line in lines)
        if args.json:
            print(json.dumps({"ok": ok, "lines": [dataclasses.asdict(line) for line in lines]}))
        else:
            show(lines)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
