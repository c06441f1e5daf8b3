"""Files, folders and manifests to recordings and the names of their transcripts."""

import json
import os

import pytest

from parakeet_ft.errors import UserError
from parakeet_ft.transcription.recordings import collect_recordings


@pytest.fixture
def tree(tmp_path):
    for name in ("b.wav", "a/x.flac", "a/x.mp3", "a/deep/y.opus", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_recordings_come_in_the_order_given_and_a_folders_keep_its_tree(tree):
    found = collect_recordings([str(tree / "b.wav"), str(tree / "a")])
    assert [r.name for r in found] == ["b", "deep/y", "x.flac", "x.mp3"] or [
        r.name for r in found
    ] == ["b", "x.flac", "x.mp3", "deep/y"]
    assert all(os.path.isfile(r.path) for r in found)


def test_the_same_file_twice_has_two_names_and_one_key(tree):
    first, second = collect_recordings([str(tree / "b.wav"), str(tree / "b.wav")])
    assert first.name != second.name and first.key() == second.key()


def test_a_changed_file_has_another_key(tree):
    before = collect_recordings([str(tree / "b.wav")])[0].key()
    (tree / "b.wav").write_bytes(b"other")
    assert collect_recordings([str(tree / "b.wav")])[0].key() != before


def test_manifest_rows_need_no_text_and_stretches_of_a_file_are_told_apart(tree):
    rows = [
        {"audio_filepath": "b.wav", "duration": 2.0, "offset": 0.0},
        {"audio_filepath": "b.wav", "duration": 1.5, "offset": 2.0, "speaker": "s"},
        {"audio_filepath": "a/x.flac", "duration": 1.0, "text": "it is"},
    ]
    (tree / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect_recordings([str(tree / "m.jsonl")])
    assert [r.name for r in found] == ["b_0.00-2.00", "b_2.00-3.50", "x"]
    assert (
        len({r.key() for r in found}) == 3
        and found[1].fields["speaker"] == "s"
        and (found[1].offset, found[1].duration) == (2.0, 1.5)
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("nix.wav", "Nothing at"),
        ("empty", "no audio file"),
        ("bad.jsonl", "line 1"),
        ("no.jsonl", "holds no utterance"),
    ],
)
def test_what_cannot_be_transcribed_is_refused_in_words(tree, name, message):
    (tree / "empty").mkdir()
    (tree / "bad.jsonl").write_text("{\n")
    (tree / "no.jsonl").write_text("\n")
    with pytest.raises(UserError, match=message):
        collect_recordings([str(tree / name)])
