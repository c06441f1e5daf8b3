"""What `prepare` kept -> shards of each split, without a file for each utterance on the way.

The splits are known once all audio was measured, so audio is decoded twice: to be measured, and to
be encoded into the shard that it belongs to. A worker holds one utterance in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from parakeet_ft.data import audio
from parakeet_ft.data.audio_file import KaldiPipe, Member
from parakeet_ft.data.ledger import Ledger
from parakeet_ft.data.manifest import LineFiles, Utterance
from parakeet_ft.data.prepare import (
    AudioJob,
    AudioStage,
    Source,
    as_written,
    audio_job,
    changed,
    kept_line,
    rows_and_sources,
)
from parakeet_ft.data.shard_notes import remove_shards
from parakeet_ft.data.shards import write_shards
from parakeet_ft.data.splits import SPLITS
from parakeet_ft.errors import UserError

# Audio of another length than was measured, in seconds, is other audio.
SAME_SECONDS = 1e-3


def check_folder(out: Path, *, shards: bool) -> None:
    """Raise UserError if a folder holds what a run with or without --shards wrote, and this is not
    one: a reader could not tell which of the two is meant.
    """
    for split in SPLITS:
        manifest, folder = out / f"{split}.jsonl", out / split
        if shards and manifest.exists():
            raise UserError(
                f"{manifest} is of a run without --shards: expected another --out, or "
                f"`python data_prep/shard.py {manifest} --out DIR`, which writes shards of it."
            )
        if not shards and (folder / "shards.json").exists():
            raise UserError(f"{folder} holds shards, of a run with --shards: give another --out.")


def write_shards_of_splits(
    source: Source,
    ledger: Ledger,
    *,
    root: Path,
    out: Path,
    stage: AudioStage,
    hours: float,
    executor: Callable[[], Executor],
    window: int,
    on_progress: Callable[[int, float], None],
) -> list[str]:
    """Write OUT/<split>/ of all splits; shards that an earlier run finished are kept. Returns the
    splits. Raises UserError for audio that is not as it was measured.
    """
    out = Path(os.path.abspath(out))
    lists = out / ".lists"
    names = _write_lists(source, ledger, lists=lists, root=root, out=out, stage=stage)
    for gone in set(SPLITS) - set(names):
        if (out / gone / "shards.json").exists():
            remove_shards(out / gone)
    for name in names:
        write_shards(
            lists / f"{name}.jsonl",
            out=out / name,
            hours=hours,
            executor=executor,
            window=window,
            encode=encode_job,
            on_progress=on_progress,
        )
    shutil.rmtree(lists)
    return names


def _write_lists(
    source: Source, ledger: Ledger, *, lists: Path, root: Path, out: Path, stage: AudioStage
) -> list[str]:
    """LISTS/<split>.jsonl: the lines that manifests would have, each with its job in the place of
    the audio's path. Returns the splits.
    """
    shutil.rmtree(lists, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        files = LineFiles(lists, stack)
        for row, given in rows_and_sources(ledger, source):
            if row.reason is None:
                job = audio_job(given, root=root, out=out, stage=stage)
                if job.target != row.utterance.audio_filepath:
                    raise changed()
                path = _as_text(job, row.measured.samples_hash)
                extra = {"source": _name_in(root, given)} | row.utterance.extra
                utterance = dataclasses.replace(
                    row.utterance, audio_filepath=path, offset=0.0, extra=extra
                )
                files.write(row.split, kept_line(utterance, out))
    return sorted(files.files)


def _name_in(root: Path, given: Utterance) -> str:
    """What an utterance's audio is called in its corpus; bytes that are no UTF-8 are escaped."""
    name = given.audio_filepath
    if given.pipe is None and given.member is None:
        name = os.path.relpath(name, root)
    return name.encode("utf-8", "backslashreplace").decode()


def _as_text(job: AudioJob, samples_hash: str) -> str:
    """A job as JSON. The hash makes the lists of other audio other lists, so that finished shards
    are only kept for the same; bytes of a path that are no UTF-8 are escaped.
    """
    fields: dict[str, Any] = dataclasses.asdict(job) | {"samples_hash": samples_hash}
    for needless in ("key", "target"):
        del fields[needless]
    return json.dumps(fields)


def _from_text(text: str) -> AudioJob:
    """The job of `_as_text`."""
    fields = json.loads(text)
    pipe, member = fields["pipe"], fields["member"]
    return AudioJob(
        key="",
        path=fields["path"],
        offset=fields["offset"],
        duration=fields["duration"],
        target=None,
        stage=AudioStage(**fields["stage"]),
        pipe=KaldiPipe(**pipe) if pipe else None,
        member=Member(**member) if member else None,
    )


def encode_job(utterance: Utterance, folder: str) -> tuple[bytes, str, float]:
    """(FLAC, suffix, seconds) of the job in the place of an utterance's path. Raises UserError."""
    job = _from_text(utterance.audio_filepath)
    samples, rate_hz = audio.decode(
        job.pipe or job.member or job.path, offset=job.offset, duration=job.duration or None
    )
    out_hz = job.stage.rate_hz
    mono16 = as_written(samples, rate_hz, out_hz, job.stage)
    seconds = len(mono16) / out_hz
    if abs(seconds - utterance.duration) > SAME_SECONDS:
        raise UserError(
            f"{job.pipe or job.member or job.path} has {seconds:.3f} s, and had "
            f"{utterance.duration:.3f} s when it was measured: it changed meanwhile. Start the "
            "same command again."
        )
    return audio.flac(mono16, rate_hz=out_hz), ".flac", seconds
