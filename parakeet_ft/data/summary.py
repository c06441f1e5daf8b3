"""Utterances -> hours, lengths, levels, alphabet, extremes. Pure; takes them one by one and keeps
counts, not utterances.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, defaultdict

from parakeet_ft.data.audio import Measured
from parakeet_ft.data.manifest import Utterance

EXTREMES = 10


@dataclasses.dataclass
class Histogram:
    """Counts in bins of equal width; what is beyond goes into the first or last bin."""

    low: float
    high: float
    bins: int
    counts: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * self.bins

    def add(self, value: float) -> None:
        """Count a value in its bin, those beyond the ends in the last."""
        at = int((value - self.low) / (self.high - self.low) * self.bins)
        self.counts[min(max(at, 0), self.bins - 1)] += 1


@dataclasses.dataclass
class Summary:
    """Totals of a data set; seconds, not hours. `dropped` maps a reason to [utterances,
    seconds].
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    count: Counter[str] = dataclasses.field(default_factory=Counter)
    words: Counter[str] = dataclasses.field(default_factory=Counter)
    speakers: dict[str, set[str]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    dropped: dict[str, list[float]] = dataclasses.field(
        default_factory=lambda: defaultdict(lambda: [0, 0.0])
    )
    dropped_examples: dict[str, list[tuple[str, str]]] = dataclasses.field(
        default_factory=lambda: defaultdict(list)
    )
    rates_hz: Counter[int] = dataclasses.field(default_factory=Counter)
    channels: Counter[int] = dataclasses.field(default_factory=Counter)
    alphabet: Counter[str] = dataclasses.field(default_factory=Counter)
    alphabet_example: dict[str, str] = dataclasses.field(default_factory=dict)
    durations: Histogram = dataclasses.field(default_factory=lambda: Histogram(0.0, 30.0, 30))
    chars_per_second: Histogram = dataclasses.field(
        default_factory=lambda: Histogram(0.0, 40.0, 40)
    )
    levels_dbfs: Histogram = dataclasses.field(default_factory=lambda: Histogram(-60.0, 0.0, 30))
    longest: list[tuple] = dataclasses.field(default_factory=list)
    shortest: list[tuple] = dataclasses.field(default_factory=list)
    slowest: list[tuple] = dataclasses.field(default_factory=list)
    fastest: list[tuple] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, utterance: Utterance, *, split: str, measured: Measured | None = None) -> None:
        """Count a kept utterance."""
        self.seconds[split] += utterance.duration
        self.count[split] += 1
        self.words[split] += len(utterance.text.split())
        if utterance.speaker is not None:
            self.speakers[split].add(utterance.speaker)
        self.alphabet.update(utterance.text)
        if len(self.alphabet_example) < len(self.alphabet):
            for character in utterance.text:
                self.alphabet_example.setdefault(character, utterance.text)
        if measured is not None:
            self.rates_hz[measured.rate_hz] += 1
            self.channels[measured.channels] += 1
            self.levels_dbfs.add(measured.level_dbfs)
        self.durations.add(utterance.duration)
        rate = len(utterance.text) / utterance.duration
        self.chars_per_second.add(rate)
        number = sum(self.count.values())
        # The number breaks ties, so that utterances are never compared with each other.
        _keep(self.longest, (utterance.duration, -number, utterance))
        _keep(self.shortest, (-utterance.duration, -number, utterance))
        if utterance.text:
            _keep(self.fastest, (rate, -number, utterance))
            _keep(self.slowest, (-rate, -number, utterance))

    def drop(self, utterance: Utterance, *, reason: str, detail: str = "") -> None:
        """Count a dropped utterance."""
        entry = self.dropped[reason]
        entry[0] += 1
        entry[1] += utterance.duration
        if len(self.dropped_examples[reason]) < EXTREMES:
            self.dropped_examples[reason].append(
                (utterance.audio_filepath, detail or utterance.text[:80])
            )

    @property
    def num_kept(self) -> int:
        """Utterances that are kept."""
        return sum(self.count.values())

    @property
    def num_dropped(self) -> int:
        """Utterances that are dropped."""
        return int(sum(entry[0] for entry in self.dropped.values()))

    @property
    def hours_kept(self) -> float:
        """Hours of what is kept."""
        return sum(self.seconds.values()) / 3600

    @property
    def hours_dropped(self) -> float:
        """Hours of what is dropped, as far as its length is known."""
        return sum(entry[1] for entry in self.dropped.values()) / 3600

    @property
    def dropped_share(self) -> float:
        """Dropped utterances over all, a fraction. Of utterances and not hours, since an unreadable
        file has none.
        """
        return self.num_dropped / max(1, self.num_kept + self.num_dropped)


def _keep(heap: list[tuple], entry: tuple) -> None:
    """Keep the largest few."""
    heapq.heappush(heap, entry)
    if len(heap) > EXTREMES:
        heapq.heappop(heap)


def print_summary(summary: Summary, *, title: str) -> None:
    """The table in the terminal: hours in, kept, dropped by reason; utterances, words and speakers
    by split.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("hours", "utterances", "words", "speakers"):
        table.add_column(column, justify="right")
    table.add_row(
        "in",
        f"{summary.hours_kept + summary.hours_dropped:.3f}",
        f"{summary.num_kept + summary.num_dropped:,}",
        "",
        "",
        end_section=True,
    )
    for split in sorted(
        summary.count,
        key=lambda s: ("train", "dev", "test").index(s) if s in ("train", "dev", "test") else 9,
    ):
        table.add_row(
            escape(split),
            f"{summary.seconds[split] / 3600:.3f}",
            f"{summary.count[split]:,}",
            f"{summary.words[split]:,}",
            f"{len(summary.speakers[split]):,}" if summary.speakers[split] else "-",
        )
    table.add_section()
    for reason, (count, seconds) in sorted(summary.dropped.items(), key=lambda item: -item[1][0]):
        table.add_row(
            f"dropped: {reason}", f"{seconds / 3600:.3f}", f"{int(count):,}", "", "", style="yellow"
        )
    if not summary.dropped:
        table.add_row("dropped", "0", "0", "", "")
    console.print(table)
    for note in summary.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
