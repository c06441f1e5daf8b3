"""Settings that name utterances: one manifest or folder of shards, or several with weights."""

from __future__ import annotations

import dataclasses
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.settings.rules import PATH, Rule, number
from parakeet_ft.urls import without_secrets

MOST_WEIGHT = 1000


@dataclasses.dataclass(frozen=True)
class WeightedManifest:
    """A name that stands for utterances (see data/sources.py), and how often each of them comes in
    a pass: 2 twice, 0.5 in half of the passes.
    """

    manifest: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", without_secrets(self.manifest))


def _is_weighted(value: Any) -> bool:
    """Whether an entry is a name, or one with its weight."""
    if isinstance(value, WeightedManifest):
        value = dataclasses.asdict(value)
    if not isinstance(value, dict):
        return PATH.fits(value)
    return (
        PATH.fits(value.get("manifest"))
        and number(above=0, most=MOST_WEIGHT).fits(value.get("weight", 1.0))
        and set(value) <= {"manifest", "weight"}
    )


def weighted(value: Any) -> tuple[WeightedManifest, ...]:
    """What a setting names, each with its weight: nothing, one name, or several."""
    if value is None:
        return ()
    return tuple(map(_weighted, value if isinstance(value, list | tuple) else [value]))


def _weighted(entry: Any) -> WeightedManifest:
    """One entry of a list, by its name or as a mapping."""
    if isinstance(entry, WeightedManifest):
        return entry
    return WeightedManifest(**entry) if isinstance(entry, dict) else WeightedManifest(entry)


def as_given(named: tuple[WeightedManifest, ...]) -> Any:
    """The shortest value of a setting that `weighted` makes the same of."""
    plain = [
        one.manifest if one.weight == 1 else {"manifest": one.manifest, "weight": one.weight}
        for one in named
    ]
    if not plain:
        return None
    return plain[0] if len(plain) == 1 and isinstance(plain[0], str) else plain


def check_unweighted(key: str, named: tuple[WeightedManifest, ...]) -> None:
    """Raise UserError for a weight of what is scored."""
    for one in named:
        if one.weight != 1:
            raise UserError(
                f"{key}: {one.manifest} has the weight {one.weight:g}, which means nothing here: "
                "what is scored is scored once. Expected it without a weight."
            )


MANIFESTS = Rule(
    "a manifest or a folder of shards, several as [a.jsonl,b.jsonl], or with weights above 0 and "
    f"up to {MOST_WEIGHT} as [{{manifest: a.jsonl, weight: 2}}, b.jsonl]",
    lambda value: (
        all(map(_is_weighted, value if isinstance(value, list | tuple) else [value]))
        and value not in ([], ())
    ),
)
# Optional ones: null is read as none, ().
NO_MANIFESTS = Rule(
    f"null or {MANIFESTS.expected}", lambda value: value in (None, (), []) or MANIFESTS.fits(value)
)
