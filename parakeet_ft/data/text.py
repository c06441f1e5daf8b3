"""Text normalisation, str -> str, pure. What it does to a text is the same whatever the source, and
shown in the report.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from typing import Literal

from parakeet_ft.errors import UserError

# Typographic marks that tokenizers of English ASR do not have, and what they stand for.
PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201b": "'",
        "\u2032": "'",
        "`": "'",
        "\u00b4": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u201f": '"',
        "\u00ab": '"',
        "\u00bb": '"',
        "\u2033": '"',
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2013": "-",
        "\u2014": " - ",
        "\u2015": " - ",
        "\u2212": "-",
        "\u2026": "...",
        "\u00a0": " ",
        "\u00ad": "",
        "\u200b": "",
        "\u200c": "",
        "\u200d": "",
        "\ufeff": "",
        "\u2060": "",
    }
)
# In scripts that join letters, these two are spelling and not decoration.
PLAIN_BUT_JOINERS = {code: plain for code, plain in PLAIN.items() if code not in (0x200C, 0x200D)}
JOINERS = re.compile("[\u0600-\u06ff\u0900-\u0dff]")
NUMBER = re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(st|nd|rd|th)?(?![\w]|[.,]\d)")


@dataclasses.dataclass(frozen=True)
class TextRules:
    """What is done to every text. `case` and `punctuation` are "keep" or "lower"/"strip"; `numbers`
    is a language of num2words or None.

    `replacements` are (from, to) pairs, applied first, on whole words where `from` begins and ends
    with a letter or digit.
    """

    case: str = "keep"
    punctuation: str = "keep"
    numbers: str | None = None
    replacements: tuple[tuple[str, str], ...] = ()
    unicode_form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    plain_quotes: bool = True


def normalise(text: str, *, rules: TextRules) -> str:
    """Replacements, Unicode form, plain quotes and dashes, numbers in words, punctuation, case,
    single spaces; in that order.
    """
    text = unicodedata.normalize(rules.unicode_form, text)
    if rules.replacements:
        pattern, table = _replacement_pattern(rules.replacements)
        text = pattern.sub(lambda match: table[match[0]], text)
    if rules.plain_quotes:
        text = text.translate(PLAIN_BUT_JOINERS if JOINERS.search(text) else PLAIN)
    if rules.numbers:
        text = spell_numbers(text, language=rules.numbers)
    if rules.punctuation == "strip":
        text = strip_punctuation(text)
    if rules.case == "lower":
        text = text.lower()
    return " ".join(text.split())


@functools.lru_cache(maxsize=8)
def _replacement_pattern(
    replacements: tuple[tuple[str, str], ...],
) -> tuple[re.Pattern, dict[str, str]]:
    """A pattern of all that is to be replaced, and what each match becomes."""
    # Longest first, so that "Dr. med." wins over "Dr.".
    parts = []
    for source, _ in sorted(replacements, key=lambda pair: -len(pair[0])):
        left = r"\b" if source[0].isalnum() else ""
        right = r"\b" if source[-1].isalnum() else ""
        parts.append(left + re.escape(source) + right)
    return re.compile("|".join(parts)), dict(replacements)


def strip_punctuation(text: str) -> str:
    """Remove punctuation and symbols: an apostrophe within a word ("don't") and a point within a
    number ("3.5") stay, a hyphen parts words.
    """
    return INNER.sub(_protect, text).translate(_WITHOUT_PUNCTUATION).translate(_UNPROTECT)


INNER = re.compile(r"(?<=[^\W_])'(?=[^\W_])|(?<=\d)\.(?=\d)|(?<=\d),(?=\d{3})")
# Private-use characters stand for what is kept while the rest goes.
_UNPROTECT = str.maketrans({"\ue000": "'", "\ue001": "."})


def _protect(match: re.Match) -> str:
    """A stand-in for what is kept."""
    return {"'": "\ue000", ".": "\ue001"}.get(match[0], "")


class _PunctuationTable(dict):
    """For str.translate: filled as characters are met, which is ten times as fast as a loop over
    the text.
    """

    def __missing__(self, code: int) -> int | str:
        self[code] = self._replacement(code)
        return self[code]

    @staticmethod
    def _replacement(code: int) -> int | str:
        """A space for punctuation and symbols, nothing for an apostrophe or point, else itself."""
        if unicodedata.category(chr(code))[0] not in "PS":
            return code
        return "" if chr(code) in "'." else " "


# What many say in the same words and the same time.
SHORT_WORDS, SHORT_CHARACTERS = 2, 16
_WITHOUT_PUNCTUATION = _PunctuationTable()


def spell_numbers(text: str, *, language: str) -> str:
    """Write numbers in words (through num2words): cardinals, decimals, English ordinals. Other
    digits ("B52", "1.2.3") stay as they are.
    """
    if not any(character.isdigit() for character in text):
        return text
    words = _number_speller()

    def spell(match: re.Match) -> str:
        """A number in words."""
        whole = match[1].replace(",", "")
        fraction = match[2]
        # num2words is slow and seldom what is said for very long digit strings, which are read
        # digit by digit.
        if len(whole) > 12 or (len(whole) > 1 and whole[0] == "0" and not fraction):
            return " ".join(words(int(digit), lang=language) for digit in whole)
        number = float(whole + fraction) if fraction else int(whole)
        return words(number, lang=language, to="ordinal" if match[3] else "cardinal")

    try:
        return NUMBER.sub(spell, text)
    except NotImplementedError:
        raise UserError(
            f"num2words cannot write numbers in {language!r}. Use a language code such as en, de, "
            f"fr or es."
        ) from None


def _number_speller():
    """num2words. Raises UserError if it is not installed."""
    try:
        from num2words import num2words
    except ImportError:
        raise UserError("Spelling numbers needs num2words: pip install num2words") from None
    return num2words


def load_replacements(path: str) -> tuple[tuple[str, str], ...]:
    """A user's table: two columns separated by a tab, from and to, one pair a line; # begins a
    comment. Raises UserError.
    """
    pairs = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                line = line.rstrip("\n")
                if not line.strip() or line.startswith("#"):
                    continue
                parts = line.split("\t")
                if len(parts) != 2 or not parts[0]:
                    raise UserError(
                        f"{path} line {number} is {line[:60]!r}, expected two columns separated by "
                        f"one tab: from, to."
                    )
                pairs.append((unicodedata.normalize("NFC", parts[0]), parts[1]))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the replacement table {path}: {error}") from None
    return tuple(pairs)


def is_utf8(text: str) -> bool:
    """Whether no byte of the text was undecodable (such bytes are read as lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_short(text: str) -> bool:
    """Whether many say a text as it stands: yes, no, a number."""
    return len(text) <= SHORT_CHARACTERS and len(text.split()) <= SHORT_WORDS


def text_key(text: str) -> str:
    """What two texts that sound alike have in common: case, punctuation and spacing removed. For
    duplicates and leaks, not for training.
    """
    plain = unicodedata.normalize("NFKC", text).translate(PLAIN)
    return " ".join(strip_punctuation(plain).lower().split())
