"""recipes/evaluate.py's command line to models, sets and texts, every mistake found before torch is
imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.sources import read_all
from parakeet_ft.data.text import load_replacements
from parakeet_ft.errors import UserError
from parakeet_ft.run.composition import bundled, compose, show_help, split_options
from parakeet_ft.run.terms import read_lines
from parakeet_ft.scoring.normalization import Normalizer
from parakeet_ft.scoring.terms import find_terms
from parakeet_ft.settings.evaluate import read_evaluate
from parakeet_ft.settings.manifests import weighted
from parakeet_ft.training import driver
from parakeet_ft.urls import without_secrets

ON_CPU = "to score on the CPU, give device=cpu"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be scored: models by label (the first is the base), sets by label, and the texts
    that the settings name.
    """

    models: dict[str, str]
    sets: dict[str, list[Utterance]]
    normalizer: Normalizer
    phrases: tuple[str, ...]
    terms: tuple[str, ...]
    lm_text: tuple[str, ...]
    lm_tune_on: tuple[Utterance, ...]
    lm_guard: tuple[Utterance, ...]

    def language_model(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The settings of conf/language_model with texts in place of paths; None if no text was
        given.
        """
        if not self.lm_text:
            return None
        return settings | {
            "text": self.lm_text,
            "tune_on": self.lm_tune_on,
            "guard": self.lm_guard,
        }


def labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart, without suffix; a path that is given
    twice is numbered.
    """
    parts = [_without_suffix(PurePath(path)).parts for path in paths]
    given: Counter[str] = Counter()
    found = []
    for own in parts:
        length = _telling_length(own, parts)
        name = "/".join(part for part in own[-length:] if part != "/")
        given[name] += 1
        found.append(name if given[name] == 1 else f"{name} ({given[name]})")
    return found


def _without_suffix(path: PurePath) -> PurePath:
    """A path without the suffix that all of its kind have."""
    return path.with_suffix("") if path.suffix in (".nemo", ".jsonl", ".json") else path


def _telling_length(own: tuple[str, ...], all_parts: Sequence[tuple[str, ...]]) -> int:
    """How many parts at its end tell a path from all others; all of them if none do."""
    for length in range(1, len(own) + 1):
        alike = [other for other in all_parts if other[-length:] == own[-length:]]
        if len(alike) == 1:
            return length
    return len(own)


def _texts(value: str | None, *, key: str) -> tuple[str, ...]:
    """The texts of a manifest, or the lines of a file."""
    if value is not None and str(value).endswith(".jsonl"):
        return tuple(u.text for u in read_all(weighted(value)) if u.text.strip())
    return read_lines(value, key=key)


def _utterances(value: str | None) -> tuple[Utterance, ...]:
    """The utterances of a manifest, none if none is named."""
    return tuple(read_all(weighted(value))) if value else ()


def expand_shorthand(overrides: Sequence[str]) -> list[str]:
    """With a benchmark named and no manifests, the demo's are not scored beside it."""
    given = {override.partition("=")[0] for override in overrides}
    if "benchmark" in given and "manifests" not in given:
        return [*overrides, "manifests=[]"]
    return list(overrides)


def read_sets(config: dict[str, Any], *, normalizer: Normalizer) -> dict[str, list[Utterance]]:
    """The manifests, then the benchmark's sets, by label. Warns of what is amiss in a manifest on
    stderr.
    """
    from parakeet_ft.data.audit import quick_check

    paths = [bundled(path) or without_secrets(path) for path in config["manifests"]]
    sets = {
        label: read_all(weighted(path)) for label, path in zip(labels(paths), paths, strict=True)
    }
    for path, utterances in zip(paths, sets.values(), strict=True):
        for warning in quick_check(utterances, where=path):
            print(f"warning: {warning}", file=sys.stderr)
    sets |= _benchmark_sets(config["benchmark"], Path(config["out"]), normalizer=normalizer)
    if not sets:
        raise UserError(
            "Nothing to score: give manifests=[test.jsonl,guard.jsonl] or "
            "benchmark=open_asr_leaderboard."
        )
    _check_fields(config["fields"], sets)
    return sets


def _benchmark_sets(
    benchmark: dict[str, Any], out: Path, *, normalizer: Normalizer
) -> dict[str, list[Utterance]]:
    """The sets of a benchmark by name, fetched into `out` if they are not there."""
    from parakeet_ft.evaluation.benchmark import fetch_set

    sets = {}
    for one in benchmark["sets"]:
        missing = [key for key in ("name", "config", "split") if key not in one]
        if missing:
            raise UserError(f"benchmark.sets: {one} lacks {', '.join(missing)}.")
        source = hashlib.sha256(str(benchmark["path"]).encode()).hexdigest()[:8]
        sets[one["name"]] = fetch_set(
            benchmark["path"],
            config=one["config"],
            split=one["split"],
            folder=out / "sets" / source / f"{one['config']}-{one['split']}",
            normalizer=normalizer,
            ignored_references=benchmark["ignored_references"],
        )
    return sets


def _check_fields(fields: Sequence[str], sets: dict[str, list[Utterance]]) -> None:
    """Raise UserError for a field that no utterance has."""
    known = {"speaker"}
    for utterances in sets.values():
        known.update(*(u.extra for u in utterances))
    for field in fields:
        if field not in known:
            raise UserError(
                f"fields: no manifest has {field!r}; they have {', '.join(sorted(known))}."
            )


def read_request(config: dict[str, Any]) -> Request:
    """All files that the settings name, read and checked. Raises UserError."""
    from parakeet_ft.model.source import check_source

    read_evaluate(config)
    driver.check(config["device"], cpu=ON_CPU)
    for source in config["models"]:
        check_source(source)
    normalizer = Normalizer(
        config["language"],
        load_replacements(config["replacements"]) if config["replacements"] else (),
    )
    phrases = read_lines(config["decoding"]["phrases"] or None, key="decoding.phrases")
    language_model = config["language_model"]
    lm_text = _texts(language_model["text"], key="language_model.text")
    tune_on: tuple[Utterance, ...] = ()
    guard: tuple[Utterance, ...] = ()
    if lm_text:
        tune_on = _utterances(language_model["tune_on"])
        guard = _utterances(language_model["guard"])
    general = _texts(config["general"], key="general")
    terms = () if config["terms"] == "auto" else read_lines(config["terms"], key="terms")
    sets = read_sets(config, normalizer=normalizer)
    if config["terms"] == "auto":
        form = str if config["scored"] == "raw" else normalizer
        domain = next(iter(sets.values()))
        terms = tuple(find_terms([form(u.text) for u in domain], [form(text) for text in general]))
    return Request(
        dict(zip(labels(config["models"]), config["models"], strict=True)),
        sets,
        normalizer,
        phrases,
        terms,
        lm_text,
        tune_on,
        guard,
    )


def prepare(text: str) -> None:
    """For the recipe's `__main__`: help without imports, else a checked command line in Hydra's
    terms in sys.argv.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        show_help("evaluate", text)
        sys.exit(0)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    options, overrides = split_options(sys.argv[1:])
    overrides = expand_shorthand(overrides)
    read_request(compose("evaluate", overrides))
    sys.argv[1:] = options + overrides
