"""What is known about each stretch of audio and each utterance so far, in one SQLite file: restarts
cost nothing, memory stays flat.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from parakeet_ft.data.audio import Measured
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError

SCHEMA = """
CREATE TABLE IF NOT EXISTS audio (key TEXT PRIMARY KEY, measured TEXT NOT NULL) WITHOUT ROWID;
DROP TABLE IF EXISTS rows;
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, key TEXT, grp TEXT, text_key TEXT, samples_hash TEXT,
    duration REAL, reason TEXT, detail TEXT, split TEXT, record TEXT NOT NULL);
CREATE INDEX rows_text ON rows (text_key);
CREATE INDEX rows_samples ON rows (samples_hash);
"""
# What a kill can lose is the audio of the last second, which is measured again.
COMMIT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One utterance as it will be written, with what was found and decided."""

    number: int
    utterance: Utterance
    measured: Measured
    reason: str | None
    detail: str
    split: str


@contextlib.contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """What SQLite says when it cannot work, as a UserError that names the file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        said = str(error)
        if "locked" in said:
            why = "another run is working in the same folder"
        elif "full" in said:
            why = "the disk is full. The same command goes on once there is room"
        elif "readonly" in said or "unable to open" in said:
            why = "no file can be written there"
        elif "I/O" in said:
            why = "the disk reports an error"
        else:
            why = "it is damaged. Remove it; audio that was converted is measured again"
        raise UserError(f"Cannot use {path} ({said}): {why}.") from None


class Ledger:
    """Opens or makes the file at `path`. One process writes it."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot make the folder {path.parent}: {error.strerror}.") from None
        self.path = path
        with ledger_errors(path):
            # autocommit off by hand: transactions span many statements.
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.connection.execute("PRAGMA cache_size = -65536")
            self.connection.executescript(SCHEMA)
            self.connection.execute("BEGIN")
        self._committed = time.monotonic()

    def close(self) -> None:
        """Write what was noted, and let others in."""
        self.connection.execute("COMMIT")
        self.connection.close()

    def commit(self, *, now: bool = False) -> None:
        """Write what was noted, `now` or when some time has passed."""
        if now or time.monotonic() - self._committed > COMMIT_SECONDS:
            self.connection.execute("COMMIT")
            self.connection.execute("BEGIN")
            self._committed = time.monotonic()

    def measured(self, key: str) -> Measured | None:
        """What a job showed; None if it was never done."""
        found = self.connection.execute(
            "SELECT measured FROM audio WHERE key = ?", (key,)
        ).fetchone()
        return Measured(*json.loads(found[0])) if found else None

    def store_measured(self, results: Iterable[tuple[str, Measured]]) -> None:
        """Note what jobs showed."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO audio VALUES (?, ?)",
            [(key, json.dumps(dataclasses.astuple(measured))) for key, measured in results],
        )
        self.commit()

    def count_same(self, column: str, value: str) -> int:
        """Kept utterances so far with the same `text_key` or `samples_hash`."""
        return self.connection.execute(
            f"SELECT COUNT(*) FROM rows WHERE {column} = ? AND reason IS NULL", (value,)
        ).fetchone()[0]

    def add_row(
        self,
        number: int,
        utterance: Utterance,
        *,
        key: str,
        group: str,
        text_key: str,
        samples_hash: str,
        reason: str | None,
        detail: str,
        split: str,
    ) -> None:
        """Note one utterance as it will be written."""
        fields = [
            utterance.audio_filepath,
            utterance.duration,
            utterance.text,
            utterance.offset,
            utterance.speaker,
            utterance.extra,
        ]
        # ASCII JSON, so that the surrogates of undecodable bytes survive.
        self.connection.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                key,
                _storable(group),
                _storable(text_key),
                samples_hash,
                utterance.duration,
                reason,
                _storable(detail),
                _storable(split),
                json.dumps(fields),
            ),
        )
        self.commit()

    def rows(self) -> Iterator[Row]:
        """All utterances in the order of the source."""
        query = (
            "SELECT number, record, reason, detail, split, measured FROM rows LEFT JOIN audio "
            "ON audio.key = rows.key ORDER BY number"
        )
        for number, record, reason, detail, split, measured in self.connection.execute(query):
            yield Row(
                number,
                Utterance(*json.loads(record)),
                Measured(*json.loads(measured)) if measured else Measured(),
                reason,
                detail,
                split,
            )

    def group_seconds(self, *, limit: int | None = None) -> dict[str, float]:
        """Seconds of kept audio by group (speaker, session, sentence)."""
        return dict(
            self.connection.execute(
                "SELECT grp, SUM(duration) FROM rows WHERE reason IS NULL GROUP BY grp ORDER BY "
                "grp LIMIT ?",
                (-1 if limit is None else limit,),
            )
        )

    def scalar(self, query: str, *values):
        """The single value that a query gives."""
        return self.connection.execute(query, values).fetchone()[0]


def _storable(text: str) -> str:
    """A text as SQLite can keep it."""
    return text.encode("utf-8", "backslashreplace").decode()
