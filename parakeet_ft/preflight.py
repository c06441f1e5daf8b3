"""Command line and conf/ to a checked plain dict: every mistake is found here, before torch or NeMo
is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import operator
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import cache, sources, storage
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.distributed import launcher, ranks
from parakeet_ft.errors import UserError
from parakeet_ft.files import file_hash, json_hash
from parakeet_ft.run import terms
from parakeet_ft.run.composition import compose, expand_shorthand, show_help, split_options
from parakeet_ft.settings.finetune import Data, Finetune, read_finetune
from parakeet_ft.settings.guards import key_of, role, roles
from parakeet_ft.settings.manifests import WeightedManifest
from parakeet_ft.training import driver, host, memory, validation_subset


def check_settings(config: dict[str, Any]) -> Finetune:
    """The settings of a composed configuration. Raises UserError for a value that no run can
    use.
    """
    settings = read_finetune(config)
    check_logger(settings)
    check_noise(settings)
    return settings


def check_logger(settings: Finetune) -> None:
    """Raise UserError if a logger is wanted whose package is not there."""
    if "mlflow" in settings.logger.names and not importlib.util.find_spec("mlflow"):
        raise UserError(
            "logger.names holds mlflow, but MLflow is not installed; it is not part of the pinned "
            "environment. `pip install mlflow-skinny` "
            "adds it (mind what it does to pinned versions), or use logger=tensorboard or wandb."
        )


def check_noise(settings: Finetune) -> None:
    """Raise UserError if the noise of data.augmentation is not there."""
    from parakeet_ft.batches import augmentation  # brings numpy, which nothing above needs

    augmentation.build(seed=settings.seed, **settings.data.augmentation.arguments())


def set_facts(data: Data) -> dict[str, dict[str, Any]]:
    """Names and hash of what conf/data names, by role, for run.json."""
    return {key: sources.facts(named) for key, named in data.named_sets().items()}


def read_manifests(data: Data, *, thorough: bool = False) -> dict[str, Corpus]:
    """Read, or map as it was read before, everything that conf/data names; all must parse and hold
    utterances. Where only one of validation and test is given (domain or guard), it serves as both.

    thorough: compare what was read before with its checksums.
    """
    named = data.named_sets()
    sets = {key: Corpus.open(names, thorough=thorough) for key, names in named.items()}
    pairs = [("validation", "test")]
    pairs += [(role(name, "validation"), role(name, "test")) for name in data.guards]
    for pair in pairs:
        for one, other in itertools.permutations(pair):
            if one not in sets and other in sets:
                sets[one] = sets[other]
    return sets


def learnt_from(sets: dict[str, Corpus]) -> Corpus:
    """The domain, and every replay after it."""
    return functools.reduce(operator.add, [sets["train"], *replayed(sets).values()])


def replayed(sets: dict[str, Corpus]) -> dict[str, Corpus]:
    """What is mixed into training, by role."""
    return {key: sets[key] for key in roles(sets, "replay").values()}


def longest_seconds(data: Data, sets: dict[str, Corpus]) -> float:
    """The longest utterance of all sets, played at the slowest speed of the augmentation."""
    slowest = min([1.0, *(data.augmentation.speed or [])])
    return max((float(found.durations.max()) for found in sets.values()), default=0.0) / slowest


def check_finetune(argv: list[str]) -> tuple[list[str], Finetune, dict[str, Corpus]]:
    """Everything about recipes/finetune.py's command line that can be checked without torch."""
    arguments, settings = read_command(argv)
    return arguments, settings, check_inputs(settings)


def read_command(argv: list[str]) -> tuple[list[str], Finetune]:
    """Arguments in Hydra's terms and the settings, checked; and whether torch can use the GPU."""
    options, overrides = split_options(argv)
    overrides = expand_shorthand(overrides)
    settings = check_settings(compose("finetune", overrides))
    driver.check(settings.trainer.accelerator)
    driver.let_memory_grow()
    return options + overrides, settings


def check_inputs(settings: Finetune) -> dict[str, Corpus]:
    """The manifests, read and checked: their audio (all paths, a sample of durations), the
    checkpoint's file, and whether the tokenizer can write the training texts. Prints what training
    can live with as warnings.
    """
    sets = read_manifests(settings.data, thorough=True)
    check_data(settings.data, sets)
    if not settings.smoke:  # which chooses nothing
        warn(check_choice(sets))
    check_terms(settings, sets)
    check_checkpoint(settings, sets)
    return sets


def check_data(data: Data, sets: dict[str, Corpus]) -> None:
    """The audio of all sets, what lies in several of them, and how much they can tell. Prints
    warnings; raises UserError for what no run can use.
    """
    from parakeet_ft.data.audit import quick_check  # brings what decodes audio

    for key, named in data.named_sets().items():
        warn(quick_check(sets[key], where=sources.describe(named)))
    overlap = known_overlap(sets, allowed=data.allow_overlap)
    doubled = check_doubles(data.named_sets())
    warn([*doubled, *overlap, *check_replay(data)])


def warn(lines: Iterable[str]) -> None:
    """Print what training can live with."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def check_terms(settings: Finetune, sets: dict[str, Corpus]) -> None:
    """Raise UserError for terms that cannot be used; warn of those that nothing can be said of."""
    asked = settings.evaluation
    if asked.terms is None:
        return
    references = validation_subset.texts(
        sets["validation"], hours=asked.subset_hours, seed=settings.seed
    )
    found = terms.resolve(asked, sets, references=references)
    if found is not None and not found.occurrences:
        told = terms.never_said(asked, found, references)
        warn([f"{told} Validations will say nothing of them."])


def known_overlap(sets: dict[str, Corpus], *, allowed: bool) -> list[str]:
    """What `check_overlap` warns of, or raises; kept with large corpora."""
    from parakeet_ft.data.overlap import check_overlap

    if not any(corpus.kept for corpus in sets.values()):
        return check_overlap(sets, allowed=allowed)
    keys = sorted((role, corpus.key) for role, corpus in sets.items())
    name = f"overlap-{json_hash([keys, allowed])[:32]}"
    return cache.kept_facts(name, lambda: {"lines": check_overlap(sets, allowed=allowed)})["lines"]


def check_checkpoint(settings: Finetune, sets: dict[str, Corpus]) -> None:
    """Raise UserError for a checkpoint that is none, or whose tokenizer cannot write the texts."""
    # Brings numpy and SentencePiece.
    from parakeet_ft.model.source import check_source, locate
    from parakeet_ft.model.vocabulary import plan_tokenizer
    from parakeet_ft.tokenizer.sentencepiece_model import read_tokenizer

    check_source(settings.model.source)
    archive = locate(settings.model.source)
    tokenizer = archive and read_tokenizer(archive)
    if tokenizer:
        texts = sets["train"].spoken()
        plan_tokenizer(tokenizer, texts=texts, **settings.tokenizer.arguments())


def check_doubles(named: dict[str, tuple[WeightedManifest, ...]]) -> list[str]:
    """What is named twice: a manifest in a set that is learnt, the same for validation and test."""
    found = []
    for key in ("train", *roles(named, "replay").values()):
        again = Counter(map(_file_of, named[key]))
        found += [
            f"{key_of(key)} names {manifest} {count} times: each of its utterances is learnt as "
            "often. A weight says the same, as in {manifest: a.jsonl, weight: 2}."
            for manifest, count in again.items()
            if count > 1
        ]
    tests = {"validation": "test"}
    tests |= {role(name, "validation"): role(name, "test") for name in roles(named, "validation")}
    for chosen_by, test in tests.items():
        both = (chosen_by, test)
        if all(key in named for key in both) and same_content(*(named[key] for key in both)):
            found.append(
                f"data.{test} is the same as data.{chosen_by}, by which best.nemo is chosen: its "
                "figure says nothing new, and is too good. Give a set that nothing was chosen by, "
                f"or leave data.{test} out."
            )
    return found


def _file_of(one: WeightedManifest) -> str:
    """What tells a name from another for the same file or folder."""
    return one.manifest if storage.is_remote(one.manifest) else os.path.realpath(one.manifest)


def same_content(one: Sequence[WeightedManifest], other: Sequence[WeightedManifest]) -> bool:
    """Whether two settings stand for the same lines."""
    return list(one) == list(other) or sources.identity(one) == sources.identity(other)


def check_replay(data: Data) -> list[str]:
    """A ratio of one's own that has nothing to mix in."""
    mixed = [guard.replay for guard in data.guards.values() if guard.replay]
    follows = data.replay.manifest or any(replay.ratio is None for replay in mixed)
    if follows or data.replay.ratio in (0.0, 1.0):  # off, or the default
        return []
    return [
        f"data.replay.ratio={data.replay.ratio:g} does nothing without data.replay.manifest, the "
        f"general speech to mix in."
    ]


def check_choice(sets: dict[str, Corpus]) -> list[str]:
    """What makes the choice of best.nemo blind, one line each: no guard set, voices of training,
    validation sets of a few words.
    """
    from parakeet_ft.data.voices import known_voices

    found = (
        []
        if roles(sets, "validation")
        else ["no guard set (data.guard_validation): what the model forgets will not be known."]
    )
    found += known_voices(sets)
    for key in ("validation", *roles(sets, "validation").values()):
        words = sets[key].num_words
        if words < 200:
            found.append(
                f"data.{key} holds {words} words: one word is {100 / max(words, 1):.1f} points of "
                f"WER, so the choice of best.nemo is partly chance."
            )
    return found


def identity_of(settings: Finetune) -> dict[str, Any]:
    """What must be the same for a run to be continued (see parakeet_ft.run.directory)."""
    from parakeet_ft.model.source import locate
    from parakeet_ft.run.directory import identity

    noise = settings.data.augmentation.noise_manifest
    found = set_facts(settings.data)
    if noise and os.path.isfile(noise):
        found["noise"] = sources.facts((WeightedManifest(noise),))
    if listed := terms.file_of(settings.evaluation):
        found["terms"] = {"sha256": file_hash(listed)}
    return identity(settings.as_config(), found, locate(settings.model.source))


def prepare(name: str, text: str) -> None:
    """For a recipe's `__main__`: help without imports, else a checked command line in Hydra's terms
    in sys.argv, the run's directory included.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        show_help(name, text)
        sys.exit(0)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    arguments, settings = read_command(sys.argv[1:])
    if ranks.find_place().num_ranks > 1:
        # Before what takes long: ranks that wait for one that checks would not wait for ever.
        ranks.join(timeout_minutes=settings.trainer.timeout_minutes)
    sets = ranks.once_a_node(lambda: check_inputs(settings)) or read_manifests(settings.data)
    if {"-m", "--multirun"} & set(arguments):
        sys.argv[1:] = arguments
        return
    start_ranks(settings)
    given = _given_directory(arguments)
    needs = check_machine(settings, sets, run_dir=given or Path("outputs") / settings.name)
    directory, lines = choose_directory(settings, given)
    for line in [*lines, *needs] if not ranks.rank() else ():
        print(line)
    sys.argv[1:] = [
        *(a for a in arguments if not a.startswith("hydra.run.dir=")),
        f"hydra.run.dir='{directory}'",
        *(["hydra.output_subdir=null"] if ranks.rank() else []),
    ]  # rank 0 keeps Hydra's record


def start_ranks(settings: Finetune) -> None:
    """Return on every rank of the run, when all have met; the process that starts them, or submits
    a job, ends here.
    """
    trainer = settings.trainer
    if settings.smoke:
        trainer = dataclasses.replace(trainer, devices=1)
    launcher.start(launcher=settings.launcher, trainer=trainer, arguments=sys.argv[1:])
    ranks.join(timeout_minutes=settings.trainer.timeout_minutes)


def check_machine(settings: Finetune, sets: dict[str, Corpus], *, run_dir: Path) -> list[str]:
    """Lines on the memory and disk that the run will need. Raises UserError if it cannot fit."""
    if settings.smoke:
        return []
    utterances = learnt_from(sets)
    device = memory.check(settings.as_config(), utterances, num_ranks=ranks.num_ranks())
    needs = host.needs(
        settings,
        utterances,
        run_dir=run_dir,
        ranks_per_node=ranks.find_place().ranks_per_node,
        on_gpu=settings.trainer.accelerator != "cpu" and memory.gpu_bytes() is not None,
    )
    return [device, *host.check(needs)]


def choose_directory(settings: Finetune, given: Path | None) -> tuple[Path, list[str]]:
    """The run's directory, the same on all ranks, and lines that say why it is that."""
    from parakeet_ft.run.directory import choose

    return ranks.on_first(
        lambda: choose(
            identity_of(settings),
            parent=Path("outputs") / settings.name,
            given=given,
            resume="never" if settings.smoke else settings.resume,
        )
    )


def _given_directory(arguments: list[str]) -> Path | None:
    """What hydra.run.dir names, if it is given."""
    pairs = (argument.partition("=") for argument in arguments)
    named = [value.strip("'\"") for key, _, value in pairs if key == "hydra.run.dir"]
    return Path(named[0]) if named and named[0] else None
