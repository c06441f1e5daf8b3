"""conf/ and a command line to a plain dict, composed with Hydra; what --help shows of it."""

from __future__ import annotations

import difflib
import functools
import re
import textwrap
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO, project_folder
from parakeet_ft.model.checkpoints import CHECKPOINTS, resolve
from parakeet_ft.settings.rules import shown

CONF = project_folder("conf")


# Hydra's, those that make sense here.
OPTIONS = ("-h", "--help", "-m", "--multirun", "--cfg", "--resolve", "--info", "--hydra-help")


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


def split_options(argv: list[str]) -> tuple[list[str], list[str]]:
    """Options of Hydra's, and settings. Raises UserError for an option that is none."""
    options = [argument for argument in argv if argument.startswith("-")]
    for option in options:
        if option not in OPTIONS:
            key = option.lstrip("-")
            hint = f"Did you mean {key}?" if "=" in key else f"Known: {', '.join(OPTIONS)}."
            raise UserError(
                f"{option} is no option; settings are key=value, without dashes. {hint}"
            )
    return options, [argument for argument in argv if not argument.startswith("-")]


def expand_shorthand(overrides: list[str]) -> list[str]:
    """Rewrite what users type into Hydra's terms.

    `model=path/to/x.nemo`, `model=org/name` and `model=NAME` become model.source=...;
    data.train=... without data= implies data=manifests, so that nothing of the demo is mixed into a
    real job; a budget of hours or steps replaces that of epochs.
    """
    given, out = _given(overrides), []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "model" and value not in options_of("model"):
            out.append(f"model.source='{_source(value)}'")
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


def _source(model: str) -> str:
    """The source that `model=...` stands for. Raises UserError for a name that nothing has."""
    if "/" in model or model.endswith(".nemo") or model in CHECKPOINTS:
        return resolve(model)
    raise UserError(
        f"model={model}: no checkpoint has this name. {_nearest(model, list(CHECKPOINTS))} Or give "
        f"a .nemo by its path, or a hub id such as nvidia/parakeet-ctc-0.6b."
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts to dotted keys."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    return {
        key: value
        for name, child in config.items()
        for key, value in flatten(child, f"{prefix}.{name}" if prefix else name).items()
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
        keys = flatten(defaults)
        # Hydra lets an experiment's file add any key.
        for key in keys.keys() - flatten(known).keys():
            raise UserError(
                f"conf/experiment sets the unknown key {key!r}. "
                f"{_nearest(key, list(flatten(known)))}"
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
    return config


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


def show_help(name: str, text: str) -> None:
    """Print what a recipe does, its groups with their options, and every key with its default."""
    print(text.strip(), "\n\nGroups (group=option):")
    for group in groups(name):
        line = f"  {group:<14} {' | '.join(options_of(group))}"
        print(textwrap.fill(line, 80, subsequent_indent=" " * 17))
    if "model" in groups(name):
        print("\nCheckpoints (model=NAME; or the path of a .nemo, or a hub id):")
        for checkpoint, known in CHECKPOINTS.items():
            line = f"  {checkpoint:<22} {known.what} ({known.licence})"
            print(textwrap.fill(line, 80, subsequent_indent=" " * 25))
    print("\nKeys (key=value), each with its default and what it means:")
    said, own = comments(name), _own_data(name)
    for key, value in flatten(compose(name, [])).items():
        line = f"  {key}={shown(value)}"
        if own.get(key, value) != value:
            line += f"   with your own data: {shown(own[key])}"
        print(textwrap.fill(line, 80, subsequent_indent="      "))
        if key in said:
            print(textwrap.fill(said[key], 80, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _own_data(name: str) -> dict[str, Any]:
    """Defaults that data=manifests has in place of the demo's; what must be given has none."""
    import yaml

    if "data" not in groups(name):
        return {}
    path = CONF / "data" / "manifests.yaml"
    found = flatten({"data": yaml.safe_load(path.read_text(encoding="utf-8"))})
    return {key: value for key, value in found.items() if value != "???"}


def comments(name: str) -> dict[str, str]:
    """What conf/ says of each key, beside it or in the lines that go on below it.

    Of a group, what the option that is the default says comes first, then what its parts
    (_defaults) say, then any other option.
    """
    import yaml

    defaults = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    found = _comments_in(CONF / f"{name}.yaml", "")
    for entry in defaults:
        for group, option in entry.items() if isinstance(entry, dict) else ():
            folder = CONF / group
            if not folder.is_dir() or group == "experiment":
                continue
            first = [folder / f"{option}.yaml", folder / "_defaults.yaml"]
            for path in dict.fromkeys([*first, *sorted(folder.glob("*.yaml"))]):
                if path.is_file():
                    found = _comments_in(path, f"{group}.") | found
    return found


def _comments_in(path: Path, prefix: str) -> dict[str, str]:
    """Comments of one file by key, nested keys with dots."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    last = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        comment = re.match(r"\s+#\s?(.*)", line)
        if comment and last:
            found[last] = f"{found.get(last, '')} {comment[1].strip()}".strip()
            continue
        entry = re.match(r"(\s*)(\w+):(?:\s+([^#\s].*?))?(?:\s+#\s*(.*))?$", line)
        last = ""
        if not entry:
            continue
        indent, key, _, text = len(entry[1]), entry[2], entry[3], entry[4]
        parents = [(depth, name) for depth, name in parents if depth < indent]
        last = prefix + ".".join([name for _, name in parents] + [key])
        parents.append((indent, key))
        if text:
            found[last] = text.strip()
    return found
