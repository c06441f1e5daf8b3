"""Guards: speech that must not be forgotten, by name (a language, an accent, a channel ...), each
with its own sets, tolerance and replay.

data.guard_validation, data.guard_test and data.replay are the guard named "guard".
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

from parakeet_ft.errors import UserError
from parakeet_ft.settings.manifests import (
    MANIFESTS,
    NO_MANIFESTS,
    WeightedManifest,
    as_given,
    weighted,
)
from parakeet_ft.settings.rules import NAME, Group, Rule, number, optional, setting, shown

SHORT = "guard"
# Names of sets in reports.
TAKEN = (SHORT, "domain")
RATIO = number(low=0, most=1000)
KEYS = ("validation", "test", "tolerance", "replay")
REPLAY_KEYS = ("manifest", "ratio")


def role(name: str, key: str) -> str:
    """What a guard's validation, test or replay set is called among all sets: its key in data."""
    if name != SHORT:
        return f"guards.{name}.{key}"
    return key if key == "replay" else f"guard_{key}"


def roles(among: Iterable[str], key: str) -> dict[str, str]:
    """By guard, the role of its validation, test or replay set, of those that are there."""
    prefix, suffix = "guards.", f".{key}"
    found = {}
    for one in among:
        if one == role(SHORT, key):
            found[SHORT] = one
        elif one.startswith(prefix) and one.endswith(suffix):
            found[one.removeprefix(prefix).removesuffix(suffix)] = one
    return found


def scored(among: Collection[str]) -> list[str]:
    """The roles of what is scored, of those that are there: the domain's, then guard by guard."""
    guards = roles(among, "validation") | roles(among, "test")
    wanted = ["validation", "test"]
    wanted += [role(name, key) for name in guards for key in ("validation", "test")]
    return [one for one in wanted if one in among]


def key_of(role: str) -> str:
    """The key of conf/ that names a set."""
    return "data.replay.manifest" if role == "replay" else f"data.{role}"


def title_of(name: str) -> str:
    """What a set of a report is called: domain, guard, or the guard of a name."""
    return name if name in TAKEN else f"guard {name}"


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Speech that is mixed into training: the seconds of it for each second of the domain; None:
    data.replay.ratio.
    """

    manifest: tuple[WeightedManifest, ...]
    ratio: float | None = None


def _mixed(value: Any) -> Mixed | None:
    """What a guard's replay names: nothing, manifests, or manifests with their ratio."""
    if value is None or isinstance(value, Mixed):
        return value
    if isinstance(value, Mapping) and set(value) <= set(REPLAY_KEYS):
        return Mixed(weighted(value["manifest"]), value.get("ratio"))
    return Mixed(weighted(value))


def _is_mixed(value: Any) -> bool:
    if value is None or isinstance(value, Mixed):
        return True
    if isinstance(value, Mapping):
        fits = MANIFESTS.fits(value.get("manifest")) and optional(RATIO).fits(value.get("ratio"))
        return fits and set(value) <= set(REPLAY_KEYS)
    return MANIFESTS.fits(value)


MIXED = Rule(
    "null, what data.train may be, or {manifest: general.jsonl, ratio: 0.5}, ratio from 0 to 1000",
    _is_mixed,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard(Group):
    """One guard. tolerance: the absolute WER it may lose, None: evaluation.guard_tolerance."""

    KEY: ClassVar[str] = "data.guards"
    name: str = setting(NAME)
    validation: tuple[WeightedManifest, ...] = setting(NO_MANIFESTS, into=weighted)
    test: tuple[WeightedManifest, ...] = setting(NO_MANIFESTS, into=weighted)
    tolerance: float | None = setting(optional(number(low=0, most=1)))
    replay: Mixed | None = setting(MIXED, into=_mixed)

    def where(self) -> str:
        """Its key in messages."""
        return f"{self.KEY}.{self.name}"

    def named_sets(self) -> dict[str, tuple[WeightedManifest, ...]]:
        """What it names, by role."""
        found = {
            role(self.name, "validation"): self.validation,
            role(self.name, "test"): self.test,
            role(self.name, "replay"): self.replay.manifest if self.replay else (),
        }
        return {key: manifests for key, manifests in found.items() if manifests}

    def as_config(self) -> dict[str, Any]:
        """As it would be given on the command line, for the record."""
        replay = self.replay and {
            "manifest": as_given(self.replay.manifest),
            "ratio": self.replay.ratio,
        }
        return {
            "validation": as_given(self.validation),
            "test": as_given(self.test),
            "tolerance": self.tolerance,
            "replay": replay,
        }


GUARDS = Rule(
    "guards by their names, such as {children: {validation: children_dev.jsonl}}",
    lambda value: isinstance(value, Mapping),
)


def read_guards(value: Mapping[Any, Any]) -> dict[str, Guard]:
    """Guards by name, in the order of their names, so that no order on a command line changes a
    run. Raises UserError.
    """
    return {name: _read(name, value[name]) for name in sorted(value, key=str)}


def _read(name: Any, value: Any) -> Guard:
    """One guard, from its mapping in conf/."""
    if isinstance(value, Guard):
        return value
    where = f"{Guard.KEY}.{name}"
    if not NAME.fits(name):
        raise UserError(f"{where}: expected {NAME.expected}.")
    check_name(name)
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}={shown(value)}: expected its keys ({', '.join(KEYS)}), such as "
            f"{where}.validation=dev.jsonl."
        )
    for key in value:
        check_key(name, str(key))
    if not value.get("validation"):
        raise UserError(
            f"{where}.validation is missing: it tells while the model trains what is forgotten. "
            f"Give it as {where}.validation=dev.jsonl."
        )
    return Guard(**dict.fromkeys(KEYS) | {"name": name} | dict(value))


def check_name(name: str) -> None:
    """Raise UserError for a name that stands for another set."""
    if name in TAKEN:
        its = "data.guard_validation, data.guard_test and data.replay" if name == SHORT else "data"
        raise UserError(
            f"{Guard.KEY}.{name}: this name is that of {its}. Use these keys, or give the guard "
            f"another name, such as {Guard.KEY}.general."
        )


def check_key(name: str, key: str) -> None:
    """Raise UserError unless a guard has such a key, `replay.ratio` included."""
    known = [*KEYS, *(f"replay.{part}" for part in REPLAY_KEYS)]
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f" Did you mean {Guard.KEY}.{name}.{near[0]}?" if near else ""
    raise UserError(f"Unknown key '{Guard.KEY}.{name}.{key}': a guard has {', '.join(KEYS)}.{hint}")
