"""What a model made of a set, kept in a folder, so that the same question is never asked of a
model twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.files import atomic_path, misfit, read_json, write_json


def key_of(**identity: Any) -> str:
    """A hash of all that decides the texts; values are plain data."""
    return hashlib.sha256(
        json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


def set_hash(utterances: Sequence[Utterance]) -> str:
    """The identity of a set: its utterances in their order."""
    return hashlib.sha256(
        "\n".join(u.to_json() for u in utterances).encode("utf-8", "surrogateescape")
    ).hexdigest()


def path_of(folder: Path, *, model: str, name: str, key: str) -> Path:
    """Where the hypotheses are: a file is named by model, set and the first eight digits of the
    key.
    """
    return folder / f"{model.replace('/', '-')}--{name.replace('/', '-')}--{key[:8]}.jsonl"


def _digest(rows: bytes, facts: dict[str, Any]) -> str:
    """A hash of the texts and of what is said of them."""
    return hashlib.sha256(rows + json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_hypotheses(path: Path, *, key: str) -> dict[str, Any] | None:
    """What write_hypotheses wrote, or None if nothing was written with this key. Texts and levels
    are lists, in the set's order. Raises ValueError if a file is damaged or was changed since.
    """
    facts_path = path.with_suffix(".json")
    if not facts_path.exists():
        return None
    facts = _read_facts(facts_path)
    if facts["key"] != key:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    told = {name: fact for name, fact in facts.items() if name != "sha256"}
    if _digest(content, told) != facts["sha256"]:
        raise ValueError("it was changed after it was written (its checksum differs)")
    rows = [json.loads(line) for line in content.decode("utf-8").splitlines()]
    return facts | {
        "texts": [row["pred_text"] for row in rows],
        "levels_dbfs": [row["level_dbfs"] for row in rows],
    }


def _read_facts(path: Path) -> dict[str, Any]:
    """What is said of hypotheses. Raises ValueError if the file is damaged."""
    try:
        facts = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if problem := misfit(facts, {"key": str, "sha256": str}):
        raise ValueError(f"{path.name} is damaged: {problem}")
    return facts


def write_hypotheses(
    path: Path,
    utterances: Sequence[Utterance],
    *,
    key: str,
    texts: Sequence[str],
    levels_dbfs: Sequence[float],
    **facts: Any,
) -> None:
    """Write a manifest with `pred_text`, as NeMo names it, and level_dbfs; then, beside it as
    .json, the facts: they say that it is whole, and its hash that it stays as it is.
    """
    lines = []
    for utterance, text, level in zip(utterances, texts, levels_dbfs, strict=True):
        row = json.loads(utterance.to_json()) | {"pred_text": text, "level_dbfs": level}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    content = "".join(lines).encode()
    facts = json.loads(json.dumps({"key": key, **facts}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    write_json(path.with_suffix(".json"), facts | {"sha256": _digest(content, facts)})


def once(
    folder: Path,
    utterances: Sequence[Utterance],
    *,
    model: str,
    name: str,
    identity: dict[str, Any],
    transcribe: Callable[[str, Sequence[Utterance]], dict[str, Any]],
    say: Any,
) -> dict[str, Any]:
    """What `transcribe` returns for the set `name`, from the folder if the same model decoded the
    same set in the same way before.
    """
    key = key_of(set=set_hash(utterances), **identity)
    path = path_of(folder, model=model, name=name, key=key)
    try:
        found = read_hypotheses(path, key=key)
    except ValueError as error:
        found = None
        say.lines([f"{model} on {name}: {path} is not used, and decoded again: {error}"])
    if found:
        say.lines([f"{model} on {name}: already in {path}"])
        return found
    write_hypotheses(path, utterances, key=key, **transcribe(name, utterances))
    written = read_hypotheses(path, key=key)
    assert written is not None
    return written
