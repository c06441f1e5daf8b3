"""What a damaged input is, what can come of it, and how a script is run on it in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# A damaged input that is still being read after this long hangs.
LIMIT_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Outcome:
    """handled: one clear message with exit code 2, or a reason told (dropped.jsonl). traceback: an
    exception that no one told in words, or a hang. silent: what came out differs from what the
    input can honestly give, and nothing was said. None of them: the damage did not matter.
    """

    handled: bool = False
    traceback: bool = False
    silent: bool = False
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """One damaged input; `run` feeds it to what reads it."""

    kind: str
    name: str
    run: Callable[[], Outcome]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a script ended: exit code, what it printed, and its traceback if it had one."""

    code: int
    out: str
    err: str
    trace: str = ""

    def refused(self) -> bool:
        """Whether it ended as bad input shall: exit code 2, and a message that begins with
        error.
        """
        return self.code == 2 and "error: " in self.err and not self.trace


class TookTooLong(Exception):
    """A script did not end within LIMIT_SECONDS."""


@contextlib.contextmanager
def time_limit(seconds: float = LIMIT_SECONDS) -> Iterator[None]:
    """Raise TookTooLong in the main thread if the block takes longer."""

    def too_long(signum, frame):
        raise TookTooLong(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call(script: str, *arguments) -> Ended:
    """Run a script of the repository (data_prep/check.py) in this process, as if from the shell."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = [script, *map(str, arguments)]
    code, trace = 0, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit():
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):  # sys.exit("words") prints them and ends with 1
            err.write(end.code)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        code, trace = 1, traceback.format_exc()
    finally:
        sys.argv = before
    return Ended(code, out.getvalue(), err.getvalue(), trace)
