"""Each audio file is looked for once; a later run goes on where one was stopped, or looks at a
sample."""

import json

import pytest

from parakeet_ft.data import corpus, existence
from parakeet_ft.data.audit import quick_check
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.existence import missing_files
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.overlap import check_overlap
from parakeet_ft.errors import UserError


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """A manifest of thirty files, ninety lines, that is kept in the cache as a large one is."""
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "SMALL", 0)
    monkeypatch.setattr(existence, "NOTED", 8)
    monkeypatch.setattr(existence, "CHUNK", 3)
    for number in range(30):
        (tmp_path / f"{number}.wav").write_bytes(b"x")
    path = tmp_path / "m.jsonl"
    path.write_text(
        "".join(
            json.dumps({"audio_filepath": f"{i % 30}.wav", "duration": 1, "text": f"t{i}"}) + "\n"
            for i in range(90)
        )
    )
    return path


@pytest.fixture
def looked_for(monkeypatch):
    """The names of all files that are looked for."""
    seen = []
    isfile = existence.os.path.isfile

    def look(path):
        seen.append(path.rpartition("/")[2])
        return isfile(path)

    monkeypatch.setattr(existence.os.path, "isfile", look)
    return seen


def test_every_file_is_looked_for_once_and_later_a_sample(manifest, looked_for, monkeypatch):
    found = Corpus.open(manifest)
    looked_for.clear()
    assert missing_files(found) == ([], [])
    assert sorted(looked_for) == sorted(f"{i}.wav" for i in range(30))
    monkeypatch.setattr(existence, "SAMPLE", 7)
    looked_for.clear()
    gone, (line,) = missing_files(found)
    assert gone == [] and len(set(looked_for)) == 7
    assert "all 30 audio files were found by an earlier run; 7 of them" in line


def test_files_that_are_gone_are_named_in_order_and_looked_for_again(manifest, looked_for):
    found = Corpus.open(manifest)
    for number in (29, 3, 12):
        (manifest.parent / f"{number}.wav").unlink()
    for _ in range(2):
        gone, lines = missing_files(found)
        names = [path.rpartition("/")[2] for path in gone]
        assert names == ["3.wav", "12.wav", "29.wav"] and lines == []


def test_a_search_that_was_stopped_goes_on_where_it_was(manifest, looked_for, monkeypatch):
    found = Corpus.open(manifest)
    search = existence._missing
    begun = []

    def stop_at_the_third(paths):
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return search(paths)

    with monkeypatch.context() as patched:
        patched.setattr(existence, "_missing", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            missing_files(found)
    looked_for.clear()
    assert missing_files(found) == ([], [])
    assert sorted(looked_for) == sorted(f"{i}.wav" for i in range(16, 30))


def test_a_file_that_goes_later_is_found_by_the_sample(manifest):
    found = Corpus.open(manifest)
    missing_files(found)
    (manifest.parent / "5.wav").unlink()
    gone, _ = missing_files(found)  # the sample is larger than the corpus
    assert [path.rpartition("/")[2] for path in gone] == ["5.wav"]


def test_small_sets_are_looked_for_in_full_each_time(manifest, looked_for):
    found = Corpus.of([Utterance(str(manifest), 1.0, "t")] * 3)
    assert missing_files(found) == missing_files(found) == ([], [])
    assert looked_for == ["m.jsonl", "m.jsonl"]


def test_blank_texts_are_counted_by_their_fields():
    given = [
        Utterance("a", 1.0, text, extra=extra)
        for text, extra in (
            ("x", {}),
            ("", {}),
            (" \u3000", {"k": 1}),
            ("", {"non_speech": True}),
            ("", {"non_speech": False}),
        )
    ]
    both = Corpus.of(given) + Corpus.of(given[::-1])
    assert both.blank().tolist() == [1, 2, 4, 5, 7, 8]
    expected = [i for i, u in enumerate(both) if not u.text.strip()]
    assert set(both.blank().tolist()) == set(expected) - {3, 6}


def test_a_manifest_without_its_audio_is_refused_with_the_number_of_files(manifest):
    for number in range(30):
        (manifest.parent / f"{number}.wav").unlink()
    with pytest.raises(UserError, match="names 30 audio files that do not exist, the first five"):
        quick_check(Corpus.open(manifest), where="m")


@pytest.mark.parametrize("parts", [1, 3])
def test_overlap_is_found_in_any_part_of_what_is_trained_on(parts):
    def one(number, text="t"):
        return Utterance(f"{number % 7}.wav", 2.0, f"{text} {number}", offset=2.0 * number)

    trained = [one(i) for i in range(60)]
    step = 60 // parts
    corpora = [Corpus.of(trained[i : i + step]) for i in range(0, 60, step)]
    train = sum(corpora[1:], corpora[0])
    scored = [one(3), one(59), one(70), Utterance("else.wav", 2.0, "t 5")]
    with pytest.raises(UserError, match="2 of the 4 utterances of data.test are in data.train"):
        check_overlap({"train": train, "test": scored})
    (line,) = check_overlap({"train": train, "test": scored[2:]})
    assert "1 of the 2 utterances of data.test have the text and the length" in line
