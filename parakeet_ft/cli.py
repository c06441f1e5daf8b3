"""`parakeet-ft COMMAND`: the recipes and the data-preparation scripts, for whoever has no clone.

Each command runs the script of its name, as `python recipes/finetune.py` does.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
import textwrap
from pathlib import Path

from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.files import project_folder


def scripts(folder: str) -> dict[str, Path]:
    """Scripts by the name of their command: demo_ui.py is demo-ui."""
    return {
        path.stem.replace("_", "-"): path
        for path in sorted(project_folder(folder).glob("[!_]*.py"))
    }


# Another name of a command.
ALIASES = {"demo": "finetune"}


def first_sentence(path: Path) -> str:
    """What a script says that it does; the script is read, not run."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split())


def listing(title: str, commands: dict[str, Path]) -> str:
    """Commands with what they do, one a line."""
    width = max(map(len, commands))
    room = 80 - width - 4
    lines = [
        f"  {name:<{width}}  {textwrap.shorten(first_sentence(path), room, placeholder=' ...')}"
        for name, path in commands.items()
    ]
    return "\n".join([title, *lines])


def find_script(words: list[str]) -> tuple[Path | None, list[str]]:
    """The script that a command line names and the arguments that are left for it.

    None where help was asked for. Raises UserError for an unknown command.
    """
    name, *rest = words or ["--help"]
    known = scripts("recipes")
    known |= {alias: known[of] for alias, of in ALIASES.items()}
    if name == "data-prep":
        known = scripts("data_prep")
        name, *rest = rest or ["--help"]
        name = name.replace("_", "-")
    if name in ("-h", "--help"):
        return None, rest
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "data-prep"], n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"Unknown command {name!r}. {hint}Expected one of {', '.join(known)}.")
    return known[name], rest


def main() -> None:
    """The console script."""
    with exit_on_user_error():
        script, arguments = find_script(sys.argv[1:])
        if script is None:
            print("parakeet-ft COMMAND [ARGUMENTS], or parakeet-ft COMMAND --help\n")
            print(listing("Commands:", scripts("recipes")))
            print("  demo is finetune with the bundled model and data: minutes on a CPU")
            print(listing("\nparakeet-ft data-prep COMMAND [ARGUMENTS]:", scripts("data_prep")))
            return
    sys.argv = [str(script), *arguments]
    with exit_on_user_error():  # what a script imports may not be there
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
