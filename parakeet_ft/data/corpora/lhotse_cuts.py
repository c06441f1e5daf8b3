"""Lhotse cuts as JSON lines, plain or gzipped, whose recordings are files. Read as JSON: Lhotse itself would import torch."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parakeet_ft.data.corpora.folder import existing_file
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError


def read_lhotse_cuts(path: str | Path) -> Iterator[Utterance]:
    """Yield an utterance a supervision (times of Lhotse 1.33: a supervision begins relative to its cut, a cut relative to its recording).

    Mixed and padding cuts, commands, and audio in memory or archives, come as bad_row.
    """
    path = existing_file(path, what="Lhotse cut manifest (cuts.jsonl or cuts.jsonl.gz)")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield from _of_cut(json.loads(line), path.parent, number)
        except (json.JSONDecodeError, UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path} is not a Lhotse cut manifest ({error}). Expected JSON lines, as CutSet.to_file writes.") from None


def _of_cut(cut: dict[str, Any], folder: Path, number: int) -> Iterator[Utterance]:
    sources = cut.get("recording", {}).get("sources", [])
    if cut.get("type") not in ("MonoCut", "MultiCut") or len(sources) != 1 or sources[0].get("type") != "file":
        kinds = f"{cut.get('type', 'no type')} with audio in {', '.join(s.get('type', '?') for s in sources) or 'nothing'}"
        yield Utterance(audio_filepath=str(folder), duration=0.0, text="",
                        extra={"bad_row": f"line {number} is a {kinds}, expected a cut of one audio file"})
        return
    source = sources[0]["source"]
    # Lhotse takes relative paths from the working directory; a folder that was moved whole still has its audio beside the cuts.
    audio_path = os.path.abspath(source) if os.path.exists(source) else os.path.normpath(folder / source)
    for supervision in cut.get("supervisions", []):
        begin = cut.get("start", 0.0) + max(0.0, supervision.get("start", 0.0))
        end = min(cut.get("start", 0.0) + cut["duration"], cut.get("start", 0.0) + supervision["start"] + supervision["duration"])
        extra = {"id": supervision.get("id", cut.get("id"))} | ({"lang": supervision["language"]} if supervision.get("language") else {})
        yield Utterance(audio_filepath=audio_path, duration=max(0.0, end - begin), text=supervision.get("text") or "", offset=begin,
                        speaker=supervision.get("speaker"), extra=extra)
