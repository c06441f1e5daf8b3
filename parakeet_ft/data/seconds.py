"""Times as corpora write them, in seconds."""

from __future__ import annotations

import math
from typing import Any

# The least of each kind, with its words, where that is not 0.
LEAST = {"duration": (math.ulp(0.0), "above 0")}


def parse_seconds(value: Any, name: str) -> float:
    """A cell as seconds; 0 for none. Raises ValueError, in words, for what is no time: NaN,
    infinity, below 0, and 0 for a duration, which would take in the rest of the file.
    """
    if value in (None, ""):
        return 0.0
    seconds = _number(value)
    least, bound = LEAST.get(name, (0.0, "0 or more"))
    if not least <= seconds < math.inf:
        raise ValueError(f"{name} is {value!r:.40}, expected seconds, {bound}")
    return seconds


def _number(value: Any) -> float:
    """A cell as a number, NaN if it is none: float() takes "1_0" for 10, and True for 1."""
    if isinstance(value, bool) or "_" in str(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def stretch(begin: Any, end: Any) -> tuple[float, float]:
    """(offset, duration) of what begins and ends at these times. Raises ValueError as
    parse_seconds, and for an end that is not after the beginning.
    """
    offset = parse_seconds(begin, "begin")
    until = parse_seconds(end, "end")
    if until <= offset:
        raise ValueError(f"it begins at {offset:g} s and ends at {until:g} s")
    return offset, until - offset
