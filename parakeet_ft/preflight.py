"""Command line and conf/ to a checked plain dict: every mistake is found here, before torch or NeMo
is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.distributed import launcher, ranks
from parakeet_ft.errors import UserError
from parakeet_ft.run.composition import bundled, compose, expand_shorthand, show_help, split_options
from parakeet_ft.settings.finetune import Finetune, read_finetune
from parakeet_ft.training import driver, memory

MANIFEST_KEYS = ("train", "validation", "test", "guard_validation", "guard_test")


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

    augmentation.build(seed=settings.seed, **dataclasses.asdict(settings.data.augmentation))


def manifest_paths(config: dict[str, Any]) -> dict[str, str]:
    """The manifests that config["data"] names, by role."""
    data = config["data"]
    paths = {key: bundled(data[key]) for key in MANIFEST_KEYS} | {
        "replay": bundled(data["replay"]["manifest"])
    }
    return {key: path for key, path in paths.items() if path}


def read_manifests(config: dict[str, Any]) -> dict[str, list[Utterance]]:
    """Read every manifest of config["data"]; all must parse and hold utterances. Where only one of
    validation and test is given (domain or guard), it serves as both.
    """
    sets = {key: read_manifest(path) for key, path in manifest_paths(config).items()}
    for one, other in (
        ("test", "validation"),
        ("guard_test", "guard_validation"),
        ("guard_validation", "guard_test"),
    ):
        if one not in sets and other in sets:
            sets[one] = sets[other]
    return sets


def longest_seconds(cfg: dict[str, Any], sets: dict[str, list[Utterance]]) -> float:
    """The longest utterance of all sets, played at the slowest speed of the augmentation."""
    slowest = min([1.0, *(cfg["data"]["augmentation"]["speed"] or [])])
    return max((u.duration for found in sets.values() for u in found), default=0.0) / slowest


def check_finetune(argv: list[str]) -> tuple[list[str], dict[str, Any], dict[str, list[Utterance]]]:
    """Everything about recipes/finetune.py's command line that can be checked without torch.

    Overrides, values, manifests with their audio (all paths, a sample of durations), the
    checkpoint's file, and whether the tokenizer can write the training texts. Prints what training
    can live with as warnings.
    """
    options, overrides = split_options(argv)
    overrides = expand_shorthand(overrides)
    config = compose("finetune", overrides)
    check_settings(config)
    driver.check(config["trainer"]["accelerator"])
    driver.let_memory_grow()
    sets = read_manifests(config)
    # From here on numpy is needed, and SentencePiece.
    from parakeet_ft.data.audit import check_overlap, quick_check
    from parakeet_ft.model.source import check_source, locate
    from parakeet_ft.model.vocabulary import plan_tokenizer
    from parakeet_ft.tokenizer.sentencepiece_model import read_tokenizer

    for key, path in manifest_paths(config).items() if ranks.checks_for_its_node() else ():
        for warning in quick_check(sets[key], where=path):
            print(f"warning: {warning}", file=sys.stderr)
    if ranks.checks_for_its_node():
        overlap = check_overlap(sets, allowed=config["data"]["allow_overlap"])
        for warning in [*overlap, *check_choice(sets)]:
            print(f"warning: {warning}", file=sys.stderr)
    check_source(config["model"]["source"])
    archive = locate(config["model"]["source"])
    tokenizer = archive and read_tokenizer(archive)
    if tokenizer:
        plan_tokenizer(tokenizer, texts=[u.text for u in sets["train"]], **config["tokenizer"])
    return options + overrides, config, sets


def check_choice(sets: dict[str, list[Utterance]]) -> list[str]:
    """What makes the choice of best.nemo blind, one line each: no guard set, validation sets of a
    few words.
    """
    found = (
        []
        if "guard_validation" in sets
        else ["no guard set (data.guard_validation): what the model forgets will not be known."]
    )
    for key in ("validation", "guard_validation"):
        words = sum(len(u.text.split()) for u in sets.get(key, []))
        if key in sets and words < 200:
            found.append(
                f"data.{key} holds {words} words: one word is {100 / max(words, 1):.1f} points of "
                f"WER, so the choice of best.nemo is partly chance."
            )
    return found


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to be continued (see parakeet_ft.run.directory)."""
    from parakeet_ft.model.source import locate
    from parakeet_ft.run.directory import identity

    noise = config["data"]["augmentation"]["noise_manifest"]
    return identity(
        config,
        manifest_paths(config) | ({"noise": noise} if noise and os.path.isfile(noise) else {}),
        locate(config["model"]["source"]),
    )


def prepare(name: str, text: str) -> None:
    """For a recipe's `__main__`: help without imports, else a checked command line in Hydra's terms
    in sys.argv, the run's directory included.
    """
    from parakeet_ft.run.directory import choose

    if {"-h", "--help"} & set(sys.argv[1:]):
        show_help(name, text)
        sys.exit(0)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    arguments, config, sets = check_finetune(sys.argv[1:])
    if {"-m", "--multirun"} & set(arguments):
        sys.argv[1:] = arguments
        return
    given = next(
        (
            value.strip("'\"")
            for key, _, value in (a.partition("=") for a in arguments)
            if key == "hydra.run.dir"
        ),
        None,
    )
    launcher.start(
        launcher=config["launcher"],
        trainer=config["trainer"] | ({"devices": 1} if config["smoke"] else {}),
        arguments=sys.argv[1:],
    )
    ranks.join(timeout_minutes=config["trainer"]["timeout_minutes"])
    need = (
        []
        if config["smoke"]
        else [
            memory.check(
                config, sets["train"] + sets.get("replay", []), num_ranks=ranks.num_ranks()
            )
        ]
    )
    directory, lines = ranks.on_first(
        lambda: choose(
            identity_of(config),
            parent=Path("outputs") / config["name"],
            given=given and Path(given),
            resume="never" if config["smoke"] else config["resume"],
        )
    )
    for line in [*lines, *need] if not ranks.rank() else ():
        print(line)
    sys.argv[1:] = [
        *(a for a in arguments if not a.startswith("hydra.run.dir=")),
        f"hydra.run.dir='{directory}'",
        *(["hydra.output_subdir=null"] if ranks.rank() else []),
    ]  # rank 0 keeps Hydra's record
