"""Two sides of a comparison, run in turns as commands that print JSON events; medians and
ranges.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent


def events_of(command: list[str], *, limit: float) -> tuple[list[dict], float]:
    """The events that a command prints and its seconds; it is killed after `limit` seconds."""
    begun = time.time()
    with subprocess.Popen(
        [sys.executable, command[0], "--started", str(begun), *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
    return [
        json.loads(line) for line in out.splitlines() if line.startswith('{"event"')
    ], time.time() - begun


def summary(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def show(title: str, rows: dict[str, dict[str, float]], unit: str) -> None:
    """A table of summaries."""
    table = Table(title, f"median {unit}", "range", box=None)
    for name, row in rows.items():
        table.add_row(name, f"{row['median']:.2f}", f"{row['lowest']:.2f}-{row['highest']:.2f}")
    Console(width=110).print(table)


def verdict(ratio: float, target: float) -> str:
    """Whether a target was met, in words."""
    return f"target {target:g}: {'met' if ratio >= target else 'MISSED'}"
