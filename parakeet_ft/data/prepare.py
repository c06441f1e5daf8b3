"""A source -> audio at 16 kHz, train/dev/test manifests, every drop with its reason. The stages are
the same for every source.

1. audio, in parallel: probe, decode, measure, convert; finished audio is noted in
OUT/.ledger.sqlite and never done again 2. text, filters, duplicates, in the order of the source 3.
splits 4. OUT/{train,dev,test}.jsonl, OUT/dropped.jsonl, summary
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from parakeet_ft.data import audio, splits
from parakeet_ft.data.audio import Measured
from parakeet_ft.data.audio_file import AudioError, InMemory, KaldiPipe, Member
from parakeet_ft.data.filters import Limits, reason_to_drop
from parakeet_ft.data.ledger import Ledger, Row, ledger_errors
from parakeet_ft.data.manifest import LineFiles, Utterance
from parakeet_ft.data.parallel import chunked, map_chunks
from parakeet_ft.data.splits import SPLITS, SplitRules
from parakeet_ft.data.summary import Summary
from parakeet_ft.data.text import TextRules, is_utf8, normalise, text_key
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

Source = Callable[[], Iterable[Utterance]]
# Audio files a task: long enough to hide what a task costs, short enough that a kill loses seconds.
CHUNK = 16
# Below this many different sentences, keeping them apart between splits leaves nothing to test
# with.
FEWEST_SENTENCES = 100


@dataclasses.dataclass(frozen=True)
class AudioStage:
    """What is done to audio. `channel` counts from 0, None averages all. Longer than `max_duration`
    seconds is not decoded. Without `files`, what is converted is measured only, and to_shards
    writes it.
    """

    convert: bool = True
    rate_hz: int = 16000
    channel: int | None = None
    max_duration: float | None = 30.0
    files: bool = True

    def measured_by(self) -> tuple:
        """What decides what measuring shows: the same with files and without."""
        return self.convert, self.rate_hz, self.channel, self.max_duration


@dataclasses.dataclass(frozen=True)
class Stages:
    """All that is done to a source. `split_by`: auto, speaker, sentence, given (the field `split`),
    or the name of an extra field.

    "auto" is the first that the data has: given for all, two speakers or more, three sessions or
    more (the extra field `session`), sentence.
    """

    audio: AudioStage = dataclasses.field(default_factory=AudioStage)
    text: TextRules = dataclasses.field(default_factory=TextRules)
    limits: Limits = dataclasses.field(default_factory=Limits)
    splits: SplitRules = dataclasses.field(default_factory=SplitRules)
    split_by: str = "auto"
    sentence_disjoint: bool = False


@dataclasses.dataclass(frozen=True)
class AudioJob:
    """One stretch of audio to measure and convert; `duration` 0 means to the end of the file,
    `target` None that nothing is written. Where the stage writes no files, it is a name only.
    """

    key: str
    path: str
    offset: float
    duration: float
    target: str | None
    stage: AudioStage
    pipe: KaldiPipe | None = None
    member: Member | None = None


def process_audio(job: AudioJob) -> Measured:
    """Decode, measure, and convert to 16-bit mono FLAC. What is wrong with the audio comes back as
    a reason, never as an exception.
    """
    stage = job.stage
    try:
        source = audio.held_in_memory(job.pipe or job.member or job.path)
        if (too_long := _too_long(job, source)) is not None:
            return too_long
        samples, rate_hz = audio.decode(source, offset=job.offset, duration=job.duration or None)
        out_hz = stage.rate_hz if job.target else rate_hz
        mono16 = as_written(samples, rate_hz, out_hz, stage)
        measured = audio.measure(samples, rate_hz=rate_hz, mono16=mono16, mono16_rate_hz=out_hz)
        if job.target and stage.files:
            audio.write_flac(mono16, Path(job.target), rate_hz=out_hz)
        return measured
    except AudioError as error:
        return Measured(reason=error.reason, detail=str(error))


def as_written(samples: np.ndarray, rate_hz: int, out_hz: int, stage: AudioStage) -> np.ndarray:
    """What a job writes of decoded samples: 16-bit mono at out_hz."""
    mono = audio.to_mono(samples, channel=stage.channel)
    return audio.to_int16(audio.resample(mono, from_hz=rate_hz, to_hz=out_hz))


def _too_long(job: AudioJob, source: str | KaldiPipe | InMemory) -> Measured | None:
    """What the header shows of a stretch above the limit, which is not decoded; None below it."""
    longest = job.stage.max_duration
    if longest is None or isinstance(source, KaldiPipe):
        return None
    info = audio.probe(source)
    seconds = job.duration or info.duration - job.offset
    if seconds <= longest:
        return None
    return Measured(
        reason="too_long",
        detail=f"{seconds:.2f} s",
        duration=seconds,
        rate_hz=info.rate_hz,
        channels=info.channels,
    )


def process_chunk(jobs: Sequence[AudioJob]) -> list[Measured]:
    """What a worker does at once."""
    return [process_audio(job) for job in jobs]


def audio_job(utterance: Utterance, *, root: Path, out: Path, stage: AudioStage) -> AudioJob:
    """The job of an utterance. Its key changes with the file's size or time and with the stage; its
    target's name does not.
    """
    path = utterance.audio_filepath
    if utterance.pipe is not None and not stage.convert:
        raise UserError(
            f"{path!r} is a command, and a manifest names files: leave out --in-place, so "
            "that what it writes becomes a file."
        )
    is_file = utterance.pipe is None and utterance.member is None
    relative = os.path.relpath(path, root) if is_file else path
    identity = f"{relative}|{utterance.offset:.4f}|{utterance.duration:.4f}".encode(
        "utf-8", "surrogateescape"
    )
    state = _state(utterance.member.file if utterance.member else path)
    target = None
    if stage.convert:
        name = hashlib.blake2b(identity, digest_size=6).hexdigest()
        target = str(out / "audio" / name[:2] / f"{_stem(path)}-{name}.flac")
    return AudioJob(
        key=hashlib.blake2b(
            identity + f"|{state}|{stage.measured_by()}".encode(), digest_size=12
        ).hexdigest(),
        path=path,
        offset=utterance.offset,
        duration=utterance.duration,
        target=target,
        stage=stage,
        pipe=utterance.pipe,
        member=utterance.member,
    )


def _state(path: str) -> str:
    """What changes when a file does; of other machines' shards, that is told by reading them."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{found.st_size}|{found.st_mtime_ns}"


def _stem(path: str) -> str:
    """A file's name without its suffix, fit for every file system."""
    stem = Path(path).stem.encode("ascii", "replace").decode()
    return re.sub(r"[^\w.-]+", "_", stem)[:60] or "audio"


def run_audio_stage(
    source: Source,
    ledger: Ledger,
    *,
    root: Path,
    out: Path,
    stage: AudioStage,
    executor: Callable[[], Executor],
    window: int,
    on_progress: Callable[[int, float], None],
) -> None:
    """Measure and convert what the ledger does not know yet. `on_progress` gets (utterances,
    seconds) as they are done.
    """

    def unknown() -> Iterator[AudioJob]:
        """The jobs that are still to be done; all others are progress."""
        for utterance in source():
            if "bad_row" in utterance.extra:
                on_progress(1, 0.0)
                continue
            job = audio_job(utterance, root=root, out=out, stage=stage)
            measured = ledger.measured(job.key)
            if measured is None or _is_lost(job, measured):
                yield job
            else:
                on_progress(1, measured.duration)

    def crashed(job: AudioJob) -> Measured:
        """What to note of audio that kills its worker."""
        return Measured(
            reason="crashed_decoder", detail=f"a worker process died while it read {job.path}"
        )

    for jobs, results in map_chunks(
        process_chunk, chunked(unknown(), CHUNK), executor=executor, window=window, crashed=crashed
    ):
        ledger.store_measured(
            (job.key, measured) for job, measured in zip(jobs, results, strict=True)
        )
        on_progress(len(jobs), sum(measured.duration for measured in results))
    ledger.commit(now=True)
    # What killed runs and killed workers were writing; the ledger's lock says that no other run is
    # in this folder.
    for pattern in (".*.tmp", "audio/*/.*.tmp"):
        for stale in out.glob(pattern):
            stale.unlink(missing_ok=True)


def _is_lost(job: AudioJob, measured: Measured) -> bool:
    """Whether what was written for a job is no longer there."""
    if measured.reason is not None or job.target is None or not job.stage.files:
        return False
    return not os.path.exists(job.target)


def judge(
    source: Source,
    ledger: Ledger,
    *,
    root: Path,
    out: Path,
    stages: Stages,
    encode: Callable[[str], Sequence[int]] | None = None,
    unknown_id: int = 0,
) -> None:
    """Text, filters and duplicates: one row a source utterance in the ledger."""
    for number, utterance in enumerate(source()):
        job = audio_job(utterance, root=root, out=out, stage=stages.audio)
        measured = ledger.measured(job.key) or Measured(reason="missing")
        prepared = _prepared(utterance, job, measured, rules=stages.text)
        text = prepared.text
        key = text_key(text) if text and is_utf8(text) else ""
        dropped = reason_to_drop(
            prepared,
            measured,
            limits=stages.limits,
            encode=encode,
            unknown_id=unknown_id,
            claimed=utterance.duration,
        )
        dropped = dropped or _duplicate(ledger, measured, text, key, limits=stages.limits)
        if dropped is not None:
            # A dropped utterance is named by the file that the user knows.
            prepared = dataclasses.replace(
                prepared, audio_filepath=utterance.audio_filepath, offset=utterance.offset
            )
        reason, detail = dropped or (None, "")
        ledger.add_row(
            number,
            prepared,
            key=job.key,
            group="",
            text_key=key,
            samples_hash=measured.samples_hash,
            reason=reason,
            detail=detail,
            split=str(utterance.extra.get("split", "")),
        )


def _prepared(
    utterance: Utterance, job: AudioJob, measured: Measured, *, rules: TextRules
) -> Utterance:
    """An utterance as the manifest will have it: its text, its own file, its real duration."""
    text = utterance.text
    if is_utf8(text):
        text = normalise(text, rules=rules)
    return dataclasses.replace(
        utterance,
        audio_filepath=job.target or utterance.audio_filepath,
        text=text,
        duration=measured.duration,
        offset=0.0 if job.target else utterance.offset,
        pipe=None,
        member=None if job.target else utterance.member,
    )


def _duplicate(
    ledger: Ledger, measured: Measured, text: str, key: str, *, limits: Limits
) -> tuple[str, str] | None:
    """Reason and detail for what the kept rows hold already, or None."""
    if limits.drop_duplicate_audio and ledger.count_same("samples_hash", measured.samples_hash):
        return "duplicate_audio", ""
    if limits.max_same_text is None or not key:
        return None
    if ledger.count_same("text_key", key) >= limits.max_same_text:
        return "duplicate_text", text[:80]
    return None


def assign_splits(ledger: Ledger, *, stages: Stages, out: Path) -> list[str]:
    """Give each kept row its split; returns notes for the user. Groups that no hash reached are
    pinned in OUT/splits.json.
    """
    notes: list[str] = []
    kind = _split_kind(ledger, stages, notes)
    if kind == "given":
        _other_splits(ledger)
        ledger.connection.execute("UPDATE rows SET split = 'train' WHERE split = ''")
    else:
        _group(ledger, stages.splits, kind, notes)
        rules = stages.splits.among(kind)
        rules = _pinned_rules(ledger, rules, out / "splits.json", kind, notes)
        ledger.connection.create_function(
            "split_of",
            1,
            lambda group: splits.split_of(str(group), rules=rules),
            deterministic=True,
        )
        ledger.connection.execute("UPDATE rows SET split = split_of(grp)")
    _note_shares(ledger, stages.splits, kind, notes)
    if stages.sentence_disjoint:
        ledger.connection.execute(
            "UPDATE rows SET reason = 'text_in_held_out', detail = '' WHERE reason IS NULL AND "
            "split = 'train' AND text_key != '' AND text_key IN (SELECT text_key FROM rows WHERE "
            "reason IS NULL AND split IN ('dev', 'test'))"
        )
    ledger.commit(now=True)
    return notes


def _group(ledger: Ledger, rules: SplitRules, kind: str, notes: list[str]) -> None:
    """Give each row its group; speakers who are named for a split are groups whatever the others
    are. Raises UserError for names that nobody has.
    """
    ledger.connection.execute(f"UPDATE rows SET grp = {_group_column(kind)}")
    if not (named := rules.speakers):
        return
    speaker = "json_extract(record, '$[4]')"
    found = ledger.connection.execute(
        f"SELECT DISTINCT {speaker} FROM rows WHERE reason IS NULL AND {speaker} IS NOT NULL"
    )
    splits.check_named((name for (name,) in found), rules=rules)
    if kind == "speaker":
        return
    ledger.connection.execute(
        f"UPDATE rows SET grp = ? || {speaker} WHERE {speaker} IN ({', '.join('?' * len(named))})",
        (splits.SPEAKER, *named),
    )
    notes.append(
        f"{', '.join(named)} as named, all others by {kind}: what is said by the named may be in "
        f"train too, and splits by {kind} share voices."
    )


def _group_column(kind: str) -> str:
    """What groups rows, in SQL; those that lack it are grouped by their sentence."""
    if kind == "sentence":
        return "text_key"
    if kind == "utterance":
        return "samples_hash || number"
    path = "$[4]" if kind == "speaker" else f'$[5]."{kind}"'
    return f"COALESCE(json_extract(record, '{path}'), text_key)"


def _note_shares(ledger: Ledger, rules: SplitRules, kind: str, notes: list[str]) -> None:
    """Say so where dev or test got far more of the hours than was asked for."""
    found = dict(
        ledger.connection.execute(
            "SELECT split, SUM(duration) FROM rows WHERE reason IS NULL GROUP BY split"
        )
    )
    total = sum(found.values()) or 1.0
    for name, share, named in (
        ("dev", rules.dev_share, rules.dev_groups),
        ("test", rules.test_share, rules.test_groups),
    ):
        got = found.get(name, 0.0) / total
        if kind != "given" and not named and got > max(splits.OVERFULL * share, 0.1):
            notes.append(
                f"{name} has {100 * got:.0f} % of the hours where {100 * share:g} % was asked "
                f"for: a {kind} cannot be divided. --split-by sentence can, or name speakers "
                f"with --{name}-speakers."
            )


def _split_kind(ledger: Ledger, stages: Stages, notes: list[str]) -> str:
    """What the splits are disjoint by: resolves "auto" from what the data has."""
    kept = ledger.scalar("SELECT COUNT(*) FROM rows WHERE reason IS NULL")
    speakers = ledger.scalar(
        "SELECT COUNT(DISTINCT json_extract(record, '$[4]')) FROM rows WHERE reason IS NULL"
    )
    given = ledger.scalar(
        "SELECT COUNT(*) FROM rows WHERE reason IS NULL AND split IN ('train', 'dev', 'test')"
    )
    kind = stages.split_by
    if kind == "auto":
        kind = "given" if given == kept and kept else _auto_kind(ledger, stages.splits, speakers)
        held_out = " and ".join(name for name in ("dev", "test") if name in stages.splits.wanted())
        if kind == "sentence" and kept and held_out:
            who = {0: "No speaker is known", 1: "One speaker"}.get(speakers, f"{speakers} speakers")
            notes.append(
                f"{who}, so {held_out} can hold voices that train holds too: expect a better WER "
                "there than on new speakers."
            )
    if kind == "given" and not given and kept and not _other_splits(ledger):
        raise UserError(
            "--split-by given: no utterance has a split. Expected a field `split` of train, "
            "dev or test, or another --split-by."
        )
    if kind == "given" and stages.splits.speakers:
        raise UserError(
            "--dev-speakers and --test-speakers do not go with the splits that the data has: "
            "leave them out, or add --split-by speaker (or sentence)."
        )
    if kind not in ("given", "speaker", "sentence", "utterance"):
        _check_field(ledger, kind, kept=kept, notes=notes)
    if kind == "speaker" and not speakers:
        raise UserError(
            "The splits were to be disjoint by speaker, but no utterance has one. Name the column "
            "with --speaker-column, or --split-by sentence."
        )
    if kind == "sentence":
        found = _sentence_or_utterance(ledger, kept=kept, notes=notes)
        if not set(stages.splits.wanted()) - {"train"}:
            notes.clear()  # all are about dev and test
        return found
    return kind


def _auto_kind(ledger: Ledger, rules: SplitRules, speakers: int) -> str:
    """What "auto" is where not all utterances have a split."""
    # With fewer speakers than splits, a split would be empty, or take half of the data.
    enough = speakers > 1 and speakers >= len(rules.wanted())
    if enough or rules.test_groups or rules.dev_groups:
        return "speaker"
    sessions = ledger.scalar(
        "SELECT COUNT(DISTINCT json_extract(record, '$[5].session')) FROM rows WHERE reason IS NULL"
    )
    return "session" if sessions > 2 else "sentence"


def _sentence_or_utterance(ledger: Ledger, *, kept: int, notes: list[str]) -> str:
    """`sentence`, or `utterance` where too few different sentences would leave nothing to test."""
    sentences = ledger.scalar("SELECT COUNT(DISTINCT text_key) FROM rows WHERE reason IS NULL")
    if sentences >= FEWEST_SENTENCES or kept <= sentences:
        return "sentence"
    notes.append(
        f"Only {sentences} different sentences: the splits are by utterance, and share sentences."
    )
    return "utterance"


def _other_splits(ledger: Ledger) -> int:
    """Kept utterances with a split of their own. Raises UserError for one that names no file."""
    found = ledger.connection.execute(
        "SELECT split, COUNT(*) FROM rows WHERE reason IS NULL AND split != '' GROUP BY split"
    ).fetchall()
    for name, _ in found:
        if not re.fullmatch(r"\w[\w.-]{0,80}", name) or name == "dropped":
            raise UserError(
                f"The split {name!r} cannot be the name of a manifest; expected train, dev or test."
            )
    return sum(count for _, count in found)


def _check_field(ledger: Ledger, field: str, *, kept: int, notes: list[str]) -> None:
    """Raise UserError if no utterance has the field that splits are to be disjoint by."""
    fields: collections.Counter[str] = collections.Counter()
    for (record,) in ledger.connection.execute("SELECT record FROM rows WHERE reason IS NULL"):
        fields.update(json.loads(record)[5].keys())
    if field in fields and '"' not in field and "\\" not in field:
        if missing := kept - fields[field]:
            notes.append(f"{missing} utterances have no {field!r} and are split by their sentence.")
        return
    known = ", ".join(sorted(fields)) or "none"
    raise UserError(
        f"--split-by {field}: no utterance has a field of that name. Expected speaker, "
        f"sentence, given, or one of the further fields: {known}."
    )


def _pinned_rules(
    ledger: Ledger, rules: SplitRules, path: Path, kind: str, notes: list[str]
) -> SplitRules:
    """The rules with what earlier runs pinned and what must be pinned now."""
    stored = json.loads(path.read_text()) if path.is_file() else {}
    rules = _with_pins(rules, stored)
    groups = ledger.group_seconds(limit=100_000)
    pins: dict[str, str] = {}
    if not stored and not any(_exists(path.parent, name) for name in SPLITS):
        pins = splits.pin_overfull_splits(groups, rules=rules)
    pins |= splits.pin_empty_splits(groups, rules=_with_pins(rules, stored | pins))
    pinned = dict(sorted((stored | pins).items()))  # the first run tells them as later ones do
    if pins:
        text = json.dumps(pinned, ensure_ascii=False, indent=1, sort_keys=True)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n")
    if pinned and kind == "speaker":
        notes.append(f"{_pins_told(pinned)}; kept in {path.name}.")
    return _with_pins(rules, pinned)


def _exists(out: Path, split: str) -> bool:
    """Whether an earlier run wrote a split."""
    return (out / f"{split}.jsonl").exists() or (out / split / "shards.json").exists()


def _with_pins(rules: SplitRules, pins: dict[str, str]) -> SplitRules:
    """The rules with these groups pinned."""
    return dataclasses.replace(rules, pinned=tuple(sorted(pins.items())))


def _pins_told(pinned: dict[str, str]) -> str:
    """Which speakers were put where, and why."""
    given = ", ".join(f"{split} (it got {group})" for group, split in pinned.items())
    if "train" in pinned.values():
        return f"The hash of few speakers missed the shares: {given}"
    return f"No speaker's hash fell into {given}"


def rows_and_sources(ledger: Ledger, source: Source) -> Iterator[tuple[Row, Utterance]]:
    """All rows, each with the utterance that it is of. Raises UserError if the source has others
    meanwhile.
    """
    given = iter(source())
    for row in ledger.rows():
        utterance = next(given, None)
        if utterance is None:
            raise changed()
        yield row, utterance
    if next(given, None) is not None:
        raise changed()


def changed() -> UserError:
    """The error to raise where a source is not what it was when it was measured."""
    return UserError(
        "What was given has other utterances than when it was measured: files or lines came or "
        "went meanwhile. Start the same command again."
    )


def rows_with_sources(ledger: Ledger, source: Source) -> Iterator[Row]:
    """All rows, those that are kept with where their audio is read from, not written to."""
    for row, given in rows_and_sources(ledger, source):
        utterance = dataclasses.replace(
            row.utterance,
            audio_filepath=given.audio_filepath,
            offset=given.offset,
            pipe=given.pipe,
            member=given.member,
        )
        yield dataclasses.replace(row, utterance=utterance) if row.reason is None else row


def write_manifests(rows: Iterable[Row], *, out: Path, only_dropped: bool = False) -> Summary:
    """Write a manifest for each split that has utterances, and dropped.jsonl; an empty split's old
    manifest is removed.

    `only_dropped` leaves out the manifests. The summary is of all rows.
    """
    summary = Summary()
    with contextlib.ExitStack() as stack:
        files = LineFiles(out, stack)
        for row in rows:
            if row.reason is not None:
                summary.drop(row.utterance, reason=row.reason, detail=row.detail)
                files.write("dropped", _dropped_line(row.utterance, row.reason, row.detail))
                continue
            summary.add(row.utterance, split=row.split, measured=row.measured)
            if not only_dropped:
                files.write(row.split, kept_line(row.utterance, out))
    names = {"dropped"} if only_dropped else {"dropped", *SPLITS}
    for name in names - set(files.files):
        (out / f"{name}.jsonl").unlink(missing_ok=True)
    return summary


def _dropped_line(utterance: Utterance, reason: str, detail: str) -> str:
    """One line of dropped.jsonl; texts that are no UTF-8 are escaped."""
    record: dict[str, object] = {
        "reason": reason,
        "detail": detail,
        "audio_filepath": utterance.audio_filepath,
        "text": utterance.text,
    }
    if utterance.offset:
        record["offset"] = utterance.offset
    escaped = not is_utf8(utterance.text + utterance.audio_filepath + detail)
    return json.dumps(record, ensure_ascii=escaped)


def kept_line(utterance: Utterance, out: Path) -> str:
    """One line of a manifest in `out`, with audio below that folder relative to it."""
    path = utterance.audio_filepath
    if path.startswith(str(out) + os.sep):
        path = os.path.relpath(path, out)
    extra = {key: value for key, value in utterance.extra.items() if key != "split"}
    return dataclasses.replace(utterance, audio_filepath=path, extra=extra).to_json()


def prepare(
    source: Source,
    *,
    root: Path,
    out: Path,
    stages: Stages,
    executor: Callable[[], Executor],
    window: int = 4,
    encode: Callable[[str], Sequence[int]] | None = None,
    unknown_id: int = 0,
    only_examine: bool = False,
    on_progress: Callable[[int, float], None] = lambda count, seconds: None,
) -> tuple[Summary, Ledger]:
    """Run all stages over a source, which is called twice and must give the same utterances.
    Returns the summary and the open ledger.

    `root` is the folder that names audio apart from its place on this machine: the same corpus
    elsewhere gives the same manifests. `only_examine` takes the splits as they come and writes no
    manifest; nor is one written where the audio stage writes no files. Raises UserError if the
    source has no utterance.
    """
    out = Path(os.path.abspath(out))
    ledger = Ledger(out / ".ledger.sqlite")
    with contextlib.ExitStack() as on_error, ledger_errors(ledger.path):
        on_error.callback(ledger.connection.close)
        run_audio_stage(
            source,
            ledger,
            root=root,
            out=out,
            stage=stages.audio,
            executor=executor,
            window=window,
            on_progress=on_progress,
        )
        judge(
            source, ledger, root=root, out=out, stages=stages, encode=encode, unknown_id=unknown_id
        )
        if not ledger.scalar("SELECT COUNT(*) FROM rows"):
            raise UserError(
                f"There is no utterance in what was given (paths are relative to {root}): expected "
                "at least one row, line or audio file."
            )
        notes = [] if only_examine else assign_splits(ledger, stages=stages, out=out)
        in_files = not stages.audio.convert or stages.audio.files
        summary = write_manifests(
            ledger.rows() if in_files else rows_with_sources(ledger, source),
            out=out,
            only_dropped=only_examine or not in_files,
        )
        summary.notes += notes
        on_error.pop_all()
    return summary, ledger
