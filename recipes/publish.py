"""Publish a run on the Hugging Face Hub: best.nemo and a model card with what
was measured. Without --push, only shows what would be uploaded.

    python recipes/publish.py outputs/demo/latest --repo me/parakeet-atc \\
        --exports exported --space me/parakeet-atc-demo
    python recipes/publish.py outputs/mine/latest --repo me/parakeet-mine \\
        --push --public

Writes RUN_DIR/publish/: README.md (the card), the model under the repository's
name, frontier.svg (what was gained against what was forgotten), the formats
that recipes/export.py wrote, and files.json. The report stays here: it holds
your audio. --space writes RUN_DIR/space/ too: the page of recipes/demo_ui.py as
a Hugging Face Space, which runs here as well (python app.py).
"""

import argparse
import sys
from pathlib import Path

from parakeet_ft.errors import exit_on_user_error
from parakeet_ft.publishing.hub import Folder, prepare, push


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="folder of a finished run")
    parser.add_argument("--repo", required=True, help="where to: organisation/name")
    parser.add_argument("--licence", "--license", help="default: that of the base, if it is known")
    parser.add_argument(
        "--base-model", help="hub id of the base, where the run began from a local file"
    )
    parser.add_argument(
        "--language", help="language code such as en; default: the run's evaluation.language"
    )
    parser.add_argument(
        "--exports",
        type=Path,
        metavar="DIR",
        help="the --out of recipes/export.py: its formats of this model are published too",
    )
    parser.add_argument(
        "--example",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a recording that anybody may hear, for the widget; may be repeated",
    )
    parser.add_argument(
        "--space", metavar="NAME", help="a Space to show it: organisation/name; default: none"
    )
    parser.add_argument(
        "--push", action="store_true", help="upload; without it nothing leaves this machine"
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="let everybody read a repository that --push makes; default: private",
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    model, space = prepare(
        arguments.run_dir,
        repo=arguments.repo,
        licence=arguments.licence,
        base_model=arguments.base_model,
        language=arguments.language,
        exports=arguments.exports,
        examples=arguments.example,
        space=arguments.space,
    )
    for warning in model.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    show(model, arguments.repo, push=arguments.push)
    if space:
        show(space, f"the Space {arguments.space}", push=arguments.push)
    if not arguments.push:
        print(f"Nothing was uploaded. Read {model.path / 'README.md'}, then add --push.")
        return
    print(f"done: {push(model, repo=arguments.repo, public=arguments.public)}")
    if space:
        url = push(space, repo=arguments.space, public=arguments.public, kind="space")
        print(f"done: {url}")


def show(folder: Folder, where: str, *, push: bool) -> None:
    """What is, or would be, uploaded; of the package in a Space only the sum."""
    print(f"{'Uploading' if push else 'Would upload'} to {where}:")
    sizes = dict.fromkeys((_shown(name) for name in folder.files), 0)
    for name, size in folder.files.items():
        sizes[_shown(name)] += size
    for name, size in sizes.items():
        print(f"  {name:<40} {size / 1e6:10.3f} MB")


def _shown(name: str) -> str:
    """A file, or the package's folder for what is in it."""
    return "parakeet_ft/" if name.startswith("parakeet_ft/") else name


if __name__ == "__main__":
    with exit_on_user_error():
        main(sys.argv[1:])
