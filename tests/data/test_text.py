"""Text normalisation: what each rule does, and that doing it twice changes nothing."""

import pytest

from parakeet_ft.data.text import (
    TextRules,
    is_utf8,
    load_replacements,
    normalise,
    spell_numbers,
    strip_punctuation,
    text_key,
)
from parakeet_ft.errors import UserError

ALL = TextRules(
    case="lower",
    punctuation="strip",
    numbers="en",
    replacements=(("Dr.", "Doctor"), ("Dr. med.", "Doctor of medicine"), ("km", "kilometres")),
)


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        ("  two\u00a0 words\n", TextRules(), "two words"),
        ("e\u0301t\u00e9", TextRules(), "été"),
        ("\u201cDon\u2019t\u201d \u2013 he said\u2026", TextRules(), '"Don\'t" - he said...'),
        ("\u201cDon\u2019t\u201d", TextRules(plain_quotes=False), "\u201cDon\u2019t\u201d"),
        ("می\u200cخواهم", TextRules(), "می\u200cخواهم"),
        ("zero\u200cwidth", TextRules(), "zerowidth"),
        (
            "Hello, World! It's a so-called 'test' (yes).",
            TextRules(punctuation="strip"),
            "Hello World It's a so called test yes",
        ),
        ("U.S. 3.5 1,000", TextRules(punctuation="strip"), "US 3.5 1000"),
        ("STRASSE Ünder", TextRules(case="lower"), "strasse ünder"),
        (
            "Dr. med. X and Dr. Y drove 5 km, not 5kmh",
            ALL,
            "doctor of medicine x and doctor y drove five kilometres not 5kmh",
        ),
        ("ไทย ๆ", TextRules(punctuation="strip"), "ไทย ๆ"),
    ],
)
def test_normalise(text, rules, expected):
    once = normalise(text, rules=rules)
    assert once == expected and normalise(once, rules=rules) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("21 and 3.5", "en", "twenty-one and three point five"),
        ("1,250 feet", "en", "one thousand, two hundred and fifty feet"),
        ("the 22nd", "en", "the twenty-second"),
        ("flight 007", "en", "flight zero zero seven"),
        ("B52 and 1.2.3 and 2x", "en", "B52 and 1.2.3 and 2x"),
        ("42 Äpfel.", "de", "zweiundvierzig Äpfel."),
    ],
)
def test_numbers_are_spelled(text, language, expected):
    pytest.importorskip("num2words")
    assert spell_numbers(text, language=language) == expected


def test_an_unknown_language_of_numbers_is_named():
    pytest.importorskip("num2words")
    with pytest.raises(UserError, match="'xx'"):
        spell_numbers("5", language="xx")


def test_a_replacement_table_is_read_and_a_bad_line_named(tmp_path):
    (tmp_path / "t").write_text("# comment\nDr.\tDoctor\n\nuh\t\n")
    assert load_replacements(str(tmp_path / "t")) == (("Dr.", "Doctor"), ("uh", ""))
    (tmp_path / "t").write_text("a\tb\nno tab\n")
    with pytest.raises(UserError, match="line 2 is 'no tab'"):
        load_replacements(str(tmp_path / "t"))


def test_keys_join_texts_that_sound_alike():
    assert text_key("“Hello, World!”") == text_key("hello world") == "hello world"
    assert text_key("it's") != text_key("its")


def test_stripping_agrees_with_a_character_loop():
    import random
    import unicodedata

    def slowly(text):
        out = []
        for i, c in enumerate(text):
            before, after = text[i - 1] if i else " ", text[i + 1] if i + 1 < len(text) else " "
            if unicodedata.category(c)[0] not in "PS" or (
                c == "'" and before.isalnum() and after.isalnum()
            ):
                out.append(c)
            elif c not in "'.":
                out.append(" ")
        return "".join(out)

    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices("abé '.-,!?«»€ñ", k=30))
        assert strip_punctuation(text) == slowly(text)


def test_undecodable_bytes_are_noticed():
    assert is_utf8("für") and not is_utf8(b"f\xfcr".decode("utf-8", "surrogateescape"))
