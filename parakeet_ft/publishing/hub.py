"""A finished run to a folder fit for the Hugging Face Hub, and that folder to the Hub."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, write_json
from parakeet_ft.model.source import HUB_ID, check_archive
from parakeet_ft.publishing.model_card import (
    base_model_of,
    data_facts,
    licence_of,
    model_card,
    private_paths,
)


def prepare(
    run_dir: Path, *, repo: str, licence: str | None, base_model: str | None, language: str | None
) -> tuple[Path, dict[str, int], list[str]]:
    """Write run_dir/publish/ and return it, the bytes of each file that is for upload, and what to
    know before that.

    The model gets the repository's name, under which NeMo's from_pretrained looks for it. Raises
    UserError if the run is not finished, the licence or language is not known, or the card would
    name a path of this machine.
    """
    if not HUB_ID.fullmatch(repo):
        raise UserError(f"--repo {repo!r}: expected organisation/name, such as me/parakeet-mine.")
    report, run = (_read(run_dir / name) for name in ("report.json", "run.json"))
    model = run_dir / "best.nemo"
    if not model.is_file():
        raise UserError(
            f"No best.nemo in {run_dir}: expected the folder of a finished run, such as "
            f"outputs/demo/latest."
        )
    config, source = check_archive(model), run["config"]["model"]["source"]
    language = language or run["config"].get("evaluation", {}).get("language")
    if not language:
        raise UserError(
            "The run does not say which language it is of: give --language, such as en."
        )
    card = model_card(
        report,
        run,
        repo=repo,
        licence=licence_of(source, licence),
        base_model=base_model_of(source, base_model),
        language=language,
        data=data_facts(run["manifests"]),
    )
    if leaks := private_paths(card):
        raise UserError(
            f"The card would name paths of this machine: {', '.join(leaks[:5])}. Rename what holds "
            f"them (the experiment, say)."
        )
    warnings = [
        f"The configuration inside best.nemo has {key}={value}, a place of the machine that made "
        f"it, which nothing reads. If that must not be public: restore best.nemo in NeMo, set "
        f"model.cfg.{key} = '' within omegaconf's open_dict, model.save_to('{model}'), and "
        f"publish again."
        for key, value in places(config).items()
    ]
    folder = run_dir / "publish"
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_path(folder / "README.md") as path:
        path.write_text(card, encoding="utf-8")
    name = f"{repo.rpartition('/')[2]}.nemo"
    _link(model, folder / name)
    files = {name: (folder / name).stat().st_size for name in ("README.md", name)}
    write_json(folder / "files.json", {"repo": repo, "bytes": files})
    return folder, files, warnings


def places(config: Any, key: str = "") -> dict[str, str]:
    """Values of a model's configuration that are paths of a machine, by their dotted keys."""
    if isinstance(config, dict):
        parts = [(f"{key}.{name}" if key else str(name), part) for name, part in config.items()]
    elif isinstance(config, list):
        parts = [(f"{key}[{number}]", part) for number, part in enumerate(config)]
    else:
        return {key: config} if isinstance(config, str) and private_paths(config) else {}
    return {where: path for name, part in parts for where, path in places(part, name).items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"No {path.name} in {path.parent}: expected the folder of a finished run, such as "
            f"outputs/demo/latest."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): is it whole?") from None


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk has no hard links."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def push(folder: Path, *, repo: str, files: list[str], public: bool) -> str:
    """Make the repository, private unless `public`, if it does not exist, and upload `files` in one
    commit; returns its address.

    Raises UserError if the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(repo_id=repo, repo_type="model", private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="model",
            folder_path=str(folder),
            allow_patterns=files,
            commit_message="Model and card by parakeet-ft",
        )
    # huggingface_hub raises its own, httpx's and OSError; all mean that nothing, or not all, is
    # there
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{repo} was not published ({type(error).__name__}: {reason}). Check the network, that "
            f"`hf auth whoami` names you with a token that "
            "may write, and that the organisation lets you."
        ) from None
    return str(url)
