"""Damaged run directories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from damaged.case import Case


def cases(folder: Path) -> Iterable[Case]:
    """None yet."""
    return ()
