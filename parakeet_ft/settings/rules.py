"""What a setting may be: rules that say what they expect, and the error that tells it."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from parakeet_ft.errors import UserError

Settings = TypeVar("Settings", bound="Group")


@dataclasses.dataclass(frozen=True)
class Rule:
    """`expected` completes "expected ..."; `nearest` gives the nearest valid value, or None."""

    expected: str
    fits: Callable[[Any], bool]
    nearest: Callable[[Any], Any] = lambda value: None


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _range(low: float | None, above: float | None, most: float) -> str:
    begin = f"above {above:g}" if above is not None else f"from {low:g}"
    return f"{begin} to {most:g}"


def number(
    *,
    low: float | None = None,
    above: float | None = None,
    most: float = 1e9,
    below: float = math.inf,
) -> Rule:
    """A finite number from `low` (or above `above`) to `most` (or below `below`)."""

    def fits(value: Any) -> bool:
        if not _is_number(value):
            return False
        return (value > above if above is not None else value >= (low or 0)) and (
            value < below if below < math.inf else value <= most
        )

    def nearest(value: Any) -> Any:
        if not _is_number(value):
            return None
        least = above if above is not None else (low or 0)
        return None if value <= least and above is not None else max(least, min(most, value))

    words = _range(low or 0, above, most)
    if below < math.inf:
        words = f"{words.partition(' to ')[0]} and below {below:g}"
        return Rule(f"a number {words}", fits)
    return Rule(f"a number {words}", fits, nearest)


def whole(*, low: int = 1, most: int = 10**9) -> Rule:
    """A whole number from `low` to `most`."""

    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= most

    def nearest(value: Any) -> Any:
        return max(low, min(most, round(value))) if _is_number(value) else None

    return Rule(f"a whole number from {low} to {most}", fits, nearest)


def choice(*values: str) -> Rule:
    """One of some words."""

    def nearest(value: Any) -> Any:
        return next(iter(difflib.get_close_matches(str(value), values, n=1, cutoff=0.4)), None)

    return Rule(_one_of(values), lambda value: value in values, nearest)


def _one_of(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}" if len(values) > 1 else values[0]


FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str) and bool(value.strip()))
PATH = Rule("the path of one file", lambda value: isinstance(value, str) and bool(value.strip()))
# A name that becomes a folder's: nothing that leads out of where it is put.
NAME = Rule(
    "a name without slashes, such as my_domain",
    lambda value: (
        isinstance(value, str)
        and bool(re.fullmatch(r"[^/\\\0]+", value))
        and value not in (".", "..")
    ),
    lambda value: re.split(r"[/\\]", value.rstrip("/\\"))[-1] if isinstance(value, str) else None,
)
LANGUAGE = Rule(
    "none or the code of a language, such as en or pl",
    lambda value: (
        isinstance(value, str) and bool(re.fullmatch(r"none|[a-z]{2,3}([-_][A-Za-z0-9]+)*", value))
    ),
    lambda value: "en" if str(value).lower().startswith("en") else None,
)


def listing(rule: Rule, *, example: str, least: int = 0, length: int | None = None) -> Rule:
    """A list whose items fit a rule."""

    def fits(value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) < least:
            return False
        return (length is None or len(value) == length) and all(map(rule.fits, value))

    def nearest(value: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        found = [item if rule.fits(item) else rule.nearest(item) for item in items]
        return found if found and fits(found) else None

    count = f"{length} " if length else ""
    plural = re.sub(r"^an? ", "", rule.expected)
    return Rule(f"a list of {count}values, each {plural}, such as {example}", fits, nearest)


def optional(rule: Rule) -> Rule:
    """Null, or what a rule says."""
    return Rule(
        f"null or {rule.expected}", lambda value: value is None or rule.fits(value), rule.nearest
    )


def either(word: str, rule: Rule) -> Rule:
    """A word such as auto, or what a rule says."""

    def nearest(value: Any) -> Any:
        close = isinstance(value, str) and difflib.get_close_matches(value, [word], cutoff=0.6)
        return word if close else rule.nearest(value)

    return Rule(
        f"{word} or {rule.expected}", lambda value: value == word or rule.fits(value), nearest
    )


def any_of(*rules: Rule) -> Rule:
    """What one of several rules says."""
    return Rule(
        " or ".join(rule.expected for rule in rules),
        lambda value: any(rule.fits(value) for rule in rules),
    )


LINES = any_of(listing(TEXT, example="[squawk,flight level]"), PATH)


def setting(rule: Rule, *, into: Callable[[Any], Any] = lambda value: value) -> Any:
    """A field of a Group; `into` makes of a value that fits what the field holds, and leaves alone
    what it has made.
    """
    return dataclasses.field(metadata={"rule": rule, "into": into})


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value))
        if (value is None or isinstance(value, bool))
        else str(value)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """A group of conf/: its keys are the fields, each checked by its rule."""

    KEY: typing.ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            rule, value = field.metadata.get("rule"), getattr(self, field.name)
            if not rule:
                continue
            if not rule.fits(value):
                self.refuse(field.name, rule)
            object.__setattr__(self, field.name, field.metadata["into"](value))

    def arguments(self) -> dict[str, Any]:
        """The fields as keyword arguments of the function that this group is for."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def as_config(self) -> dict[str, Any]:
        """The mapping that it was read from, for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.as_config() if isinstance(value, Group) else value
            for name, value in values.items()
        }

    def where(self) -> str:
        """The key of the group itself, as messages name it."""
        return self.KEY

    def refuse(self, name: str, rule: Rule) -> typing.NoReturn:
        """Raise the UserError for the value of a key."""
        value = getattr(self, name)
        nearest = rule.nearest(value)
        hint = "" if nearest is None else f" The nearest is {shown(nearest)}."
        key = f"{self.where()}.{name}" if self.where() else name
        raise UserError(f"{key}={shown(value)}: expected {rule.expected}.{hint}")


def read(kind: type[Settings], values: Any) -> Settings:
    """A Group from a composed mapping. Raises UserError for a value, or a key, that is not one."""
    where = kind.KEY or "the configuration"
    if not isinstance(values, Mapping):
        raise UserError(
            f"{where}={shown(values)}: expected its keys "
            f"({', '.join(field.name for field in dataclasses.fields(kind))}), such as "
            f"{where}.{dataclasses.fields(kind)[0].name}=VALUE."
        )
    types = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            raise UserError(
                f"{f'{kind.KEY}.' if kind.KEY else ''}{field.name} is missing: expected it to be "
                f"set "
                "(was it taken out with ~?)."
            )
        value, nested = values[field.name], types[field.name]
        is_group = isinstance(nested, type) and issubclass(nested, Group)
        found[field.name] = read(nested, value) if is_group else value
    unknown = sorted(set(values) - set(found))
    if unknown:
        raise UserError(f"{where} has no key {unknown[0]!r}: expected {', '.join(found)}.")
    return kind(**found)
