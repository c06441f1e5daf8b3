"""What a run does with signals: in each phase, to the process alone and to its whole group.

    python tests/faults/signals.py                  # some six minutes; --signals TERM: a third

Each row starts recipes/finetune.py on the bundled demo, with loader workers and in a process group
of its own, waits for a phase, sends the signal, and gives the same command again. The last line is
one JSON object: how many ended with exit code 75, in words, with nobody left, and were continued.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHASES = {
    "import": "importing NeMo",
    "scoring": "scoring the checkpoint",
    "training": "step 2/",
    "choosing": "choosing between",
}
SETTINGS = [
    "model=tiny",
    "budget.steps=6",
    "evaluation.validations=3",
    "evaluation.interpolation=[0.5]",
    "data.num_workers=2",
    "logger=csv",
]


def start(folder: Path) -> subprocess.Popen:
    """The recipe in a process group of its own, its output in folder/out."""
    return subprocess.Popen(
        [sys.executable, ROOT / "recipes" / "finetune.py", *SETTINGS],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=(folder / "out").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for(run: subprocess.Popen, folder: Path, words: str, seconds: float = 900) -> None:
    """Raises RuntimeError if the run ends, or is silent for too long, before it says `words`."""
    end = time.monotonic() + seconds
    while words not in (folder / "out").read_text():
        if run.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"never said {words!r}:\n{(folder / 'out').read_text()}")
        time.sleep(0.02)


def living(group: int) -> list[str]:
    """Command lines of a process group's members."""
    found = subprocess.run(["pgrep", "-g", str(group), "-a"], capture_output=True, text=True)
    return found.stdout.splitlines()


def stop(number: signal.Signals, to_group: bool, phase: str, folder: Path) -> dict:
    """What one run did with a signal, and whether the same command continued it."""
    run = start(folder)
    wait_for(run, folder, PHASES[phase])
    time.sleep(0.3)
    (os.killpg if to_group else os.kill)(run.pid, number)
    code = run.wait(timeout=600)
    time.sleep(1)
    text = (folder / "out").read_text()
    said = [line for line in text.splitlines() if line.startswith(f"{number.name}: ")]
    saved = re.search(r"saved at step (\d+)", text)
    left = living(run.pid)
    again = start(folder)
    finished = again.wait(timeout=900) == 0
    continued = "continuing" in (folder / "out").read_text()
    return {
        "signal": number.name,
        "to": "group" if to_group else "process",
        "phase": phase,
        "code": code,
        "words": said[-1] if said else "",
        "traceback": "Traceback" in text,
        "saved_at": int(saved[1]) if saved else None,
        "left": len(left),
        "continued": finished and (continued or phase == "import"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--signals", nargs="+", default=["INT", "TERM", "HUP"])
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=list(PHASES))
    args = parser.parse_args()
    rows = []
    print("| signal | to | phase | exit code | says | left | continued |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in args.signals:
        for to_group in (False, True):
            for phase in args.phases:
                with tempfile.TemporaryDirectory() as folder:
                    row = stop(signal.Signals[f"SIG{name}"], to_group, phase, Path(folder))
                rows.append(row)
                print(
                    f"| {row['signal']} | {row['to']} | {phase} | {row['code']} | "
                    f"{'TRACEBACK' if row['traceback'] else row['words'][:60]} | {row['left']} | "
                    f"{row['continued']} |",
                    flush=True,
                )
    good = [
        row["code"] == 75
        and bool(row["words"])
        and not row["traceback"]
        and not row["left"]
        and row["continued"]
        for row in rows
    ]
    print(json.dumps({"runs": len(rows), "right": sum(good)}))


if __name__ == "__main__":
    main()
