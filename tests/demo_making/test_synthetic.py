"""The bundled demo: splits that share nothing, sizes that fit, a checkpoint that plain NeMo
restores.
"""

import random
from pathlib import Path

import pytest
from synthetic import atc_text, general_text, voices

from parakeet_ft.data.audit import quick_check
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.files import DEMO

SETS = {path.stem: read_manifest(path) for path in sorted(DEMO.glob("*.jsonl"))}
MINUTES = {
    "train": 15,
    "dev": 6.8,
    "test": 6.8,
    "guard_dev": 12.5,
    "guard": 12.5,
    "replay": 15,
}
WORDS = {"dev": 1000, "test": 1000, "guard_dev": 2000, "guard": 2000}


@pytest.mark.parametrize("name", MINUTES)
def test_every_set_is_whole_and_as_long_as_stated(name):
    assert quick_check(SETS[name], sample=1000) == []
    assert sum(u.duration for u in SETS[name]) / 60 == pytest.approx(MINUTES[name], abs=0.2)


@pytest.mark.parametrize("name", WORDS)
def test_a_point_of_a_set_that_is_scored_is_ten_words_or_more(name):
    assert sum(len(u.text.split()) for u in SETS[name]) >= WORDS[name]


def test_train_dev_and_test_share_neither_speaker_nor_sentence():
    names = ("train", "dev", "test")
    for field in ("speaker", "text"):
        found = [{getattr(u, field) for u in SETS[name]} for name in names]
        assert all(a.isdisjoint(b) for i, a in enumerate(found) for b in found[i + 1 :]), field


def test_speakers_differ_by_voice_and_not_only_by_pitch():
    def timbre(u):
        return u.speaker.split(":")[1].rpartition("+")[2]

    names = ("train", "dev", "test")
    found = [{timbre(u) for u in SETS[name]} for name in names]
    assert all(a.isdisjoint(b) for i, a in enumerate(found) for b in found[i + 1 :])


def test_no_sentence_of_the_guard_is_trained_on():
    trained = {u.text for name in ("train", "replay") for u in SETS[name]}
    assert trained.isdisjoint({u.text for name in ("guard", "guard_dev") for u in SETS[name]})


def test_the_base_never_heard_the_domains_voices():
    rng = random.Random(5)
    heard = {
        (v.engine, v.name.rpartition("+")[2]) for v in (voices.base_voice(rng) for _ in range(5000))
    }
    domain = {
        (v.engine, v.name.rpartition("+")[2])
        for split in voices.domain_voices().values()
        for v in split
    }
    unseen = {(v.engine, v.name.rpartition("+")[2]) for v in voices.unseen_voices()}
    assert heard.isdisjoint(domain) and heard.isdisjoint(unseen)


def test_sizes_stay_within_what_a_clone_should_cost():
    def megabytes(files):
        return sum(Path(f).stat().st_size for f in files) / 1e6

    assert megabytes((DEMO / "audio").rglob("*.opus")) < 8 and megabytes([DEMO / "tiny.nemo"]) < 8


def test_grammars_write_lower_case_words_and_the_same_ones_for_a_seed():
    for grammar in (general_text, atc_text):
        texts = [grammar.sentence(random.Random(i)) for i in range(500)]
        assert texts == [grammar.sentence(random.Random(i)) for i in range(500)]
        assert all(
            set(text) <= set("abcdefghijklmnopqrstuvwxyz' ")
            and text == " ".join(text.split())
            and text
            for text in texts
        )
        assert len(set(texts)) > 400


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (305, "three hundred five"),
        (7000, "seven thousand"),
        (123456, "one hundred twenty three thousand four hundred fifty six"),
    ],
)
def test_numbers_are_spelled(number, words):
    assert general_text.spoken_number(number) == words
