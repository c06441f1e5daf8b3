"""Signals that ask a run to end: each ends it in one sentence, and the same command continues."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from parakeet_ft.errors import Stopped

# Ctrl-C, kill and timeout, a terminal that closes, Slurm's warning.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def answered() -> list[signal.Signals]:
    """Those of ENDING that a run answers: under nohup a terminal that closes does not end it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in ENDING if not (ignored and number == signal.SIGHUP)]


class _Received(BaseException):
    """Not an Exception: libraries that try one thing after another must not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# The signal for which _Received was raised last. Python ignores exceptions where nobody can catch
# them, such as in what it runs around a fork.
_last: int | None = None


def take_swallowed() -> int | None:
    """The signal that was received and whose exception got lost, for who answers it now."""
    global _last
    number, _last = _last, None
    return number


def raise_swallowed() -> None:
    """Between two phases: raise again what got lost."""
    if number := take_swallowed():
        raise _Received(number)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Inside, handlers may change; outside they are what they were."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending_in_words(
    kept: Callable[[], str] = lambda: "Nothing was begun that is lost.",
) -> Iterator[None]:
    """Inside, the first signal raises Stopped; a second Ctrl-C ends the process at once.

    `kept` is asked what of the work stays. Training, which can save first, has its own handlers
    (training.checkpoints).
    """

    def receive(number: int, frame: Any) -> None:
        """Remember the signal, as what is raised here can get lost."""
        global _last
        _last = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise _Received(number)

    with restored():
        for number in answered():
            signal.signal(number, receive)
        try:
            yield
        except _Received as received:
            take_swallowed()
            name = signal.Signals(received.number).name
            raise Stopped(f"{name}: stopped. {kept()} The same command continues.") from None


def leave_to_parent(*_: Any) -> None:
    """For a process that a run starts: a signal to the whole group is its parent's to answer."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def end_at_once(number: int) -> None:
    """End this process by a signal, as if nobody had handled it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
