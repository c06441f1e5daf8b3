"""Command line and conf/ to a checked plain dict: every mistake is found here, before torch or NeMo
is imported.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.distributed import launcher, ranks
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO, project_folder
from parakeet_ft.training import driver, memory

CONF = project_folder("conf")
MANIFEST_KEYS = ("train", "validation", "test", "guard_validation", "guard_test")


def bundled(path: str | None) -> str | None:
    """Resolve `bundled:x` to the package's demo data; other paths are returned as they are."""
    return (
        str(DEMO / path.removeprefix("bundled:")) if path and path.startswith("bundled:") else path
    )


def options_of(group: str) -> list[str]:
    """Options of a config group; names with a leading underscore are parts of others."""
    return sorted(
        file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_")
    )


def groups(name: str = "finetune") -> list[str]:
    """The config groups that conf/<name>.yaml is made of."""
    import yaml

    defaults = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    named = (
        next(iter(entry)).removeprefix("optional ") for entry in defaults if isinstance(entry, dict)
    )
    return sorted(group for group in named if not group.startswith("override "))


def _given(overrides: list[str]) -> dict[str, str]:
    return {key.lstrip("+~"): value for key, _, value in (o.partition("=") for o in overrides)}


def expand_shorthand(overrides: list[str]) -> list[str]:
    """Rewrite what users type into Hydra's terms.

    `model=path/to/x.nemo` and `model=org/name` become model=checkpoint model.source=...;
    data.train=... without data= implies data=manifests, so that nothing of the demo is mixed into a
    real job; a budget of hours or steps replaces that of epochs.
    """
    given, out = _given(overrides), []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "model" and ("/" in value or value.endswith(".nemo")):
            out += ["model=checkpoint", f"model.source='{value}'"]
        else:
            out.append(override)
    if "data" not in given and any(f"data.{key}" in given for key in ("train", "validation")):
        out.insert(0, "data=manifests")
    budgets = [
        key
        for key in ("budget.epochs", "budget.hours", "budget.steps")
        if given.get(key, "null") != "null"
    ]
    if len(budgets) > 1:
        raise UserError(
            f"{' and '.join(budgets)} are both given; a run has one budget: keep one of them."
        )
    if budgets:
        out += [
            f"budget.{key}=null"
            for key in ("epochs", "hours", "steps")
            if f"budget.{key}" not in given
        ]
    return out


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    return {
        key: value
        for name, child in config.items()
        for key, value in _flatten(child, f"{prefix}.{name}" if prefix else name).items()
    }


def compose(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose conf/<name>.yaml with Hydra into a plain dict. Raises UserError for unknown groups,
    options, keys and wrong types.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    composed_of = functools.cache(
        lambda *given: hydra_compose(name, list(given))
    )  # each takes a fifth of a second
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups_only = [o for o in overrides if o.partition("=")[0] in groups(name)]
        for override in groups_only:
            group, _, option = override.partition("=")
            if option not in options_of(group):
                raise UserError(
                    f"{group}={option}: no such option. {_nearest(option, options_of(group))}"
                )
        try:
            defaults = OmegaConf.to_container(composed_of(*groups_only), resolve=False)
            known = OmegaConf.to_container(
                composed_of(*(o for o in groups_only if not o.startswith("experiment="))),
                resolve=False,
            )
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"The configuration does not compose: {error}") from None
        keys = _flatten(defaults)
        # Hydra lets an experiment's file add any key.
        for key in keys.keys() - _flatten(known).keys():
            raise UserError(
                f"conf/experiment sets the unknown key {key!r}. "
                f"{_nearest(key, list(_flatten(known)))}"
            )
        for override in overrides:
            key, equals, _ = override.partition("=")
            if key.startswith("hydra") or override in groups_only:
                continue
            plain = key.lstrip("+~")
            if not equals and not key.startswith("~"):
                raise UserError(
                    f"{override!r} is not a setting; expected key=value, such as budget.steps=100. "
                    f"{_nearest(plain, [*keys, *groups(name)])}"
                )
            if plain not in keys and not any(known.startswith(f"{plain}.") for known in keys):
                raise UserError(f"Unknown key {plain!r}. {_nearest(plain, [*keys, *groups(name)])}")
        try:
            config = OmegaConf.to_container(
                composed_of(*overrides), resolve=True, throw_on_missing=True
            )
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", "") or "")
            if isinstance(error, MissingMandatoryValue):
                raise UserError(
                    f"{key} is missing. Give it as "
                    f"{key}={'data/mine/dev.jsonl' if key.startswith('data.') else 'VALUE'}."
                ) from None
            raise UserError(
                f"{key or 'A value'} cannot be used: {str(error).splitlines()[0]}"
            ) from None
        except HydraException as error:
            raise UserError(
                f"The command line cannot be read: {' '.join(str(error).split())}"
            ) from None
    for key, value in _flatten(config).items():
        _check_type(key, value, keys.get(key))
    return config


def _check_type(key: str, value: Any, default: Any) -> None:
    """A value must be of its default's kind: a number for a number, and so on. None and `auto`
    stand for either.
    """
    if (
        value is None
        or default is None
        or isinstance(default, str)
        or (key == "data.batch_seconds" and value == "auto")
    ):
        return
    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        fits, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, list):
        fits, expected = isinstance(value, list), "a list such as [a,b]"
    else:
        return
    if not fits:
        raise UserError(f"{key}={value!r}: expected {expected} (the default is {default!r}).")


def _nearest(word: str, known: list[str]) -> str:
    """The nearest valid names, compared whole and by last part, so that `lr` finds `optim.lr`."""
    by_tail = [name for name in known if name.rpartition(".")[2] == word.rpartition(".")[2]]
    near = list(
        dict.fromkeys([*by_tail, *difflib.get_close_matches(word, known, n=3, cutoff=0.5)])
    )[:3]
    return (
        f"Did you mean {' or '.join(near)}?"
        if near
        else f"Valid: {', '.join(sorted(known))}."
        if len(known) < 30
        else "`--help` lists them."
    )


def check_range(config: dict[str, Any]) -> None:
    """Values that no run can use."""
    rules = [
        (
            "data.batch_seconds",
            config["data"]["batch_seconds"],
            lambda v: v == "auto" or v > 0,
            "auto or a number above 0",
        ),
        (
            "data.effective_batch_seconds",
            config["data"]["effective_batch_seconds"],
            lambda v: v is None or v > 0,
            "null or a number above 0",
        ),
        (
            "optim.max_bad_batches",
            config["optim"]["max_bad_batches"],
            lambda v: isinstance(v, int) and v >= 0,
            "a whole number, 0 or more",
        ),
        ("data.replay.ratio", config["data"]["replay"]["ratio"], lambda v: v >= 0, "0 or more"),
        (
            "optim.warmup_ratio",
            config["optim"]["warmup_ratio"],
            lambda v: 0 <= v < 1,
            "between 0 and 1",
        ),
        (
            "optim.accumulate",
            config["optim"]["accumulate"],
            lambda v: isinstance(v, int) and v > 0,
            "a whole number above 0",
        ),
        (
            "evaluation.validations",
            config["evaluation"]["validations"],
            lambda v: isinstance(v, int) and v > 0,
            "a whole number above 0",
        ),
    ]
    adaptation = config["adaptation"]
    rules += [
        (
            "adaptation.mode",
            adaptation["mode"],
            lambda v: v in ("weights", "lora", "adapters"),
            "weights, lora or adapters",
        ),
        (
            "adaptation.learn_decoder",
            adaptation["learn_decoder"],
            lambda v: v in ("auto", True, False),
            "auto, true or false",
        ),
        (
            "adaptation.first_layers",
            adaptation["first_layers"],
            lambda v: v >= 0 and (v < 1 or v == int(v)),
            "a whole number, or a share below 1",
        ),
        (
            "adaptation.unfreeze",
            adaptation["unfreeze"],
            lambda v: not v or (len(v) == 2 and 0 <= v[0] <= v[1] < 1),
            "[] or two shares of the run, as [0.1,0.5]",
        ),
        (
            "optim.layer_decay",
            config["optim"]["layer_decay"],
            lambda v: 0 < v <= 1,
            "above 0 and at most 1",
        ),
    ]
    rules += [
        (
            f"adaptation.{key}",
            adaptation[key],
            lambda v: isinstance(v, int) and v > 0,
            "a whole number above 0",
        )
        for key in ("lora_rank", "adapter_dim")
    ]
    rules += [
        (f"optim.{key}", config["optim"][key], lambda v: v > 0, "above 0")
        for key in ("decoder_lr_ratio", "new_pieces_lr_ratio", "adapter_lr_ratio")
    ]
    rules += [
        (f"budget.{key}", value, lambda v: v is None or v > 0, "above 0")
        for key, value in config["budget"].items()
    ]
    evaluation, distillation = config["evaluation"], config["distillation"]
    rules += [
        (
            "evaluation.alarm_after",
            evaluation["alarm_after"],
            lambda v: isinstance(v, int) and v > 0,
            "a whole number above 0",
        ),
        (
            "evaluation.ema_decay",
            evaluation["ema_decay"],
            lambda v: v is None or 0 < v < 1,
            "null or between 0 and 1",
        ),
        ("distillation.weight", distillation["weight"], lambda v: v >= 0, "0 or more"),
        ("distillation.temperature", distillation["temperature"], lambda v: v > 0, "above 0"),
    ]
    rules += [
        (
            f"evaluation.{key}",
            evaluation[key],
            lambda v: v is None or (isinstance(v, int) and v > 0),
            "null or a whole number above 0",
        )
        for key in ("patience", "average_last")
    ]
    if config["optim"]["lr"] != "auto":
        rules.append(
            (
                "optim.lr",
                config["optim"]["lr"],
                lambda v: isinstance(v, int | float) and v > 0,
                "auto or a number above 0",
            )
        )
    rules += [
        (
            f"trainer.{key}",
            config["trainer"][key],
            lambda v: v == "auto" or (isinstance(v, int) and v > 0),
            "auto or a whole number above 0",
        )
        for key in ("devices", "num_nodes")
    ]
    rules.append(
        (
            "trainer.timeout_minutes",
            config["trainer"]["timeout_minutes"],
            lambda v: v > 0,
            "above 0",
        )
    )
    for key, value, fits, expected in rules:
        try:
            usable = fits(value)
        except TypeError:  # null, or a list of words
            usable = False
        if not usable:
            raise UserError(f"{key}={value!r}: expected {expected}.")
    if sum(value is not None for value in config["budget"].values()) != 1:
        raise UserError("No budget: give one of budget.epochs, budget.hours or budget.steps.")
    if config["data"]["effective_batch_seconds"] and config["optim"]["accumulate"] != 1:
        raise UserError(
            "data.effective_batch_seconds and optim.accumulate both say how many batches make a "
            "step: give one of them."
        )
    from parakeet_ft.batches import augmentation  # brings numpy, which nothing above needs

    augmentation.build(seed=config["seed"], **config["data"]["augmentation"])
    if distillation["weight"] and config["tokenizer"]["mode"] == "replace":
        raise UserError(
            "distillation.weight is above 0 with tokenizer=replace: the checkpoint's pieces are "
            "gone, so its outputs are no measure. "
            "Use tokenizer=keep or extend, or distillation.weight=0."
        )
    divided = [
        key
        for key, value in (
            ("evaluation.ema_decay", evaluation["ema_decay"]),
            ("distillation.weight", distillation["weight"]),
        )
        if value
    ]
    if config["trainer"]["strategy"] == "fsdp" and divided:
        raise UserError(
            f"{' and '.join(divided)} with trainer.strategy=fsdp: not supported, as no rank holds "
            f"all weights. Use trainer=ddp, or leave it off."
        )
    if "mlflow" in config["logger"]["names"] and not importlib.util.find_spec("mlflow"):
        raise UserError(
            "logger.names holds mlflow, but MLflow is not installed; it is not part of the pinned "
            "environment. `pip install mlflow-skinny` "
            "adds it (mind what it does to pinned versions), or use logger=tensorboard or wandb."
        )


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


def attention_arguments(model: dict[str, Any]) -> dict[str, Any]:
    """The keys of conf/model as arguments of parakeet_ft.model.attention.set_attention."""
    left, right = model["attention_context"]
    return {
        "kind": model["attention"],
        "left_context": left,
        "right_context": right,
        "global_tokens": model["global_tokens"],
        "subsampling_chunking": model["subsampling_chunking"],
    }


def check_finetune(argv: list[str]) -> tuple[list[str], dict[str, Any], dict[str, list[Utterance]]]:
    """Everything about recipes/finetune.py's command line that can be checked without torch.

    Overrides, values, manifests with their audio (all paths, a sample of durations), the
    checkpoint's file, and whether the tokenizer can write the training texts. Prints what training
    can live with as warnings.
    """
    overrides = expand_shorthand([a for a in argv if not a.startswith("-")])
    config = compose("finetune", overrides)
    driver.check(config["trainer"]["accelerator"])
    driver.let_memory_grow()
    sets = read_manifests(config)
    check_range(config)
    # From here on numpy is needed, and SentencePiece.
    from parakeet_ft.data.audit import check_overlap, quick_check
    from parakeet_ft.model.source import check_source, locate, read_tokenizer
    from parakeet_ft.model.vocabulary import plan_tokenizer

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
    return [a for a in argv if a.startswith("-")] + overrides, config, sets


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


def show_help(name: str, text: str) -> None:
    """Print what a recipe does, its groups with their options, and every key with its default."""
    print(text.strip(), "\n\nGroups (group=option):")
    for group in groups(name):
        print(f"  {group:<12} {' | '.join(options_of(group))}")
    print("\nKeys (key=value) and defaults; a comment on each is in conf/:")
    for key, value in _flatten(compose(name, [])).items():
        print(f"  {key:<32} {value}")


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
