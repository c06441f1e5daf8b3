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
from parakeet_ft.files import atomic_path


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


def read_hypotheses(path: Path, *, key: str, num_utterances: int) -> dict[str, Any] | None:
    """What write_hypotheses wrote, or None if it was not written whole with this key. Texts and
    levels are lists, in the set's order.
    """
    facts_path = path.with_suffix(".json")
    if not (path.is_file() and facts_path.is_file()):
        return None
    facts = json.loads(facts_path.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if facts["key"] != key or len(rows) != num_utterances:
        return None
    return facts | {
        "texts": [row["pred_text"] for row in rows],
        "levels_dbfs": [row["level_dbfs"] for row in rows],
    }


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
    .json, the facts: they say that it is whole.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for utterance, text, level in zip(utterances, texts, levels_dbfs, strict=True):
            out.write(
                json.dumps(
                    json.loads(utterance.to_json()) | {"pred_text": text, "level_dbfs": level},
                    ensure_ascii=False,
                )
                + "\n"
            )
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(
            json.dumps({"key": key, **facts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


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
    found = read_hypotheses(path, key=key, num_utterances=len(utterances))
    if found:
        say.lines([f"{model} on {name}: already in {path}"])
        return found
    write_hypotheses(path, utterances, key=key, **transcribe(name, utterances))
    return read_hypotheses(path, key=key, num_utterances=len(utterances))
