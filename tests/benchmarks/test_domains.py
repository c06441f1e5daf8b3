"""Domains of real speech out of made-up corpora of both layouts."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TAKES = 10


@pytest.fixture
def domains(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import domains

    monkeypatch.setattr(domains, "STRINGS", {"train": 6, "dev": 6, "test": 5})
    return domains


def level_of(digit: int, take: int) -> float:
    """The constant that a made-up recording holds, so that it is known wherever it is."""
    return 0.1 + 0.05 * digit + 0.004 * take


def make_digits(folder: Path, speakers: str, *, table: bool = False) -> Path:
    """Recordings of 0.2 s at 8 kHz that hold level_of throughout."""
    (folder / "recordings").mkdir(parents=True)
    rows = []
    for speaker in speakers.split():
        for digit in range(10):
            for take in range(TAKES):
                name = f"recordings/{digit}_{speaker}_{take}.wav"
                samples = np.full(1600, level_of(digit, take))
                soundfile.write(folder / name, samples, 8000)
                rows.append([name, WORDS[digit], speaker, take])
    if table:
        write_table(folder, ["path", "text", "speaker", "take"], rows)
    return folder


WORDS = "zero one two three four five six seven eight nine".split()


def write_table(folder: Path, header: list[str], rows: list[list]) -> None:
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def plateaus(path: str) -> list[tuple[float, int, int]]:
    """(level, first sample, last sample) of each stretch that is not silence."""
    samples, rate_hz = soundfile.read(path)
    assert rate_hz == 16000
    edges = np.flatnonzero(np.diff(np.r_[False, np.abs(samples) > 0.02, False]))
    return [
        (float(np.median(samples[begin:end])), int(begin), int(end))
        for begin, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def read_sets(folder: Path) -> dict:
    return {name: read_manifest(folder / f"{name}.jsonl") for name in ("train", "dev", "test")}


def speakers_of(utterances) -> set:
    return {u.speaker for u in utterances}


@pytest.mark.parametrize("table", [False, True])
def test_strings_hold_the_digits_that_their_text_says_with_silence_between(
    table, domains, tmp_path
):
    corpus = make_digits(tmp_path / "fsdd", "anna ben carl", table=table)
    domains.write_digits(corpus, tmp_path / "out")
    sets = read_sets(tmp_path / "out")
    assert {name: len(found) for name, found in sets.items()} == {"train": 12, "dev": 6, "test": 5}
    for utterance in (u for found in sets.values() for u in found):
        heard = plateaus(utterance.audio_filepath)
        words = utterance.text.split()
        assert 3 <= len(words) <= 7 and len(heard) == len(words)
        for (level, begin, end), word in zip(heard, words, strict=True):
            digit = WORDS.index(word)
            assert level_of(digit, 0) - 0.002 < level < level_of(digit, TAKES) - 0.002
            assert abs(end - begin - 3200) < 40
        pauses = [b[1] - a[2] for a, b in itertools.pairwise(heard)]
        assert all(0.05 * 16000 - 40 < pause < 0.25 * 16000 + 40 for pause in pauses)
        frames = soundfile.info(utterance.audio_filepath).frames
        assert abs(frames / 16000 - utterance.duration) < 1e-4


def test_of_three_speakers_the_last_is_only_tested_and_dev_has_recordings_train_has_not(
    domains, tmp_path
):
    corpus = make_digits(tmp_path / "fsdd", "anna ben carl")
    domains.write_digits(corpus, tmp_path / "out")
    sets = read_sets(tmp_path / "out")
    assert {name: speakers_of(found) for name, found in sets.items()} == {
        "train": {"anna", "ben"},
        "dev": {"anna", "ben"},
        "test": {"carl"},
    }
    takes = {
        name: {
            round((level - level_of(WORDS.index(word), 0)) / 0.004)
            for u in sets[name]
            for (level, _, _), word in zip(plateaus(u.audio_filepath), u.text.split(), strict=True)
        }
        for name in ("train", "dev")
    }
    assert takes["dev"] == {0, 1} and takes["train"] == set(range(2, TAKES))


def test_of_six_speakers_none_is_in_two_sets(domains, tmp_path):
    corpus = make_digits(tmp_path / "fsdd", "a b c d e f")
    domains.write_digits(corpus, tmp_path / "out")
    found = {
        name: speakers_of(utterances) for name, utterances in read_sets(tmp_path / "out").items()
    }
    assert found == {"train": {"a", "b", "c"}, "dev": {"d"}, "test": {"e", "f"}}


def test_the_same_recordings_give_the_same_strings_in_either_layout(domains, tmp_path):
    texts = []
    for table in (False, True):
        corpus = make_digits(tmp_path / f"fsdd{table}", "anna ben carl", table=table)
        domains.write_digits(corpus, tmp_path / f"out{table}")
        sets = read_sets(tmp_path / f"out{table}")
        texts.append([(u.text, u.duration) for found in sets.values() for u in found])
    assert texts[0] == texts[1]


def make_speechocean(folder: Path, *, kaldi: bool) -> Path:
    """Eight children of 8, two speakers of 14, eight adults of 20; three sentences each."""
    ages = {f"{n:04d}": 8 if n < 8 else 14 if n < 10 else 20 for n in range(18)}
    rows = [(f"{s}{i}", s, f"SENTENCE {i} OF {s}") for s in ages for i in range(3)]
    for key, speaker, _ in rows:
        path = folder / "WAVE" / f"SPEAKER{speaker}" / f"{key}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(8000), 16000)
    where = {key: f"WAVE/SPEAKER{speaker}/{key}.wav" for key, speaker, _ in rows}
    if not kaldi:
        table = [[where[key], text, speaker, ages[speaker]] for key, speaker, text in rows]
        write_table(folder, ["path", "text", "speaker", "age"], table)
        return folder
    (folder / "train").mkdir()
    files = {
        "wav.scp": [f"{key}\t{where[key]}" for key, _, _ in rows],
        "text": [f"{key}\t{text}" for key, _, text in rows],
        "utt2spk": [f"{key}\t{speaker}" for key, speaker, _ in rows],
        "spk2age": [f"{speaker} {age}" for speaker, age in ages.items()],
    }
    for name, lines in files.items():
        (folder / "train" / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("kaldi", [False, True])
def test_children_and_adults_are_apart_and_no_speaker_is_in_two_sets(kaldi, domains, tmp_path):
    corpus = make_speechocean(tmp_path / "so", kaldi=kaldi)
    domains.write_speechocean(corpus, tmp_path / "out")
    for name, age in (("children", 8), ("adults", 20)):
        sets = read_sets(tmp_path / "out" / name)
        assert {u.extra["age"] for found in sets.values() for u in found} == {age}
        sizes = {split: len(speakers_of(found)) for split, found in sets.items()}
        assert sizes == {"train": 5, "dev": 1, "test": 2}
        assert len(set.union(*map(speakers_of, sets.values()))) == 8
        one = sets["train"][0]
        assert one.text == one.text.lower() and one.duration == 0.5
        assert Path(one.audio_filepath).is_absolute() and Path(one.audio_filepath).is_file()


def test_both_layouts_of_speechocean_give_the_same_sets(domains, tmp_path):
    found = []
    for kaldi in (False, True):
        corpus = make_speechocean(tmp_path / f"so{kaldi}", kaldi=kaldi)
        domains.write_speechocean(corpus, tmp_path / f"out{kaldi}")
        sets = read_sets(tmp_path / f"out{kaldi}" / "adults")
        found.append({name: [(u.text, u.speaker) for u in sets[name]] for name in sets})
    assert found[0] == found[1]


def test_a_wrong_folder_is_told_with_what_was_expected(domains, tmp_path):
    corpus = make_speechocean(tmp_path / "so", kaldi=False)
    with pytest.raises(UserError, match=r"--digits .*sentence 0 of.*Free Spoken Digit Dataset"):
        (tmp_path / "so" / "metadata.csv").write_text((corpus / "metadata.csv").read_text().lower())
        domains.write_digits(corpus, tmp_path / "out")
    with pytest.raises(UserError, match="no recording.*Free Spoken Digit Dataset"):
        domains.write_digits(tmp_path, tmp_path / "out")
    digits = make_digits(tmp_path / "fsdd", "anna", table=True)
    with pytest.raises(UserError, match="without a speaker's age.*speechocean762"):
        domains.write_speechocean(digits, tmp_path / "out")
    with pytest.raises(UserError, match="anna alone, expected two"):
        domains.write_digits(digits, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_many_test_sentences_are_in_train(tmp_path):
    make_speechocean(tmp_path / "so", kaldi=False)
    rows = list(csv.reader((tmp_path / "so" / "metadata.csv").open()))
    write_table(tmp_path / "so", rows[0], [[r[0], "THE SAME", *r[2:]] for r in rows[1:]])
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "domains.py", "--speechocean", tmp_path / "so"]
        + ["--out", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "6 sentences of 12 to 15 years left out" in done.stdout
    assert "adults test: 6 utterances" in done.stdout
    assert done.stdout.count("6 of the sentences in train too") == 2
    manifest = (tmp_path / "out" / "adults" / "test.jsonl").read_text().splitlines()
    assert {json.loads(line)["text"] for line in manifest} == {"the same"}


def test_the_command_without_a_corpus_is_a_mistake(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "domains.py", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "neither --digits nor --speechocean" in done.stderr
    assert "Traceback" not in done.stderr
