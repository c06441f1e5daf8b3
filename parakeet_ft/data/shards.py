"""Manifest -> tar shards of about equal length: NeMo's tarred layout, or Lhotse Shar."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import io
import itertools
import json
import math
import os
import random
import shutil
import struct
import tarfile
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from parakeet_ft.data import audio, shard_notes
from parakeet_ft.data.manifest import Utterance, parse_line
from parakeet_ft.data.parallel import map_chunks
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, file_hash

if TYPE_CHECKING:
    from lhotse import MonoCut, Recording

# Files of these kinds go into a shard byte for byte when the utterance is the whole file:
# libsndfile, which NeMo reads shards with, knows them.
COPIED = frozenset((".flac", ".wav", ".ogg", ".opus", ".mp3"))
FORMATS = ("nemo", "shar")
# (utterance as its manifest has it, folder of that) -> (bytes, suffix, seconds) of its audio.
Encode = Callable[[Utterance, str], tuple[bytes, str, float]]


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to write: byte offsets of its lines in the manifest, in the order of the shard."""

    number: int
    manifest: str
    offsets: tuple[int, ...]
    out: str
    format: str


def plan_shards(
    manifest: str | os.PathLike, *, out: Path, hours: float, format: str, seed: int = 0
) -> list[Shard]:
    """Deal the lines of a manifest, shuffled, to shards of about `hours`: the longest next to the
    shard that is shortest so far.

    Holds 20 bytes an utterance. Raises UserError for a manifest without utterances.
    """
    if format not in FORMATS:
        raise UserError(f"The format is {format!r}, expected {' or '.join(FORMATS)}.")
    offsets, durations = array("Q"), array("f")
    try:
        with open(manifest, "rb") as lines:
            at = 0
            for number, line in enumerate(lines, 1):
                if line.strip():
                    offsets.append(at)
                    durations.append(
                        parse_line(
                            line.decode("utf-8", "replace"), f"{manifest} line {number}"
                        ).duration
                    )
                at += len(line)
    except OSError as error:
        raise UserError(f"Cannot read the manifest {manifest}: {error.strerror}.") from None
    if not offsets:
        raise UserError(f"{manifest} holds no utterance.")
    num_shards = max(1, math.ceil(sum(durations) / 3600 / hours - 1e-9))
    num_shards = min(num_shards, len(offsets))  # none is empty
    order = sorted(range(len(offsets)), key=lambda i: -durations[i])
    heap = [(0.0, number) for number in range(num_shards)]
    lines_of = [array("Q") for _ in range(num_shards)]
    for index in order:
        seconds, number = heapq.heappop(heap)
        lines_of[number].append(offsets[index])
        heapq.heappush(heap, (seconds + durations[index], number))
    shards = []
    for number, chosen in enumerate(lines_of):
        shuffled = list(chosen)
        random.Random(f"{seed} {number}").shuffle(shuffled)
        shards.append(Shard(number, os.path.abspath(manifest), tuple(shuffled), str(out), format))
    return [shard for shard in shards if shard.offsets]


def write_shards(
    manifest: str | os.PathLike,
    *,
    out: Path,
    hours: float = 1.0,
    format: str = "nemo",
    seed: int = 0,
    executor: Callable[[], Executor],
    window: int = 4,
    encode: Encode | None = None,
    on_progress: Callable[[int, float], None] = lambda count, seconds: None,
) -> dict:
    """Write all shards; those that an earlier run with the same manifest and options finished are
    kept. Returns what shards.json of the NeMo layout holds. `encode`: where the audio comes from,
    if not from the files that the manifest names.

    Raises UserError naming the utterance whose audio cannot be read.
    """
    out = Path(os.path.abspath(out))
    shards = plan_shards(manifest, out=out, hours=hours, format=format, seed=seed)
    options = {
        "manifest_sha256": file_hash(Path(manifest)),
        "hours": hours,
        "format": format,
        "seed": seed,
    }
    # By the way to it, so that both can be moved.
    place = os.path.relpath(manifest, out)
    with shard_notes.claimed(out, {"manifest": place} | options):
        # Said before the first shard is there, so that a part is never read as the whole.
        _describe(out, options, [{"number": shard.number} for shard in shards])
        done = {}
        for shard in shards:
            if (known := shard_notes.finished(out, shard.number)) is not None:
                done[shard.number] = known
                on_progress(len(shard.offsets), known["seconds"])
        for chunk, results in map_chunks(
            functools.partial(write_chunk, encode=encode or encoded),
            [[shard] for shard in shards if shard.number not in done],
            executor=executor,
            window=window,
            crashed=lambda shard: {"error": f"Writing shard {shard.number} killed its process."},
        ):
            if "error" in results[0]:
                raise UserError(results[0]["error"])
            done[chunk[0].number] = results[0]
            on_progress(len(chunk[0].offsets), results[0]["seconds"])
        finished = [done[number] for number in sorted(done)]
        if format == "nemo":
            _write_whole_manifest(out, sorted(done))
        _describe(out, options, finished)
    return options | {"shards": finished}


def _describe(out: Path, options: dict, shards: list[dict]) -> None:
    """Write shards.json, which says how many shards belong together; that of a Shar beside it."""
    folder = shard_notes.notes_of(out) if options["format"] == "shar" else out
    with atomic_path(folder / "shards.json") as temporary:
        temporary.write_text(json.dumps(options | {"shards": shards}, indent=1) + "\n")


def _files_of(out: Path, number: int) -> list[Path]:
    """The files of a shard in NeMo's layout: its tar, its lines, and an index of each."""
    tar = out / f"audio_{number}.tar"
    lines = out / "sharded_manifests" / f"manifest_{number}.json"
    return [tar, lines, Path(f"{tar}.idx"), Path(f"{lines}.idx")]


def write_chunk(shards: list[Shard], *, encode: Encode) -> list[dict]:
    """For a worker: errors come back as a message."""
    found = []
    for shard in shards:
        out = Path(shard.out)
        shard_notes.forget(out, shard.number)
        try:
            write = {"nemo": write_nemo_shard, "shar": write_shar_shard}[shard.format]
            result, files = write(shard, encode)
            shard_notes.note_finished(out, result, files)
        except UserError as error:
            result = {"error": str(error)}
        found.append(result)
    return found


def read_lines(shard: Shard) -> Iterator[Utterance]:
    """The utterances of a shard as the manifest has them."""
    with open(shard.manifest, "rb") as lines:
        for offset in shard.offsets:
            lines.seek(offset)
            yield parse_line(
                lines.readline().decode("utf-8", "replace"), f"{shard.manifest} byte {offset}"
            )


def encoded(utterance: Utterance, folder: str) -> tuple[bytes, str, float]:
    """(bytes, suffix, seconds) of an utterance's audio: the file as it is, or its part as FLAC at
    the file's rate. Raises AudioError.
    """
    path = os.path.normpath(os.path.join(folder, utterance.audio_filepath))
    suffix = Path(path).suffix.lower()
    info = audio.probe(path)
    if suffix in COPIED and not utterance.offset and abs(info.duration - utterance.duration) < 0.01:
        return Path(path).read_bytes(), suffix, info.duration
    samples, rate_hz = audio.decode(path, offset=utterance.offset, duration=utterance.duration)
    return audio.flac(audio.to_int16(samples), rate_hz=rate_hz), ".flac", len(samples) / rate_hz


def write_nemo_shard(shard: Shard, encode: Encode) -> tuple[dict, list[Path]]:
    """audio_N.tar, sharded_manifests/manifest_N.json and an offset index of each; returns what
    describes them, and their paths.

    Layout of NeMo 3.0.0 (nemo/collections/common/data/lhotse/nemo_adapters.py,
    LazyNeMoTarredIterator): the manifest's audio_filepath is the member's name, shard_id its shard;
    index as of indexed_adapters.py, create_index and create_tar_index. The same input gives the
    same bytes.
    """
    out, folder = Path(shard.out), os.path.dirname(shard.manifest)
    tar_path, manifest_path, *_ = files = _files_of(out, shard.number)
    seconds = 0.0
    lines = []
    offsets = []
    with (
        atomic_path(tar_path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for number, utterance in enumerate(read_lines(shard)):
            data, suffix, duration = encode(utterance, folder)
            member = tarfile.TarInfo(f"{shard.number}_{number:06d}{suffix}")
            member.size = len(data)
            offsets.append(tar.offset)
            tar.addfile(member, io.BytesIO(data))
            seconds += duration
            lines.append(_member_line(utterance, member.name, duration, shard.number))
    _write_index(offsets, tar_path)
    with atomic_path(manifest_path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    lengths = (len(line.encode()) for line in lines[:-1])
    _write_index(list(itertools.accumulate(lengths, initial=0)), manifest_path)
    described = {
        "number": shard.number,
        "utterances": len(lines),
        "seconds": round(seconds, 3),
        "tar": tar_path.name,
        "manifest": f"sharded_manifests/{manifest_path.name}",
    }
    return described, files


def _member_line(utterance: Utterance, member: str, duration: float, shard: int) -> str:
    """A line of a shard's manifest: the utterance is all of a member of the tar."""
    extra = {"shard_id": shard} | _with_source(utterance) | {"shard_id": shard}
    whole = dataclasses.replace(
        utterance, audio_filepath=member, duration=duration, offset=0.0, extra=extra
    )
    return whole.to_json() + "\n"


def _with_source(utterance: Utterance) -> dict:
    """The further fields of an utterance; `source`, unless it has one, is the name of its file."""
    return {"source": utterance.audio_filepath} | utterance.extra


def _write_index(offsets: list[int], path: Path) -> None:
    """Offsets and the end of a file, as NeMo reads them."""
    with atomic_path(path.with_name(path.name + ".idx")) as temporary:
        temporary.write_bytes(struct.pack(f"<{len(offsets) + 1}Q", *offsets, path.stat().st_size))


def _write_whole_manifest(out: Path, numbers: list[int]) -> None:
    """tarred_audio_manifest.json, which NeMo's loaders without Lhotse read."""
    with (
        atomic_path(out / "tarred_audio_manifest.json") as temporary,
        temporary.open("wb") as whole,
    ):
        for number in numbers:
            whole.write((out / "sharded_manifests" / f"manifest_{number}.json").read_bytes())


def write_shar_shard(shard: Shard, encode: Encode) -> tuple[dict, list[Path]]:
    """cuts.N.jsonl.gz and recording.N.tar, written by Lhotse itself; returns what describes them,
    and their paths.
    """
    from lhotse import Recording
    from lhotse.shar import SharWriter

    out, folder = Path(shard.out), os.path.dirname(shard.manifest)
    seconds = 0.0
    count = 0
    staging = shard_notes.notes_of(out) / f"staging_{shard.number:06d}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with SharWriter(
        str(staging),
        fields={"recording": "flac"},
        shard_size=None,
        shard_suffix=f".{shard.number:06d}",
        warn_unused_fields=False,
    ) as writer:
        for number, utterance in enumerate(read_lines(shard)):
            recording_id = f"{shard.number}-{number:06d}"
            recording = Recording.from_bytes(
                encode(utterance, folder)[0], recording_id=recording_id
            )
            writer.write(_cut(utterance, recording))
            seconds += recording.duration
            count += 1
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for path in sorted(staging.iterdir()):
        if path.suffix == ".gz":
            _without_time(path)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        files.append(path.rename(out / path.name))
    staging.rmdir()
    described = {"number": shard.number, "utterances": count, "seconds": round(seconds, 3)}
    return described, files


def _without_time(path: Path) -> None:
    """Take the time at which it was packed out of a gzip file (RFC 1952: bytes 4 to 7), so that the
    same input gives the same bytes.
    """
    with path.open("r+b") as packed:
        packed.seek(4)
        packed.write(bytes(4))


def _cut(utterance: Utterance, recording: Recording) -> MonoCut:
    """A cut of a whole recording with the utterance as its only supervision."""
    from lhotse import MonoCut, SupervisionSegment

    segment = SupervisionSegment(
        id=recording.id,
        recording_id=recording.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        text=utterance.text,
        language=utterance.extra.get("lang"),
        speaker=utterance.speaker,
    )
    return MonoCut(
        id=recording.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        recording=recording,
        supervisions=[segment],
        custom={key: value for key, value in _with_source(utterance).items() if key != "lang"},
    )
