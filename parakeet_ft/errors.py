"""Errors that are told in one message without a traceback: bad input, exit code 2; a run that was
asked to stop, exit code 75.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator


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
    errno.EISDIR: "there is a folder where a file is to be",
    errno.ELOOP: "symbolic links lead back to themselves",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.EIO: "the disk reports an error",
}


def refusal(error: OSError) -> str | None:
    """What a full or read-only disk and their like are in words; None for any other error."""
    if error.errno not in REFUSED:
        return None
    name = error.filename2 or error.filename  # of a renaming that failed, the name it was to get
    place = f"{name}: " if name else ""
    return f"{place}{REFUSED[error.errno]}. The same command goes on once that is mended."


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError, or what the disk refused, to stderr and exit with its code; any other
    exception passes."""
    try:
        yield
    except UserError as error:
        print(f"{'' if isinstance(error, Stopped) else 'error: '}{error}", file=sys.stderr)
        sys.exit(error.code)
    except OSError as error:
        if (message := refusal(error)) is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(UserError.code)
