"""A corpus is the list that read_manifest gives, with its messages, out of files that all share."""

import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from parakeet_ft.data import cache, corpus, manifest_blocks
from parakeet_ft.data.corpus import Corpus, durations_of
from parakeet_ft.data.manifest import (
    ManifestError,
    Utterance,
    read_manifest,
    stream_manifest,
)
from parakeet_ft.errors import UserError
from parakeet_ft.settings.manifests import WeightedManifest

GOOD = [
    '{"audio_filepath": "a.wav", "duration": 1.5, "text": "one two"}',
    '{"text": "", "duration": 2, "audio_filepath": "../b.wav", "offset": 3}',
    '  {"audio_filepath":"/x/./c.wav","duration":1e1,"text":"żółć ✓ 語","speaker":7} ',
    '{"audio_filepath": "a.wav", "duration": 0.25, "text": "z", "speaker": "s", "lang": "en"}',
    '{"audio_filepath": "a.wav", "duration": 0.25, "text": "z", "speaker": null, "offset": null}',
    '{"audio_filepath": "d", "duration": 1, "text": "\\ud83d\\ude00 \\u0105", "n": [1, {"a": 2}]}',
    '{"audio_filepath": "d", "duration": 1, "text": "a  b ", "x": NaN, "y": true, "z": 1.0}',
    '{"audio_filepath": "d", "duration": 1, "text": "t", "extra": 3, "lang": "en", "a": "b"}',
    "",
    "   ",
    '{"audio_filepath": "e\\\\f", "duration": 3, "text": "\\"q\\"", "offset": -0.0}',
    '{"audio_filepath": "g\u2028h", "duration": 3, "text": "\\u000bline\\u0085"}',
]
HOSTILE = [
    "not json",
    "[1]",
    "7",
    '{"audio_filepath": "a", "duration": 1}',
    '{"audio_filepath": "a", "duration": 1, "text": "t", "text": "u"}',
    '{"audio_filepath": 3, "duration": 1, "text": "t"}',
    '{"audio_filepath": "a", "duration": 1, "text": 5}',
    '{"audio_filepath": "a", "duration": 0, "text": "t"}',
    '{"audio_filepath": "a", "duration": -1, "text": "t"}',
    '{"audio_filepath": "a", "duration": true, "text": "t"}',
    '{"audio_filepath": "a", "duration": "1", "text": "t"}',
    '{"audio_filepath": "a", "duration": NaN, "text": "t"}',
    '{"audio_filepath": "a", "duration": 1e999, "text": "t"}',
    '{"audio_filepath": "a", "duration": 1e9, "text": "t"}',
    '{"audio_filepath": "a", "duration": 1, "text": "t", "offset": -1}',
    '{"audio_filepath": "a", "duration": 1, "text": "t", "speaker": ["s"]}',
    '{"audio_filepath": "a", "duration": 1, "text": "\\ud83d"}',
    '{"audio_filepath": "a", "duration": 1, "text": "t"} {}',
    '{"audio_filepath": "a", "duration": 1, "text": "t"',
    '{"audio_filepath": "a", "duration": 1, "text": "a\tb"}',
    '{"audio_filepath": "a", "duration": 1, "text": "t", "n": ' + "9" * 5000 + "}",
    '{"audio_filepath": "a", "duration": 1, "text": "t", "n": ' + "[" * 100_000 + "}",
]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Every manifest is large here, and read in stretches of a few lines."""
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "SMALL", -1)
    monkeypatch.setattr(manifest_blocks, "STRETCH", 150)
    # Processes of a pool cost a second each.
    monkeypatch.setattr(manifest_blocks, "num_cores", lambda: 1)
    return tmp_path / "cache"


def write(path, lines, *, end="\n", last=True):
    path.write_bytes((end.join(lines) + (end if last else "")).encode())
    return path


def same(found, expected):
    """Whether utterances are equal; NaN is what is not equal to itself."""
    return [repr(u) for u in found] == [repr(u) for u in expected]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_good_lines_are_what_read_manifest_gives(cached, tmp_path, end, last, small, monkeypatch):
    if small:
        monkeypatch.setattr(corpus, "SMALL", 1_000_000)
    path = write(tmp_path / "m.jsonl", GOOD * 3, end=end, last=last)
    expected, found = read_manifest(path), Corpus.open(path)
    assert len(found) == len(expected) == 30
    assert same(found, expected) and same([found[i] for i in range(30)], expected)
    assert same(found[3:9:2], expected[3:9:2]) and repr(found[-1]) == repr(expected[-1])
    assert found.durations.tolist() == [u.duration for u in expected]
    assert list(found.texts()) == [u.text for u in expected]
    assert set(found.paths()) == {u.audio_filepath for u in expected}
    assert found.speakers() == [u.speaker for u in expected]
    assert found.num_words == sum(len(u.text.split()) for u in expected)
    assert found.most_characters == max(len(u.text) for u in expected)
    assert found.text_sizes.tolist() == [len(u.text.encode()) for u in expected]
    assert cached.exists() != small


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("last", [True, False])
def test_a_hostile_line_is_told_as_stream_manifest_tells_it(
    cached, tmp_path, line, last, small, monkeypatch
):
    if small:
        monkeypatch.setattr(corpus, "SMALL", 1_000_000)
    path = write(tmp_path / "m.jsonl", [*GOOD, *GOOD, line, *([GOOD[0]] if last else [])])
    with pytest.raises(ManifestError) as told:
        list(stream_manifest(path))
    with pytest.raises(ManifestError) as found:
        Corpus.open(path)
    assert str(found.value) == str(told.value) and f"line {2 * len(GOOD) + 1}" in str(told.value)
    assert not list(cached.glob("corpus-*"))


def test_a_byte_order_mark_of_a_file_put_behind_another_is_no_part_of_a_line(cached, tmp_path):
    path = write(tmp_path / "m.jsonl", ["\ufeff" + GOOD[0], *GOOD, "\ufeff" + GOOD[0], *GOOD])
    plain = write(tmp_path / "plain.jsonl", [GOOD[0], *GOOD, GOOD[0], *GOOD])
    assert same(Corpus.open(path), read_manifest(plain)) and list(cached.glob("corpus-*"))


def test_of_several_bad_lines_the_first_is_told(cached, tmp_path):
    path = write(tmp_path / "m.jsonl", [*GOOD, "bad", *GOOD, "worse"])
    with pytest.raises(ManifestError, match=f"line {len(GOOD) + 1} is not JSON.*'bad"):
        Corpus.open(path)


def test_what_is_no_text_no_file_or_empty_is_told_as_before(cached, tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(GOOD[0].encode() + b"\n\xff\xfe\n")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name in ("binary.jsonl", "empty.jsonl", "absent.jsonl"):
        with pytest.raises(ManifestError) as told:
            read_manifest(tmp_path / name)
        with pytest.raises(ManifestError) as found:
            Corpus.open(tmp_path / name)
        assert str(found.value) == str(told.value)


def test_several_processes_read_what_one_reads(cached, tmp_path, monkeypatch):
    path = write(tmp_path / "m.jsonl", GOOD * 40)
    monkeypatch.setattr(manifest_blocks, "STRETCH", 4000)
    monkeypatch.setattr(manifest_blocks, "num_cores", lambda: 2)
    assert same(Corpus.open(path), read_manifest(path))


def test_a_script_that_asks_for_no_name_is_not_begun_again_by_the_processes(tmp_path):
    path = write(tmp_path / "m.jsonl", GOOD * 40)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nprint('begun', flush=True)\n"
        "from parakeet_ft.data import corpus, manifest_blocks\n"
        "corpus.SMALL, manifest_blocks.num_cores = 0, lambda: 2\n"
        "manifest_blocks.STRETCH = 4000\n"
        f"print(len(corpus.Corpus.open({str(path)!r})))\n"
    )
    environment = os.environ | {"PARAKEET_FT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=120
    )
    told = done.stdout.splitlines()
    assert (told[0], told[-1]) == ("begun", "400") and told.count("begun") == 1, done.stderr


def test_random_lines_are_what_parse_line_makes_of_them(cached, tmp_path):
    rng = random.Random(0)
    values = [0.5, 3, "s", None, True, [1], {"k": "v"}, "ą\u2028", 1e-9, 1e12, -0.0, ""]
    keys = ["audio_filepath", "duration", "text", "offset", "speaker", "lang", "extra", "pipe"]
    compared = [0, 0]
    for number in range(400):
        record = {"audio_filepath": "a", "duration": 1.0, "text": "t"}
        record |= {key: rng.choice(values) for key in rng.sample(keys, rng.randrange(4))}
        items = list(record.items())
        rng.shuffle(items)
        line = json.dumps(dict(items), ensure_ascii=rng.random() < 0.5)
        path = write(tmp_path / f"{number}.jsonl", [line])
        try:
            expected = [repr(u) for u in read_manifest(path)]
        except ManifestError as error:
            expected = str(error)
        try:
            found = [repr(u) for u in Corpus.open(path)]
        except ManifestError as error:
            found = str(error)
        assert found == expected
        compared[isinstance(expected, str)] += 1
    assert min(compared) > 50


def test_a_second_opening_reads_no_line_and_another_content_does(cached, tmp_path, monkeypatch):
    path = write(tmp_path / "m.jsonl", GOOD)
    first = Corpus.open(path)
    with monkeypatch.context() as patched:
        patched.setattr(corpus, "blocks_of", lambda *a, **k: pytest.fail("read again"))
        assert same(Corpus.open(path), first) and Corpus.open(path).key == first.key
    write(path, GOOD[::-1])
    os.utime(path, (1, 1))
    changed = Corpus.open(path)
    assert same(changed, read_manifest(path)) and changed.key != first.key


def test_the_same_lines_in_another_folder_name_other_files(cached, tmp_path):
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name / "m.jsonl", GOOD[:1]))
    found = [Corpus.open(path)[0].audio_filepath for path in paths]
    assert found == [str(tmp_path / name / "a.wav") for name in ("one", "two")]


@pytest.mark.parametrize("name", ["durations", "texts", "texts.ends", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_cache_is_made_again_and_told(cached, tmp_path, name, damage, capsys):
    path = write(tmp_path / "m.jsonl", GOOD)
    expected = list(map(repr, Corpus.open(path)))
    (file,) = cached.glob(f"corpus-*/{name}")
    data = bytearray(file.read_bytes())
    file.unlink()  # not in place: the first corpus maps it
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage != "remove":
        file.write_bytes(data[:-2] if damage == "cut" else data)
    capsys.readouterr()
    assert list(map(repr, Corpus.open(path))) == expected
    told = capsys.readouterr().out
    assert "is damaged" in told and name in told


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path):
    lines = [GOOD[0].replace("one", f"one{i}") for i in range(60_000)]
    path = write(tmp_path / "m.jsonl", lines)
    environment = os.environ | {"PARAKEET_FT_CACHE": str(tmp_path / "cache")}
    code = (
        "from parakeet_ft.data import corpus, manifest_blocks\n"
        "corpus.SMALL = 0; manifest_blocks.STRETCH = 100_000\n"
        "manifest_blocks.num_cores = lambda: 1\n"
        f"found = corpus.Corpus.open({str(path)!r})\n"
        "print(len(found), found[59_999].text)"
    )
    for wait in (0.0, 0.05, 0.15):
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline().startswith("reading")
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "60000 one59999 two", done.stderr
    assert not list((tmp_path / "cache").glob(".unfinished-*"))


def test_two_processes_that_open_at_once_read_once(tmp_path):
    path = write(tmp_path / "m.jsonl", GOOD)
    environment = os.environ | {"PARAKEET_FT_CACHE": str(tmp_path / "cache")}
    code = (
        "from parakeet_ft.data import corpus\ncorpus.SMALL = 0\n"
        f"print(len(corpus.Corpus.open({str(path)!r})))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    told = "".join(child.communicate()[0] for child in children)
    assert told.count("reading") == 1 and told.count("10\n") == 3


def test_where_the_usual_cache_cannot_be_written_a_temporary_folder_serves_and_is_told_once(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("PARAKEET_FT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    instead = tmp_path / f"parakeet_ft-{os.getuid()}"
    assert cache.folder() == cache.folder() == instead
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{instead} is used instead" in line and "PARAKEET_FT_CACHE names another" in line


def test_a_cache_that_was_asked_for_and_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="PARAKEET_FT_CACHE=.*below cannot be written"):
        cache.folder()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PARAKEET_FT_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "own"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/parakeet_ft"),
        ({}, ".cache/parakeet_ft"),
    ],
)
def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch, variables, expected):
    for name in ("PARAKEET_FT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache.folder() == tmp_path / expected


def test_what_nobody_used_for_a_month_is_removed_at_the_next_build(cached, tmp_path):
    path = write(tmp_path / "m.jsonl", GOOD)
    Corpus.open(path)
    (old,) = cached.glob("corpus-*")
    month = time.time() - 31 * 24 * 3600
    os.utime(old, (month, month))
    write(path, GOOD[:2])
    Corpus.open(path)
    assert not old.exists() and len(list(cached.glob("corpus-*"))) == 1


def test_an_opening_counts_as_use(cached, tmp_path):
    path = write(tmp_path / "m.jsonl", GOOD)
    Corpus.open(path)
    (folder,) = cached.glob("corpus-*")
    os.utime(folder, (1, 1))
    Corpus.open(path)
    assert folder.stat().st_mtime > time.time() - 60


def test_several_manifests_follow_each_other_with_their_weights(cached, tmp_path):
    paths = [write(tmp_path / f"{i}.jsonl", GOOD[i : i + 3]) for i in range(2)]
    named = [
        WeightedManifest(str(path), weight) for path, weight in zip(paths, (1.0, 0.5), strict=True)
    ]
    found = Corpus.open(named)
    assert same(found, [*read_manifest(paths[0]), *read_manifest(paths[1])])
    assert found.spans == [(0, 3, 1.0), (3, 6, 0.5)]
    assert same(Corpus.open(paths[0]) + Corpus.open(paths[1]), found)
    assert found.key != Corpus.open(named[:1]).key
    place = found.spoken().place
    assert [place(1), place(3)] == [f"text 1 of {paths[0]}", f"text 3 of {paths[0]}"]
    assert [place(4), place(6)] == [f"text 1 of {paths[1]}", f"text 3 of {paths[1]}"]


@pytest.mark.parametrize("small", [True, False])
def test_a_pickle_and_a_fork_read_the_same(cached, tmp_path, small, monkeypatch):
    if small:
        monkeypatch.setattr(corpus, "SMALL", 1_000_000)
    found = Corpus.open(write(tmp_path / "m.jsonl", GOOD * 50))
    data = pickle.dumps(found)
    assert same(pickle.loads(data), found)
    assert small or len(data) < 1000
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(found.__getitem__, (7,)) == found[7]


def test_utterances_in_memory_are_a_corpus_too():
    given = [Utterance("a.wav", 1.0, "x", 2.0, "s", {"k": 1}), Utterance("b.wav", 2.0, "")]
    found = Corpus.of(given)
    assert list(found) == given and not found.kept
    for some in (given, found):
        assert durations_of(some).tolist() == [1.0, 2.0]
    assert list(found.texts()) == ["x", ""]
    assert durations_of([]).shape == (0,) and durations_of(found).dtype == np.float64
