"""conf/ and a command line to a plain dict, composed with Hydra; what --help shows of it."""

from __future__ import annotations

import difflib
import functools
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO, project_folder
from parakeet_ft.model.checkpoints import CHECKPOINTS, resolve
from parakeet_ft.settings import guards
from parakeet_ft.settings.rules import shown

CONF = project_folder("conf")
# Lines of conf/: a comment that goes on, and a key with its value and comment.
COMMENT = re.compile(r"\s+#\s?(.*)")
ENTRY = re.compile(r"(?P<indent>\s*)(?P<key>\w+):(?:\s+[^#\s].*?)?(?:\s+#\s*(?P<comment>.*))?$")

# Hydra's, those that make sense here.
OPTIONS = ("-h", "--help", "-m", "--multirun", "--cfg", "--resolve", "--info", "--hydra-help")


def bundled(path: str | None) -> str | None:
    """Resolve `bundled:x` to the package's demo data; other paths are returned as they are."""
    if path and path.startswith("bundled:"):
        return str(DEMO / path.removeprefix("bundled:"))
    return path


def options_of(group: str) -> list[str]:
    """Options of a config group; names with a leading underscore are parts of others."""
    return sorted(
        file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_")
    )


def groups(name: str = "finetune") -> list[str]:
    """The config groups that conf/<name>.yaml is made of."""
    named = (group.removeprefix("optional ") for group, _ in _defaults(name))
    return sorted(group for group in named if not group.startswith("override "))


def _defaults(name: str) -> list[tuple[str, str]]:
    """Group and option of each entry in the defaults of conf/<name>.yaml that has both."""
    import yaml

    content = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    entries = (entry for entry in content["defaults"] if isinstance(entry, dict))
    return [pair for entry in entries for pair in entry.items()]


def _given(overrides: list[str]) -> dict[str, str]:
    """Values by key of settings as they are typed."""
    cells = [override.partition("=") for override in overrides]
    return {key.lstrip("+~"): value for key, _, value in cells}


def hydra_quoted(text: str) -> str:
    """A text as a value on Hydra's command line, also inside a list: quoted unless it is plainly a
    path (grammar of Hydra 1.3: backslashes are doubled before quotes only).
    """
    if "/" in text and re.fullmatch(r"[\w./:@%+-]+", text, re.ASCII):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


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
    real job; a budget of hours or steps replaces that of epochs; guards have names of one's own.
    """
    given = _given(overrides)
    out = [_guard_added(_model_by_source(override)) for override in overrides]
    if "data" not in given and ("data.train" in given or "data.validation" in given):
        out.insert(0, "data=manifests")
    return out + _budgets_replaced(given)


def _model_by_source(override: str) -> str:
    """A setting; `model=...` that names no option of the group as model.source=..."""
    key, _, value = override.partition("=")
    if key == "model" and value not in options_of("model"):
        return f"model.source='{_source(value)}'"
    return override


def _guard_added(override: str) -> str:
    """A setting; one of data.guards as one that adds its key where conf/ has none, and a replay by
    its manifest, so that its ratio may be given beside it.
    """
    key, equals, value = override.partition("=")
    plain = key.lstrip("+")
    if not equals or not f"{plain}.".startswith("data.guards."):
        return override
    if plain.endswith(".replay") and value != "null" and not value.startswith("{"):
        plain = f"{plain}.manifest"
    return f"++{plain}={value}"


def _budgets_replaced(given: dict[str, str]) -> list[str]:
    """Settings that switch off the budgets beside the given one. Raises UserError for two."""
    keys = ("budget.epochs", "budget.hours", "budget.steps")
    budgets = [key for key in keys if given.get(key, "null") != "null"]
    if not budgets:
        return []
    if len(budgets) > 1:
        raise UserError(
            f"{' and '.join(budgets)} are both given; a run has one budget: keep one of them."
        )
    return [f"{key}=null" for key in keys if key not in given]


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
    found = {}
    for name, child in config.items():
        found.update(flatten(child, f"{prefix}.{name}" if prefix else name))
    return found


def compose(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose conf/<name>.yaml with Hydra into a plain dict. Raises UserError for unknown groups,
    options, keys and wrong types.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    @functools.cache  # each takes a fifth of a second
    def composed_of(*given: str) -> Any:
        return hydra_compose(name, list(given))

    options = [override for override in overrides if override.partition("=")[0] in groups(name)]
    _check_options(options)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = _keys(composed_of, options)
        names = [*keys, *groups(name)]
        if "data.guards" in keys:
            names += [f"data.guards.NAME.{key}" for key in guards.KEYS]
        for override in overrides:
            if not override.startswith("hydra") and override not in options:
                _check_key(override, keys, names)
        return _resolved(composed_of, overrides)


def _check_options(overrides: list[str]) -> None:
    """Raise UserError unless each `group=option` names an option that the group has."""
    for override in overrides:
        group, _, option = override.partition("=")
        if option not in options_of(group):
            raise UserError(
                f"{group}={option}: no such option. {_nearest(option, options_of(group))}"
            )


def _keys(composed_of: Callable[..., Any], options: list[str]) -> list[str]:
    """The keys that there are with these options. Raises UserError for one that only the file of an
    experiment has: Hydra lets it add any.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def keys_with(given: list[str]) -> list[str]:
        """The keys that there are with these options."""
        return list(flatten(OmegaConf.to_container(composed_of(*given), resolve=False)))

    try:
        keys = keys_with(options)
        known = keys_with([o for o in options if not o.startswith("experiment=")])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"The configuration does not compose: {error}") from None
    # The names of guards are one's own; settings check what stands below them.
    named = {key for key in keys if key.startswith("data.guards.")}
    for key in set(keys) - set(known) - named:
        raise UserError(f"conf/experiment sets the unknown key {key!r}. {_nearest(key, known)}")
    return keys


def _check_key(override: str, keys: list[str], names: list[str]) -> None:
    """Raise UserError unless a setting names a key, or a part that holds some."""
    key, equals, _ = override.partition("=")
    plain = key.lstrip("+~")
    if not equals and not key.startswith("~"):
        raise UserError(
            f"{override!r} is not a setting; expected key=value, such as budget.steps=100. "
            f"{_nearest(plain, names)}"
        )
    if plain.startswith("data.guards.") and not key.startswith("~"):
        guard, _, part = plain.removeprefix("data.guards.").partition(".")
        guards.check_name(guard)
        if part:
            guards.check_key(guard, part)
        return
    if plain not in keys and not any(known.startswith(f"{plain}.") for known in keys):
        raise UserError(f"Unknown key {plain!r}. {_nearest(plain, names)}")


def _resolved(composed_of: Callable[..., Any], overrides: list[str]) -> dict[str, Any]:
    """The whole configuration. Raises UserError for a value that is missing or cannot be used."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        config = composed_of(*overrides)
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key or "")
        example = "data/mine/dev.jsonl" if key.startswith("data.") else "VALUE"
        raise UserError(f"{key} is missing. Give it as {key}={example}.") from None
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "") or "A value"
        raise UserError(f"{key} cannot be used: {str(error).splitlines()[0]}") from None
    except HydraException as error:
        words = " ".join(str(error).split())
        raise UserError(f"The command line cannot be read: {words}") from None


def _nearest(word: str, known: list[str]) -> str:
    """The nearest valid names, compared whole and by last part, so that `lr` finds `optim.lr`."""
    tail = word.rpartition(".")[2]
    by_tail = [name for name in known if name.rpartition(".")[2] == tail]
    alike = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    near = list(dict.fromkeys([*by_tail, *alike]))[:3]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if len(known) < 30:
        return f"Valid: {', '.join(sorted(known))}."
    return "`--help` lists them."


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
    found = _comments_in(CONF / f"{name}.yaml", "")
    for group, option in _defaults(name):
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
        comment = COMMENT.match(line)
        if comment and last:
            found[last] = f"{found.get(last, '')} {comment[1].strip()}".strip()
            continue
        entry = ENTRY.match(line)
        last = ""
        if not entry:
            continue
        indent = len(entry["indent"])
        parents = [(depth, name) for depth, name in parents if depth < indent]
        parents.append((indent, entry["key"]))
        last = prefix + ".".join(name for _, name in parents)
        if entry["comment"]:
            found[last] = entry["comment"].strip()
    return found
