"""The settings of recipes/evaluate.py: conf/evaluate.yaml and the groups it is made of."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from parakeet_ft.errors import UserError
from parakeet_ft.settings.rules import (
    LANGUAGE,
    LINES,
    PATH,
    TEXT,
    Group,
    Rule,
    choice,
    either,
    listing,
    number,
    optional,
    read,
    setting,
    whole,
)


def _are_sets(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(one, dict) and {"name", "config", "split"} <= set(one) for one in value
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark(Group):
    KEY: ClassVar[str] = "benchmark"
    name: str | None = setting(optional(TEXT))
    path: str | None = setting(optional(TEXT))
    sets: list[dict[str, str]] = setting(
        Rule("a list of {name: ..., config: ..., split: ...}", _are_sets)
    )
    ignored_references: list[str] = setting(listing(TEXT, example="[inaudible]"))
    scored: str = setting(choice("raw", "normalized"))
    language: str = setting(LANGUAGE)
    warm_up_batches: int = setting(whole(low=0, most=1000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding(Group):
    KEY: ClassVar[str] = "decoding"
    strategy: str = setting(choice("greedy", "beam"))
    head: str = setting(choice("auto", "transducer", "ctc"))
    beam_size: int = setting(whole(most=10_000))
    length_bonus: float = setting(number(low=-100, most=100))
    phrases: list[str] | str = setting(LINES)
    phrase_weight: float = setting(number(low=0, most=1000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(Group):
    KEY: ClassVar[str] = "language_model"
    text: str | None = setting(optional(PATH))
    order: int = setting(whole(low=2, most=20))
    weight: float | str = setting(either("auto", number(low=0, most=1000)))
    weights: list[float] = setting(listing(number(low=0, most=1000), example="[0.1,0.3]", least=1))
    tune_on: str | None = setting(optional(PATH))
    guard: str | None = setting(optional(PATH))
    guard_tolerance: float | None = setting(optional(number(low=0, most=1)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is not None and self.weight == "auto" and self.tune_on is None:
            raise UserError(
                "language_model.weight=auto needs a set of the domain to be tuned on, which must "
                "not "
                "be among those scored: give language_model.tune_on=dev.jsonl, or a weight such as "
                "language_model.weight=0.3."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Group):
    """All settings of an evaluation."""

    benchmark: Benchmark
    decoding: Decoding
    language_model: LanguageModel
    models: list[str] = setting(listing(TEXT, example="[base.nemo,tuned.nemo]", least=1))
    manifests: list[str] = setting(listing(PATH, example="[test.jsonl,guard.jsonl]"))
    out: str = setting(Rule("the path of a folder", TEXT.fits))
    scored: str = setting(choice("raw", "normalized"))
    language: str = setting(LANGUAGE)
    replacements: str | None = setting(optional(PATH))
    fields: list[str] = setting(listing(TEXT, example="[speaker]"))
    terms: list[str] | str | None = setting(optional(either("auto", LINES)))
    general: str | None = setting(optional(PATH))
    confusions: int = setting(whole(low=0, most=1_000_000))
    device: str = setting(choice("auto", "cpu", "cuda"))
    long_audio: str = setting(choice("auto", "full", "local", "chunked"))
    batch_seconds: float = setting(number(above=0, most=1_000_000))
    warm_up_batches: int = setting(whole(low=0, most=1000))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms == "auto" and self.general is None:
            raise UserError(
                "terms=auto needs general speech to compare the domain with: give "
                "general=guard.jsonl or a text, or the terms themselves."
            )


def read_evaluate(config: dict[str, Any]) -> Evaluate:
    """A composed conf/evaluate.yaml, checked. Raises UserError."""
    return read(Evaluate, config)
