"""Publish a run on the Hugging Face Hub: best.nemo and a model card with what
was measured. Without --push, only shows what would be uploaded.

    python recipes/publish.py outputs/demo/latest --repo me/parakeet-atc
    python recipes/publish.py outputs/mine/latest --repo me/parakeet-mine \\
        --push --public

Writes RUN_DIR/publish/: README.md (the card), the model under the repository's
name, and files.json. The report stays here: it holds your audio.
"""

import argparse
import sys
from pathlib import Path

from parakeet_ft.errors import exit_on_user_error
from parakeet_ft.publishing.hub import prepare, push


def parse(argv: list[str]) -> argparse.Namespace:
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
    folder, files, warnings = prepare(
        arguments.run_dir,
        repo=arguments.repo,
        licence=arguments.licence,
        base_model=arguments.base_model,
        language=arguments.language,
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{'Uploading' if arguments.push else 'Would upload'} to {arguments.repo}:")
    for name, size in files.items():
        print(f"  {name:<40} {size / 1e6:10.3f} MB")
    if arguments.push:
        print(
            f"done: {push(folder, repo=arguments.repo, files=list(files), public=arguments.public)}"
        )
    else:
        print(f"Nothing was uploaded. Read {folder / 'README.md'}, then add --push.")


if __name__ == "__main__":
    with exit_on_user_error():
        main(sys.argv[1:])
