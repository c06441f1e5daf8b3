"""The form in which texts are scored: whisper-normalizer's English rules, its basic rules for other
languages, a user's replacements before.

The Open ASR Leaderboard scored with the English rules from 2023 to April 2026; what it added since
(further fillers, spelled names, joined acronyms) belongs in a replacement table if its newest
figures are to be met.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable
from functools import lru_cache

from parakeet_ft.data.text import TextRules, normalise

RAW = "none"


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Calling it normalises a text. `language` is a code such as en or pl, or `none`: only
    replacements and single spaces.

    `replacements` are (written, scored) pairs as of parakeet_ft.data.text.load_replacements,
    applied first, on whole words, then again after the rules, so that a pair may name either form.
    """

    language: str = "en"
    replacements: tuple[tuple[str, str], ...] = ()

    def __call__(self, text: str) -> str:
        return _normalized(self, text)

    def describe(self) -> str:
        """Name and version, to be stored beside the figures."""
        parts = ["none"]
        if self.language != RAW:
            name = "EnglishTextNormalizer" if self.language == "en" else "BasicTextNormalizer"
            version = importlib.metadata.version("whisper_normalizer")
            parts = [f"whisper_normalizer {version} {name}"]
        if self.replacements:
            digest = hashlib.sha256(repr(self.replacements).encode()).hexdigest()[:8]
            parts.append(f"{len(self.replacements)} replacements ({digest})")
        return ", ".join(parts)


@lru_cache(maxsize=200_000)
def _normalized(normalizer: Normalizer, text: str) -> str:
    """A text as a normaliser makes it, kept since texts come again."""
    rules = TextRules(replacements=normalizer.replacements)
    text = normalise(text, rules=rules)
    if normalizer.language == RAW:
        return text
    return normalise(_whisper(normalizer.language)(text), rules=rules)


@lru_cache(maxsize=8)
def _whisper(language: str) -> Callable[[str], str]:
    """The rules of Whisper for a language, made once."""
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    # Without marks a Hindi or Thai word would fall into pieces (see whisper_normalizer's own note).
    return BasicTextNormalizer(preserve_marks=True)
