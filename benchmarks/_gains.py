"""What a way gained on a domain and lost on the guard, over seeds, with what chance leaves open.
Pure.

Errors of an utterance are averaged over the seeds, and utterances are drawn anew (paired bootstrap
of 2,000 draws: the same draws for the base and for every seed); where a set has ten speakers or
more, whole speakers. So the interval is of the test set's chance, and the range over the seeds is
of the training's.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from parakeet_ft.scoring import wer
from parakeet_ft.scoring.selection import LEAST_SPEAKERS

DRAWS = 2000
HEADER = (
    "way",
    "learns %",
    "domain WER %",
    "against the base [95 %]",
    "rel. %",
    "gain %",
    "guard WER %",
    "against the base [95 %]",
)
LEGEND = (
    "WER: mean of the seeds (lowest-highest). rel.: of the base's domain WER. "
    "gain: of what the default gains."
)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A test set: words of each utterance's reference (N), who speaks, the base's errors (N)."""

    words: np.ndarray
    speakers: Sequence[str | None]
    base: np.ndarray

    @property
    def base_wer(self) -> float:
        """WER of the base."""
        return float(self.base.sum() / self.words.sum())

    @property
    def by_speaker(self) -> bool:
        """Whether whole speakers are drawn."""
        return None not in self.speakers and len(set(self.speakers)) >= LEAST_SPEAKERS

    def describe(self) -> str:
        """Its size, and what is drawn of it."""
        unit = "speakers" if self.by_speaker else "utterances"
        return f"{len(self.words)} utterances, {self.words.sum()} words, {unit} drawn"


@dataclasses.dataclass(frozen=True)
class Change:
    """WER of each seed, and their mean's difference from the base with its 95 % interval."""

    wers: tuple[float, ...]
    difference: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """WER, mean of the seeds."""
        return sum(self.wers) / len(self.wers)


@dataclasses.dataclass(frozen=True)
class Row:
    """A way: the share of the weights that learn, and its changes; for the domain relative to the
    base, and as a share of the default's gain where that is known.
    """

    way: str
    learning_share: float | None
    domain: Change
    guard: Change
    relative: float
    of_default: float | None


def change(errors: Sequence[np.ndarray], scored: Scored) -> Change:
    """Of the errors (N) that the models of several seeds make."""
    after = np.mean(errors, axis=0)
    values = np.stack([after - scored.base, scored.words], axis=1)
    if scored.by_speaker:
        values = np.stack(list(wer.sum_by([str(s) for s in scored.speakers], values).values()))
    difference = float(values[:, 0].sum() / values[:, 1].sum())
    draws = wer.resample(values, replications=DRAWS, seed=0)
    low, high = wer.interval(draws, estimate=difference, units=len(values))
    wers = tuple(float(found.sum() / scored.words.sum()) for found in errors)
    return Change(wers, difference, low, high)


def row(
    way: str,
    runs: Sequence[Mapping[str, Any]],
    domain: Scored,
    guard: Scored,
    *,
    default_gain: float | None,
) -> Row:
    """runs: of each seed, {domain: errors (N), guard: errors (N), learning_share}."""
    found = change([np.asarray(run["domain"]) for run in runs], domain)
    gain = -found.difference
    return Row(
        way,
        runs[0]["learning_share"],
        found,
        change([np.asarray(run["guard"]) for run in runs], guard),
        relative=found.difference / domain.base_wer if domain.base_wer else 0.0,
        of_default=gain / default_gain if default_gain else None,
    )


def cells(found: Row) -> Iterator[str]:
    """A row as text, in the order of HEADER."""
    yield found.way
    yield "" if found.learning_share is None else f"{100 * found.learning_share:.1f}"
    yield _over_seeds(found.domain)
    yield _difference(found.domain)
    yield f"{100 * found.relative:+.0f}"
    yield "" if found.of_default is None else f"{100 * found.of_default:.0f}"
    yield _over_seeds(found.guard)
    yield _difference(found.guard)


def base_cells(domain: Scored, guard: Scored) -> list[str]:
    """The first row."""
    return [
        "base",
        "",
        f"{100 * domain.base_wer:.1f}",
        "",
        "",
        "",
        f"{100 * guard.base_wer:.1f}",
        "",
    ]


def _over_seeds(found: Change) -> str:
    shown = f"{100 * found.mean:.1f}"
    if len(found.wers) > 1:
        shown += f" ({100 * min(found.wers):.1f}-{100 * max(found.wers):.1f})"
    return shown


def _difference(found: Change) -> str:
    points = (100 * value for value in (found.difference, found.low, found.high))
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*points)


def table(title: str, rows: Iterable[Sequence[str]]) -> Table:
    """For a terminal of 120 columns."""
    made = Table(*HEADER, title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in made.columns[1:]:
        column.justify = "right"
    for one in rows:
        made.add_row(*one)
    return made


def markdown(title: str, rows: Iterable[Sequence[str]]) -> str:
    """For benchmarks/README.md."""
    lines = [f"**{title}**", "", f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    lines += [f"| {' | '.join(one)} |" for one in rows]
    return "\n".join(lines)
