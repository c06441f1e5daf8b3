"""A finished run to a folder fit for the Hugging Face Hub, and that folder to the Hub."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.export.record import exports_of
from parakeet_ft.files import atomic_path, write_json
from parakeet_ft.model.archive import check_archive, check_weights
from parakeet_ft.model.source import HUB_ID
from parakeet_ft.publishing.model_card import (
    base_model_of,
    data_facts,
    licence_of,
    model_card,
    private_paths,
)
from parakeet_ft.publishing.records import REPORT, RUN, check_report, check_unchanged, read
from parakeet_ft.publishing.space import check_name, write_space
from parakeet_ft.report.frontier import frontier, standalone
from parakeet_ft.scoring import forgotten

PICTURE = "frontier.svg"


@dataclasses.dataclass(frozen=True)
class Folder:
    """What is for upload: its files with their bytes, and what to know before that."""

    path: Path
    files: dict[str, int]
    warnings: tuple[str, ...] = ()


def prepare(
    run_dir: Path,
    *,
    repo: str,
    licence: str | None,
    base_model: str | None,
    language: str | None,
    exports: Path | None = None,
    examples: Sequence[Path] = (),
    space: str | None = None,
) -> tuple[Folder, Folder | None]:
    """Write run_dir/publish/ and, if `space` names one, run_dir/space/.

    exports: the OUT of recipes/export.py, whose formats are published too; examples: recordings
    that anybody may hear.

    The model gets the repository's name, under which NeMo's from_pretrained looks for it. Raises
    UserError if the run is not finished, the licence or language is not known, or the card would
    name a path of this machine.
    """
    if not HUB_ID.fullmatch(repo):
        raise UserError(f"--repo {repo!r}: expected organisation/name, such as me/parakeet-mine.")
    report = read(run_dir / "report.json", REPORT)
    run = read(run_dir / "run.json", RUN)
    if run.get("finished") is False:
        raise UserError(f"The run in {run_dir} is not finished: give its command again.")
    model = run_dir / "best.nemo"
    if not model.is_file():
        raise UserError(
            f"No best.nemo in {run_dir}: expected the folder of a finished run, such as "
            f"outputs/demo/latest."
        )
    check_unchanged(run_dir, run.get("files"))
    check_report(report, run_dir / "report.json")
    if space is not None:
        check_name(space, repo)
    config = check_archive(model)
    check_weights(model)
    formats = [e for e in exports_of(exports, model) if e.target != "nemo"] if exports else []
    recordings = _recordings(examples)
    picture = _picture(report)
    card = _card(
        report,
        run,
        repo=repo,
        licence=licence,
        base_model=base_model,
        language=language,
        exports=formats,
        examples=list(recordings),
        space=space,
        picture=PICTURE if picture else None,
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
    for file, text in (("README.md", card), (PICTURE, picture)):
        if text:
            with atomic_path(folder / file) as path:
                path.write_text(text, encoding="utf-8")
    linked = {f"{repo.rpartition('/')[2]}.nemo": model} | recordings
    if exports:
        linked |= {name: exports / name for export in formats for name in export.files}
    for name, source in linked.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link(source, folder / name)
    names = ["README.md", *([PICTURE] if picture else []), *linked]
    files = {name: (folder / name).stat().st_size for name in names}
    write_json(folder / "files.json", {"repo": repo, "bytes": files})
    published = Folder(folder, files, tuple(warnings))
    return published, _space(run_dir, run, space, repo, licence, base_model)


def _space(
    run_dir: Path,
    run: dict[str, Any],
    space: str | None,
    repo: str,
    licence: str | None,
    base_model: str | None,
) -> Folder | None:
    """The folder of the Space, if there is to be one."""
    if space is None:
        return None
    source = run["config"]["model"]["source"]
    folder = run_dir / "space"
    files = write_space(
        folder,
        space=space,
        repo=repo,
        base_model=base_model_of(source, base_model),
        licence=licence_of(source, licence),
    )
    return Folder(folder, files)


def _picture(report: dict[str, Any]) -> str:
    """The frontier as an SVG file; "" for a run without guards."""
    drawn = frontier(report.get("candidates") or [], tolerances=forgotten.tolerances(report))
    return standalone(drawn) if drawn else ""


def _recordings(examples: Sequence[Path]) -> dict[str, Path]:
    """Recordings by the name that they are published under. Raises UserError for what is none."""
    from parakeet_ft.data import audio

    found = {f"examples/{path.name}": path for path in examples}
    if len(found) < len(examples):
        raise UserError("Two files given with --example have the same name: rename one.")
    for path in examples:
        if not re.fullmatch(r"[\w.-]+", path.name):
            raise UserError(f"--example {path}: expected a name of letters, digits, '-', '_', '.'.")
        try:
            audio.probe(str(path))
        except audio.AudioError as error:
            raise UserError(f"--example {path}: {error}") from None
    return found


def _card(
    report: dict[str, Any],
    run: dict[str, Any],
    *,
    repo: str,
    licence: str | None,
    base_model: str | None,
    language: str | None,
    **parts: Any,
) -> str:
    """The card, with further `parts` of model_card. Raises UserError if language or licence are
    not known, or it would name a path.
    """
    language = language or run["config"].get("evaluation", {}).get("language")
    if not language:
        raise UserError(
            "The run does not say which language it is of: give --language, such as en."
        )
    source = run["config"]["model"]["source"]
    card = model_card(
        report,
        run,
        repo=repo,
        licence=licence_of(source, licence),
        base_model=base_model_of(source, base_model),
        language=language,
        data=data_facts(run["manifests"]),
        **parts,
    )
    if leaks := private_paths(card):
        raise UserError(
            f"The card would name paths of this machine: {', '.join(leaks[:5])}. Rename what holds "
            f"them (the experiment, say)."
        )
    return card


def places(config: Any, key: str = "") -> dict[str, str]:
    """Values of a model's configuration that are paths of a machine, by their dotted keys."""
    found: dict[str, str] = {}
    if isinstance(config, dict):
        for name, part in config.items():
            found |= places(part, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list):
        for number, part in enumerate(config):
            found |= places(part, f"{key}[{number}]")
    elif isinstance(config, str) and private_paths(config):
        found[key] = config
    return found


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk has no hard links."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def push(folder: Folder, *, repo: str, public: bool, kind: str = "model") -> str:
    """Make the repository, private unless `public`, if it does not exist, and upload the files in
    one commit; returns its address. kind: model or space.

    Raises UserError if the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(
            repo_id=repo,
            repo_type=kind,
            private=not public,
            exist_ok=True,
            space_sdk="gradio" if kind == "space" else None,
        )
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=str(folder.path),
            allow_patterns=list(folder.files),
            commit_message=f"{kind.capitalize()} by parakeet-ft",
        )
    # huggingface_hub raises its own, httpx's and OSError; all mean that nothing, or not all, is
    # there
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{repo} was not published ({type(error).__name__}: {reason}). Check the network, that "
            "`hf auth whoami` names you with a token that may write, and that the organisation "
            "lets you."
        ) from None
    return str(url)
