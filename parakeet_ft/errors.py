"""Errors of the user's making: one message that says what was found, what was expected and what to do; exit code 2."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Bad input. The message is shown as it stands, without a traceback."""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError to stderr and exit with code 2; any other exception passes."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
