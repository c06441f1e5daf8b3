"""Errors that are told in one message without a traceback: bad input, exit code 2; a run that was
asked to stop, exit code 75.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator

from parakeet_ft.urls import masked


class UserError(Exception):
    """Bad input. The message is shown as it stands, without a traceback."""

    code = 2


class NotBetter(UserError):
    """A run that ended well and whose model should not be used: 3."""

    code = 3


class Stopped(UserError):
    """A signal ended the run after a checkpoint; 75 (EX_TEMPFAIL) tells a scheduler that the same
    command continues it.
    """

    code = 75


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends what runs as Ctrl-C does: all that answers the one answers the other."""


# What the machine refuses, whatever the program does: no traceback helps.
REFUSED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EFBIG: "files may not be that large here",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.EEXIST: "a file of that name is in the way",
    errno.EISDIR: "there is a folder where a file is to be",
    errno.ELOOP: "symbolic links lead back to themselves",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.EIO: "the disk reports an error",
}


# How libraries in Rust, such as safetensors, end the text of what the machine refused.
RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def refusal(error: BaseException, *, place: str | os.PathLike = "") -> str | None:
    """What a full or read-only disk and their like are in words, also inside the errors of
    libraries; None for any other error. `place` is told where the error names no file.
    """
    number = None
    file = place
    if isinstance(error, OSError):
        number = error.errno
        # Of a renaming that failed, the name it was to get.
        file = error.filename2 or error.filename or place
    elif found := RUST_ERROR.search(str(error)):
        number = int(found[1])
    reason = REFUSED.get(number or 0)
    if isinstance(error, RuntimeError) and "PytorchStreamWriter failed" in str(error):
        reason = "a file could not be written whole (is the disk full?)"
    if reason is None:
        return None
    where = f"{file}: " if file else ""
    return f"{where}{reason}. The same command goes on once that is mended."


@contextlib.contextmanager
def disk_told(place: str | os.PathLike) -> Iterator[None]:
    """Inside, what the disk refuses is a UserError that names `place`."""
    try:
        yield
    except Exception as error:
        if (message := refusal(error, place=place)) is None:
            raise
        raise UserError(message) from error


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError, what the disk refused, a package that does not load, or that Ctrl-C or
    SIGTERM stopped it, to stderr and exit with its code, without a word where nobody reads any
    more; any other exception passes.
    """
    try:
        try:
            with _sigterm_raised():
                yield
        finally:
            sys.stdout.flush()
    except UserError as error:
        label = "" if isinstance(error, Stopped) else "error: "
        print(f"{label}{masked(str(error))}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        print(f"\n{number.name}: stopped. The same command may be given again.", file=sys.stderr)
        sys.exit(128 + number)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "parakeet_ft":
            raise
        print(
            f"error: {error}. A package is missing or does not load: `parakeet-ft doctor` "
            "(python recipes/doctor.py) says which, and what cures it.",
            file=sys.stderr,
        )
        sys.exit(UserError.code)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed at the very end
            sys.exit(128 + signal.SIGPIPE)
        if (message := refusal(error)) is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(UserError.code)


@contextlib.contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated where nothing else answers it."""
    in_main = threading.current_thread() is threading.main_thread()  # which alone gets signals
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nothing reads any more, as in `command | head`."""
    stdout = select.poll()
    stdout.register(1, select.POLLOUT)
    return any(event & select.POLLERR for _, event in stdout.poll(0))
