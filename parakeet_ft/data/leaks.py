"""What train shares with dev and test: the same samples, the same text, nearly the same text, the
same speaker.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from parakeet_ft.data.ledger import Ledger

# Jaccard similarity of words and word pairs from which two texts count as nearly the same: one word
# changed in nine gives 0.7.
NEAR = 0.7
# Shorter sentences resemble each other by nature ("turn left heading two one zero").
FEWEST_WORDS = 6
EXAMPLES = 10


@dataclasses.dataclass
class Leaks:
    """Counts of utterances of a held-out split that another split shares; keys are (held-out split,
    other split).
    """

    audio: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    text: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    speakers: dict[tuple[str, str], list[str]] = dataclasses.field(default_factory=dict)
    near_text: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    near_examples: list[tuple[str, str, str, float]] = dataclasses.field(default_factory=list)
    held_out: dict[str, int] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people, a line a finding; empty if nothing is shared."""
        out = [
            *self._counted("the samples", self.audio),
            *self._counted("the text", self.text),
            *self._counted("nearly the text", self.near_text),
        ]
        for (held, other), names in self.speakers.items():
            if names:
                shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
                out.append(f"{held} shares {len(names)} speakers with {other}: {shown}")
        return out

    def _counted(self, what: str, found: dict[tuple[str, str], int]) -> list[str]:
        """A line for each pair of splits that share something."""
        return [
            f"{held} shares {what} of {count} of its {self.held_out[held]} utterances with {other}"
            for (held, other), count in found.items()
            if count
        ]


def find_leaks(
    ledger: Ledger,
    *,
    pairs: Iterable[tuple[str, str]] = (("test", "train"), ("dev", "train"), ("test", "dev")),
) -> Leaks:
    """Compare the splits of a ledger in which splits are assigned."""
    leaks = Leaks()
    kept = "reason IS NULL AND split = ?"
    for held, other in pairs:
        leaks.held_out[held] = ledger.scalar(f"SELECT COUNT(*) FROM rows WHERE {kept}", held)
        if not leaks.held_out[held]:
            continue
        for found, column in ((leaks.audio, "samples_hash"), (leaks.text, "text_key")):
            found[held, other] = ledger.scalar(
                f"SELECT COUNT(*) FROM rows WHERE {kept} AND {column} != '' AND {column} IN "
                f"(SELECT {column} FROM rows WHERE {kept})",
                held,
                other,
            )
        speaker = "json_extract(record, '$[4]')"
        leaks.speakers[held, other] = [
            name
            for (name,) in ledger.connection.execute(
                f"SELECT DISTINCT {speaker} FROM rows WHERE {kept} AND {speaker} IS NOT NULL AND "
                f"{speaker} IN (SELECT {speaker} FROM rows WHERE {kept}) ORDER BY 1",
                (held, other),
            )
        ]
        near = list(near_duplicates(_texts(ledger, held), _texts(ledger, other)))
        leaks.near_text[held, other] = len({mine for mine, _, _ in near})
        leaks.near_examples += [
            (held, mine, theirs, similarity) for mine, theirs, similarity in near[:EXAMPLES]
        ]
    return leaks


def _texts(ledger: Ledger, split: str) -> Iterator[str]:
    """The different texts of a split, in order."""
    cursor = ledger.connection.cursor()
    for (text,) in cursor.execute(
        "SELECT DISTINCT text_key FROM rows WHERE reason IS NULL AND split = ? ORDER BY text_key",
        (split,),
    ):
        yield text


def near_duplicates(
    held_out: Iterable[str], others: Iterable[str], *, threshold: float = NEAR
) -> Iterator[tuple[str, str, float]]:
    """Yield (held-out text, other text, similarity) of pairs that are nearly, not exactly, the
    same. Holds `held_out` in memory only.

    Exact, by prefix filtering (Chaudhuri et al. 2006): sets with Jaccard similarity t share one of
    their rarest (1 - t) shingles.
    """
    mine = {text: shingles for text in held_out if (shingles := _shingles(text))}
    frequency = Counter(itertools.chain.from_iterable(mine.values()))
    index = defaultdict(set)
    for text, shingles in mine.items():
        for shingle in _rarest(shingles, frequency, threshold):
            index[shingle].add(text)
    for other in others:
        shingles = _shingles(other)
        candidates: set[str] = set()
        for shingle in _rarest(shingles, frequency, threshold):
            candidates |= index.get(shingle, set())
        for text in sorted(candidates - {other}):
            similarity = len(mine[text] & shingles) / len(mine[text] | shingles)
            if similarity >= threshold:
                yield text, other, similarity


def _rarest(shingles: set[str], frequency: Counter[str], threshold: float) -> list[str]:
    """The shingles of which another text must share one to be near; none of a text without any.

    What no held-out text has comes first: it cannot match, but it takes its place in the prefix.
    """
    if not shingles:
        return []
    ordered = sorted(shingles, key=lambda shingle: (frequency.get(shingle, 0), shingle))
    return ordered[: len(ordered) - math.ceil(threshold * len(ordered)) + 1]


def _shingles(text: str) -> set[str]:
    """The words of a text and its pairs of neighbouring words."""
    words = text.split()
    if len(words) < FEWEST_WORDS:
        return set()
    return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}
