"""The manifest format: what is written is read back, what is broken is named with its line, files
appear whole.
"""

import json

import pytest

from parakeet_ft.data.manifest import (
    ManifestError,
    Utterance,
    manifest_hash,
    missing_audio,
    read_manifest,
    stream_manifest,
    write_manifest,
)
from parakeet_ft.files import atomic_path

FULL = Utterance(
    audio_filepath="/a/b.wav",
    duration=1.23456,
    text="größer ok",
    offset=0.5,
    speaker="ann",
    extra={"lang": "de", "take": 3},
)


def test_what_is_written_is_read_back(tmp_path):
    plain = Utterance(audio_filepath="/c.wav", duration=2.0, text="")
    assert write_manifest([FULL, plain], tmp_path / "m.jsonl") == 2
    first, second = read_manifest(tmp_path / "m.jsonl")
    assert (first.duration, first.text, first.offset, first.speaker, first.extra) == (
        1.2346,
        FULL.text,
        0.5,
        "ann",
        FULL.extra,
    )
    assert second == plain and json.loads((tmp_path / "m.jsonl").read_text().splitlines()[1]) == {
        "audio_filepath": "/c.wav",
        "duration": 2.0,
        "text": "",
    }


def test_relative_paths_are_relative_to_the_manifest(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        '{"audio_filepath": "../x/a.wav", "duration": 1, "text": "t"}\n'
    )
    assert read_manifest(tmp_path / "m.jsonl")[0].audio_filepath == str(
        tmp_path.parent / "x" / "a.wav"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2 is not JSON"),
        ("[1]", "holds a list"),
        ('{"audio_filepath": "a", "text": "t"}', "lacks duration; it has audio_filepath, text"),
        ('{"audio_filepath": 1, "duration": 1, "text": "t"}', "audio_filepath is 1"),
        ('{"audio_filepath": "a", "duration": 1, "text": null}', "text is None"),
        (
            '{"audio_filepath": "a", "duration": -1, "text": "t"}',
            "duration is -1, expected seconds above 0",
        ),
        ('{"audio_filepath": "a", "duration": "1", "text": "t"}', "duration is '1'"),
        ('{"audio_filepath": "a", "duration": true, "text": "t"}', "is True"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    (tmp_path / "m.jsonl").write_text(
        '{"audio_filepath": "a", "duration": 1, "text": "t"}\n' + line + "\n"
    )
    with pytest.raises(ManifestError, match="line 2") as error:
        read_manifest(tmp_path / "m.jsonl")
    assert message in str(error.value)


def test_missing_empty_and_binary_manifests_are_named(tmp_path):
    with pytest.raises(ManifestError, match="No manifest at"):
        read_manifest(tmp_path / "none")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.jsonl").touch()
    with pytest.raises(ManifestError, match="is a folder.*holds dev.jsonl"):
        read_manifest(tmp_path / "data")
    (tmp_path / "m").write_text("\n")
    with pytest.raises(ManifestError, match="holds no utterance"):
        read_manifest(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not UTF-8"):
        list(stream_manifest(tmp_path / "m"))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def failing():
        yield FULL
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(failing(), tmp_path / "m.jsonl")
    assert list(tmp_path.iterdir()) == []
    with atomic_path(tmp_path / "d" / "x") as path:
        path.write_text("y")
        assert not (tmp_path / "d" / "x").exists()
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["x"]


def test_missing_audio_lists_each_file_once(tmp_path):
    (tmp_path / "a").write_text("")
    paths = ["b", "a", "b", "c"]
    assert missing_audio([Utterance(str(tmp_path / p), 1.0, "t") for p in paths]) == [
        str(tmp_path / "b"),
        str(tmp_path / "c"),
    ]


def test_the_hash_is_of_the_bytes(tmp_path):
    write_manifest([FULL], tmp_path / "a")
    write_manifest([FULL], tmp_path / "b")
    assert (
        manifest_hash(tmp_path / "a") == manifest_hash(tmp_path / "b")
        and len(manifest_hash(tmp_path / "a")) == 64
    )
