"""Manifests: one JSON object a line, the only file that knows NeMo's manifest format.

A relative `audio_filepath` is relative to the manifest that names it, as in NeMo.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, refuse_pipe

if TYPE_CHECKING:
    from parakeet_ft.data.audio_file import KaldiPipe, Member


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One stretch of audio and what is said in it. `duration` and `offset` are in seconds; `extra`
    keeps all other fields. Where `pipe` is set, the audio is what that command writes, and
    `audio_filepath` only names it; so it does where `member` says which bytes of a shard the audio
    is. A manifest cannot hold either."""

    audio_filepath: str
    duration: float
    text: str
    offset: float = 0.0
    speaker: str | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    pipe: KaldiPipe | None = None
    member: Member | None = None

    def to_json(self) -> str:
        """One line of a manifest, without its newline."""
        record: dict[str, Any] = {
            "audio_filepath": self.audio_filepath,
            "duration": round(self.duration, 4),
            "text": self.text,
        }
        if self.offset:
            record["offset"] = round(self.offset, 4)
        if self.speaker is not None:
            record["speaker"] = self.speaker
        return json.dumps(record | self.extra, ensure_ascii=False)


# A week: what lasts longer is no recording, but a duration in other units, or a slip.
MOST_SECONDS = 7 * 24 * 3600.0
KNOWN = frozenset(field.name for field in dataclasses.fields(Utterance)) - {"pipe", "member"}


class ManifestError(UserError):
    """A manifest that cannot be used; the message says which line, what was found and what was
    expected.
    """


def parse_json(line: str) -> Any:
    """json.loads with every mistake as a ValueError that says what the line is or holds: nesting
    that Python cannot follow, numbers of 4,300 digits, half a surrogate pair, a key twice. A byte
    order mark, which some editors write before the first line, is left out."""
    try:
        record = json.loads(line.removeprefix("\ufeff"), object_pairs_hook=once_each)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        digits = str(error).startswith("Exceeds the limit")  # of int(), which is 4,300 digits
        why = "holds a number of thousands of digits" if digits else str(error)
        raise ValueError(why) from None
    if "\\u" in line and _is_utf8(line) and not _is_utf8(json.dumps(record, ensure_ascii=False)):
        raise ValueError("holds half of a surrogate pair as a \\u escape, which is no character")
    return record


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object. Raises ValueError for a key that is there twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"holds the key {twice!r} twice")
    return record


def _is_utf8(text: str) -> bool:
    """Whether no character is half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_line(line: str, where: str, *, needs_text: bool = True) -> Utterance:
    """One line of a manifest, its audio path as written. Raises ManifestError; `where` names the
    line in it.
    """
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ManifestError(
            f"{where} {error}: {line[:80]!r}. Expected one JSON object a line with "
            "audio_filepath, duration and text. The scripts of data_prep/ make "
            "such manifests, from_table.py of a table."
        ) from None
    if not isinstance(record, dict):
        raise ManifestError(
            f"{where} holds a {type(record).__name__}, expected a JSON object with audio_filepath, "
            f"duration and text."
        )
    if not needs_text:
        record.setdefault("text", "")
    _check_fields(record, where)
    duration = _seconds(record, "duration", where, lowest=1e-9, expected="seconds above 0")
    offset = _seconds(record, "offset", where, lowest=0.0, expected="seconds")
    return Utterance(
        audio_filepath=record["audio_filepath"],
        text=record["text"],
        duration=duration,
        offset=offset,
        speaker=_speaker(record, where),
        extra={k: v for k, v in record.items() if k not in KNOWN},
    )


def _check_fields(record: dict[str, Any], where: str) -> None:
    """Raise ManifestError unless an object has what every line must have, path and text as text."""
    missing = [key for key in ("audio_filepath", "duration", "text") if key not in record]
    if missing:
        raise ManifestError(
            f"{where} lacks {', '.join(missing)}; it has {', '.join(record) or 'nothing'}."
        )
    if not isinstance(record["audio_filepath"], str):
        raise ManifestError(
            f"{where}: audio_filepath is {record['audio_filepath']!r}, expected a path."
        )
    if not isinstance(record["text"], str):
        raise ManifestError(f"{where}: text is {record['text']!r}, expected a string.")


def _speaker(record: dict[str, Any], where: str) -> str | None:
    """The speaker's name or number as text. Raises ManifestError for anything else."""
    speaker = record.get("speaker")
    if speaker is None:
        return None
    if not isinstance(speaker, str | int | float):
        raise ManifestError(f"{where}: speaker is {speaker!r}, expected a name.")
    return str(speaker)


def _seconds(
    record: dict[str, Any], key: str, where: str, *, lowest: float, expected: str
) -> float:
    """A number of seconds, 0 if there is none. Raises ManifestError below `lowest`."""
    value = 0.0 if record.get(key) is None else record[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not lowest <= value < float("inf"):
        raise ManifestError(f"{where}: {key} is {record.get(key)!r}, expected {expected}.")
    check_length(value, key, where)
    return float(value)


def check_length(seconds: float, key: str, where: str) -> None:
    """Raise ManifestError for seconds that are no recording's."""
    if seconds > MOST_SECONDS:
        raise ManifestError(
            f"{where}: {key} is {seconds!r}, which is {seconds / 86400:.0f} days. Expected seconds "
            "of a recording, at most a week: is it in milliseconds, or in samples?"
        )


def stream_manifest(path: str | os.PathLike, *, needs_text: bool = True) -> Iterator[Utterance]:
    """Yield the utterances of a manifest with absolute audio paths. Raises ManifestError with the
    number of the bad line.

    Unless it `needs_text`, a line may lack its text, which is then empty.
    """
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(found.name for found in path.glob("*.jsonl"))[:5])
        raise ManifestError(
            f"{path} is a folder. Expected a file of JSON lines"
            f"{f'; it holds {inside}' if inside else ''}."
        )
    refuse_pipe(path)
    if not path.is_file():
        raise ManifestError(
            f"No manifest at {path}. Expected a file of JSON lines; `python "
            "data_prep/from_table.py TABLE --out DIR` makes one."
        )
    folder = str(path.parent)
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                utterance = parse_line(line, f"{path} line {number}", needs_text=needs_text)
                audio_path = os.path.join(folder, utterance.audio_filepath)
                yield dataclasses.replace(utterance, audio_filepath=os.path.normpath(audio_path))
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"{path} is not UTF-8 text (byte {error.start} of a block): is it a manifest?"
            ) from None


def read_manifest(path: str | os.PathLike) -> list[Utterance]:
    """Read a whole manifest with absolute audio paths. Raises ManifestError if it is missing,
    malformed or empty.
    """
    utterances = list(stream_manifest(path))
    if not utterances:
        raise ManifestError(
            f"{path} holds no utterance. Expected at least one JSON line with audio_filepath, "
            f"duration and text."
        )
    return utterances


def write_manifest(utterances: Iterable[Utterance], path: str | os.PathLike) -> int:
    """Write a manifest atomically; returns the number of utterances. Audio paths are written as
    given.
    """
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for utterance in utterances:
            out.write(utterance.to_json() + "\n")
            count += 1
    return count


class LineFiles:
    """OUT/<name>.jsonl by name, each made when its first line comes; `stack` closes them, and names
    them then, or removes them if anything went wrong.
    """

    def __init__(self, out: Path, stack: contextlib.ExitStack) -> None:
        self.out = out
        self.stack = stack
        self.files: dict[str, TextIO] = {}

    def write(self, name: str, line: str) -> None:
        """Add a line to the file of this name."""
        if name not in self.files:
            path = self.stack.enter_context(atomic_path(self.out / f"{name}.jsonl"))
            self.files[name] = self.stack.enter_context(path.open("w", encoding="utf-8"))
        self.files[name].write(line + "\n")


def missing_audio(utterances: Iterable[Utterance]) -> list[str]:
    """Paths of audio files that do not exist, each once, in order; members were found before."""
    paths = dict.fromkeys(u.audio_filepath for u in utterances if u.member is None)
    return [path for path in paths if not os.path.isfile(path)]


def manifest_hash(path: str | os.PathLike) -> str:
    """SHA-256 of the manifest's bytes, the identity of a data set in run.json."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
