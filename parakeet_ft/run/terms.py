"""The terms that a run scores beside words: given, in a file, or found in the training texts; all
that is wrong with them is found before anything is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.corpus import Corpus
from parakeet_ft.errors import UserError
from parakeet_ft.run.composition import bundled
from parakeet_ft.scoring.terms import count_terms, find_terms
from parakeet_ft.settings.finetune import Evaluation
from parakeet_ft.settings.guards import roles
from parakeet_ft.settings.rules import shown

MOST_FOUND = 200
# Texts of each set that terms are looked for in, evenly taken.
MOST_TEXTS = 100_000


@dataclasses.dataclass(frozen=True)
class Terms:
    """The terms of a run, in the order in which they were given or, if found, by how often they
    occur in training. origin: given, found, or the file. said: how often each occurs in what
    validations score.
    """

    terms: tuple[str, ...]
    origin: str
    weight: float
    said: tuple[int, ...]

    @property
    def occurrences(self) -> int:
        """Of all of them in what validations score."""
        return sum(self.said)

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "origin": self.origin,
            "weight": self.weight,
            "occurrences": self.occurrences,
            "terms": dict(zip(self.terms, self.said, strict=True)),
        }

    def lines(self) -> list[str]:
        """What the console says of them."""
        absent = sum(not count for count in self.said)
        share = f"; {self.weight:g} of the domain's gain" if self.weight else ""
        lines = [
            f"terms      {len(self.terms)} ({self.origin}), {self.occurrences} occurrences in "
            f"validation{share}"
        ]
        if self.origin == "found":
            lines.append(f"           {_some(self.terms)}; all of them stand in run.json")
        if absent:
            unsaid = [t for t, count in zip(self.terms, self.said, strict=True) if not count]
            lines.append(f"           {absent} do not occur there: {_some(unsaid)}")
        return lines


def _some(terms: Sequence[str], most: int = 8) -> str:
    """The first few, and how many more there are."""
    named = ", ".join(terms[:most])
    return f"{named} and {len(terms) - most} more" if len(terms) > most else named


def resolve(
    asked: Evaluation, sets: Mapping[str, Corpus], *, references: Sequence[str]
) -> Terms | None:
    """The terms that the settings ask for; None if they ask for none. references: what validations
    score. Raises UserError for terms that cannot be meant, or that have a weight but never occur.
    """
    if asked.terms is None:
        return None
    if asked.terms == "auto":
        origin, terms = "found", _found(sets, references)
    else:
        origin = "given" if isinstance(asked.terms, list | tuple) else str(asked.terms)
        terms = _given(asked.terms)
    counts = count_terms(references, references, terms).by_term[:, 0]
    found = Terms(tuple(terms), origin, asked.terms_weight, tuple(map(int, counts)))
    if not found.occurrences and found.weight:
        raise UserError(
            f"{never_said(asked, found, references)} So evaluation.terms_weight={found.weight:g} "
            "would weigh nothing. Give terms that occur there, or evaluation.terms_weight=0."
        )
    return found


def never_said(asked: Evaluation, found: Terms, references: Sequence[str]) -> str:
    """That no term occurs, and whether they do in another spelling."""
    named = f"evaluation.terms={shown(asked.terms)}"
    if not found.terms:
        return (
            f"{named} found no term: none is frequent in data.train and data.validation and rare "
            "in the general speech."
        )
    plain = [" ".join(map(_bare, text.split())) for text in references]
    alike = count_terms(plain, plain, [" ".join(map(_bare, t.split())) for t in found.terms])
    written = int(alike.by_term[:, 0].sum())
    hint = ""
    if written:
        hint = (
            f" In other case or with punctuation they occur {written} times: terms are compared "
            "as they are written."
        )
    return (
        f"{named}: none of the {len(found.terms)} occurs in what is scored of data.validation "
        f"({len(references)} utterances).{hint}"
    )


def _bare(word: str) -> str:
    """A word without case and punctuation."""
    return "".join(filter(str.isalnum, word)).casefold()


def _given(value: list[str] | str) -> list[str]:
    """Terms of a list or a file, each once."""
    terms = [" ".join(term.split()) for term in read_lines(value, key="evaluation.terms")]
    if not terms:
        raise UserError("evaluation.terms=[] names no term. Give some, or null for none.")
    for term in terms:
        if not any(map(str.isalnum, term)):
            raise UserError(
                f"evaluation.terms={shown(value)}: {term!r} has no letter and no digit, so it is "
                "no word. Expected words and phrases as transcripts write them; take it out."
            )
    return list(dict.fromkeys(terms))


def file_of(asked: Evaluation) -> Path | None:
    """The file that the terms stand in, if they stand in one."""
    if not isinstance(asked.terms, str) or asked.terms == "auto":
        return None
    return Path(bundled(asked.terms) or asked.terms)


def _found(sets: Mapping[str, Corpus], references: Sequence[str]) -> list[str]:
    """Terms that are frequent in training and validation, and rare in general speech."""
    general = [*roles(sets, "replay").values(), *roles(sets, "validation").values()]
    if not general:
        raise UserError(
            "evaluation.terms=auto compares the domain with general speech, and there is none. "
            "Give data.replay.manifest or data.guard_validation, or the terms themselves."
        )
    return find_terms(
        _some_texts(sets["train"]),
        [text for key in general for text in _some_texts(sets[key])],
        most=MOST_FOUND,
        among=references,
    )


def _some_texts(corpus: Corpus) -> list[str]:
    """The texts of a set, of a large one as many as MOST_TEXTS."""
    count = min(len(corpus), MOST_TEXTS)
    return [corpus[i * len(corpus) // count].text for i in range(count)]


def read_lines(value: Any, *, key: str) -> tuple[str, ...]:
    """A list as it is, or the lines of the file that a string names; none of None. Raises
    UserError.
    """
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(str(item) for item in value)
    path = Path(bundled(value) or value)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # a pipe would be waited for
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{key}={value!r} cannot be read: {error}. Expected a list such as [a,b] or a UTF-8 "
            f"file with one a line."
        ) from None
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise UserError(f"{key}={value!r} holds no line of text.")
    return found
