"""Errors that are told in one message without a traceback: bad input, exit code 2; a run that was asked to stop, exit code 75."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Bad input. The message is shown as it stands, without a traceback."""

    code = 2


class Stopped(UserError):
    """A signal ended the run after a checkpoint; 75 (EX_TEMPFAIL) tells a scheduler that the same command continues it."""

    code = 75


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError to stderr and exit with its code; any other exception passes."""
    try:
        yield
    except UserError as error:
        print(f"{'' if isinstance(error, Stopped) else 'error: '}{error}", file=sys.stderr)
        sys.exit(error.code)
