"""Shards give the utterances and the audio of the single files that they were made of, and say in
one sentence what is wrong with them.
"""

import dataclasses
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data import audio, sources, storage, tars
from parakeet_ft.data.audio_file import Member
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.existence import missing_files
from parakeet_ft.data.layouts import expand, expand_range
from parakeet_ft.data.manifest import Utterance, read_manifest, stream_manifest, write_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.errors import UserError
from parakeet_ft.settings.manifests import WeightedManifest, weighted


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve FLAC files, and the shards of both layouts that were made of them."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    utterances = []
    for i in range(12):
        seconds = 0.5 + 0.125 * (i % 5)
        soundfile.write(
            folder / f"{i}.flac", 0.1 * rng.standard_normal(int(seconds * 16000)), 16000
        )
        utterances.append(
            Utterance(f"{i}.flac", seconds, f"text {i}", speaker="ann", extra={"take": i})
        )
    write_manifest(utterances, folder / "m.jsonl")
    for layout in ("nemo", "shar"):
        write_shards(
            folder / "m.jsonl",
            out=folder / layout,
            hours=2.5 / 3600,
            format=layout,
            executor=InlineExecutor,
        )
    return folder


@pytest.fixture
def shards(corpus, tmp_path, monkeypatch):
    """shards(layout) -> a copy of the shards that a test may damage; the cache is its own."""
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    return lambda layout: shutil.copytree(corpus / layout, tmp_path / layout)


def utterances_of(*names):
    return sources.read_all(weighted([str(name) for name in names]))


def told(call):
    with pytest.raises(UserError) as error:
        call()
    assert error.value.code == 2 and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("layout", ["nemo", "shar"])
@pytest.mark.parametrize("small", [True, False])
def test_a_corpus_of_shards_is_what_its_lines_and_tars_say(shards, layout, small, monkeypatch):
    monkeypatch.setattr("parakeet_ft.data.corpus.SMALL", 10**9 if small else -1)
    monkeypatch.setattr("parakeet_ft.data.manifest_blocks.num_cores", lambda: 1)
    named = weighted([{"manifest": str(shards(layout)), "weight": 0.5}])
    expected = sources.read_all(named)
    for _ in range(2):  # the second is the cache's
        found = Corpus.open(named)
        assert list(found) == expected and len(expected) == 12 and expected[3].member
        assert found.spans == [(0, 12, 0.5)] and found.kept != small
        assert pickle.loads(pickle.dumps(found))[5] == expected[5]
    assert missing_files(found) == ([], [])


@pytest.mark.parametrize("layout", ["nemo", "shar"])
def test_a_folder_of_shards_holds_what_the_single_files_hold(corpus, layout):
    single = {u.text: u for u in read_manifest(corpus / "m.jsonl")}
    found = utterances_of(corpus / layout)
    assert sorted(u.text for u in found) == sorted(single)
    for u in found:
        one = single[u.text]
        assert (u.duration, u.speaker, u.extra["take"]) == (one.duration, "ann", one.extra["take"])
        assert np.array_equal(audio.read_utterance(u), audio.read_utterance(one))


def test_every_name_of_a_shard_stands_for_the_same_utterances(corpus):
    nemo = corpus / "nemo"
    last = len(list(nemo.glob("audio_*.tar"))) - 1
    assert last > 1
    names = [
        nemo,
        nemo / "sharded_manifests" / f"manifest__OP_0..{last}_CL_.json",
        nemo / "sharded_manifests" / f"manifest_{{0..{last}}}.json",
        nemo / "tarred_audio_manifest.json",
    ]
    expected = utterances_of(nemo)
    assert all(utterances_of(name) == expected for name in names)
    first = [u for u in expected if u.member.file.endswith("audio_0.tar")]
    assert utterances_of(nemo / "sharded_manifests" / "manifest_0.json") == first
    shar = corpus / "shar"
    assert utterances_of(*sorted(shar.glob("cuts.*"))) == utterances_of(shar)


def test_a_manifest_and_a_tar_of_one_name_are_a_pair(corpus, tmp_path):
    shutil.copy(corpus / "nemo" / "audio_0.tar", tmp_path / "talk.tar")
    lines = (corpus / "nemo" / "sharded_manifests" / "manifest_0.json").read_text().splitlines()
    bare = [{k: v for k, v in json.loads(line).items() if k != "shard_id"} for line in lines]
    (tmp_path / "talk.json").write_text("".join(json.dumps(line) + "\n" for line in bare))
    found = utterances_of(tmp_path / "talk.json")
    assert len(found) == len(bare) and found[0].member.file == str(tmp_path / "talk.tar")


def test_several_names_follow_each_other_and_weights_change_the_identity(corpus):
    names = [str(corpus / "m.jsonl"), str(corpus / "nemo")]
    found = sources.read_all(weighted(names))
    assert len(found) == 24 and found[0].member is None and found[-1].member is not None
    heavier = [WeightedManifest(names[0], 2.0), names[1]]
    assert sources.identity(weighted(names)) != sources.identity(weighted(heavier))
    assert sources.facts(weighted(heavier))["path"] == [
        {"manifest": names[0], "weight": 2.0},
        names[1],
    ]


def test_lines_with_offsets_are_parts_of_one_member_as_nemo_names_them(corpus, shards):
    folder = shards("nemo")
    path = folder / "sharded_manifests" / "manifest_0.json"
    line = json.loads(path.read_text().splitlines()[0])
    stem, suffix = line["audio_filepath"].split(".")
    parts = [
        line | {"audio_filepath": f"{stem}-sub{n}.{suffix}", "offset": 0.1 * n, "duration": 0.1}
        for n in (1, 2)
    ]
    path.write_text("".join(json.dumps(part) + "\n" for part in parts))
    whole = next(u for u in utterances_of(corpus / "nemo") if u.text == line["text"])
    one, two = utterances_of(path)
    samples = audio.read_utterance(whole)
    assert np.array_equal(audio.read_utterance(one), samples[1600:3200])
    assert np.array_equal(audio.read_utterance(two), samples[3200:4800])


def test_lines_in_another_order_or_fewer_are_found_by_name(corpus, shards):
    folder = shards("nemo")
    expected = {u.text: audio.read_utterance(u) for u in utterances_of(corpus / "nemo")}
    path = folder / "sharded_manifests" / "manifest_0.json"
    lines = path.read_text().splitlines()
    for kept in (lines[::-1], lines[1:]):
        path.write_text("".join(f"{line}\n" for line in kept))
        found = utterances_of(path)
        assert len(found) == len(kept)
        assert all(np.array_equal(audio.read_utterance(u), expected[u.text]) for u in found)


def test_an_index_that_is_missing_is_made_as_nemo_makes_it(shards):
    folder = shards("nemo")
    index = folder / "audio_1.tar.idx"
    before = index.read_bytes()
    index.unlink()
    found = utterances_of(folder)
    assert index.read_bytes() == before and len(found) == 12


def test_an_index_that_does_not_fit_is_made_anew_and_that_is_told(shards, capsys):
    folder = shards("nemo")
    before = (folder / "audio_0.tar.idx").read_bytes()
    for wrong in (b"123", before[:16] + before[24:32] + before[16:24] + before[32:], b""):
        (folder / "audio_0.tar.idx").write_bytes(wrong)
        assert len(utterances_of(folder)) == 12
        assert "does not fit" in capsys.readouterr().err
        assert (folder / "audio_0.tar.idx").read_bytes() == before


def test_an_index_beside_a_shar_is_not_written_since_lhotse_would_read_it(shards, tmp_path):
    folder = shards("shar")
    before = sorted(path.name for path in folder.iterdir())
    utterances_of(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert list((tmp_path / "cache").glob("tar-*.idx"))


def test_where_nothing_can_be_written_the_index_goes_to_the_cache(shards, tmp_path):
    folder = shards("nemo")
    expected = len(utterances_of(folder))
    for path in folder.glob("*.idx"):
        path.unlink()
        path.mkdir()  # neither a file, nor a place for one
    assert len(utterances_of(folder)) == expected
    assert list((tmp_path / "cache").glob("tar-*.idx"))


def test_long_and_foreign_names_of_members_are_only_names(tmp_path, monkeypatch):
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    rng, names = np.random.default_rng(0), ["$(touch pwned) |", "../x.wav", "/etc/x.wav", "ä" * 120]
    soundfile.write(tmp_path / "x.wav", np.zeros(99), 16000)
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            soundfile.write(tmp_path / "one.wav", 0.1 * rng.standard_normal(1600), 16000)
            tar.add(tmp_path / "one.wav", arcname=name)
    with tarfile.open(tmp_path / "in" / "a.tar") as tar:
        inside = tar.getnames()
    rows = [Utterance(name, 0.1, "t") for name in inside]
    write_manifest(rows, tmp_path / "in" / "a.json")
    found = utterances_of(tmp_path / "in" / "a.json")
    assert [len(audio.read_utterance(u)) for u in found] == [1600] * 4
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("layout", ["nemo", "shar"])
def test_a_tar_that_was_cut_off_is_told(shards, layout):
    folder = shards(layout)
    tar = sorted(folder.glob("*.tar"))[0]
    data = tar.read_bytes()
    offsets = tars.index_of(str(tar), write_beside=False)
    for size in (len(data) // 2, int(offsets[2]), 100):
        for index in (*folder.glob("*.idx"), *(folder.parent / "cache").glob("*.idx")):
            index.unlink()
        tar.write_bytes(data[:size])
        message = told(lambda: utterances_of(folder))
        assert str(tar) in message and ("cut off" in message)


def test_a_tar_that_was_cut_off_behind_the_back_of_its_index_is_told(shards, capsys):
    folder = shards("nemo")
    tar = folder / "audio_0.tar"
    tar.write_bytes(tar.read_bytes()[:-12000])
    assert "cut off" in told(lambda: utterances_of(folder))
    assert "does not fit" in capsys.readouterr().err


def test_a_tar_that_changes_under_a_plan_is_told_and_never_heard_as_another(shards):
    folder = shards("nemo")
    first, second = (f"{folder}/audio_{n}.tar" for n in (0, 1))
    found = utterances_of(folder)
    audio.read_utterance(found[0])
    shutil.copy(second, first)
    moved = [u for u in found if u.member.file == first]
    assert all("was changed" in told(lambda u=u: audio.read_utterance(u)) for u in moved)


def _rebuilt(tar, change):
    """Write a tar anew, of (name, bytes) that were changed."""
    with tarfile.open(tar) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("layout", ["nemo", "shar"])
@pytest.mark.parametrize("indexed", [True, False])
def test_members_that_are_called_after_this_folder_are_found(shards, layout, indexed):
    folder = shards(layout)
    expected = utterances_of(folder)
    heard = [audio.read_utterance(u).tobytes() for u in expected]
    for tar in folder.glob("*.tar"):
        _rebuilt(tar, lambda members: [(f"./{name}", data) for name, data in members])
    if not indexed:
        for index in folder.glob("*.idx"):
            index.unlink()
    found = utterances_of(folder)
    assert [u.text for u in found] == [u.text for u in expected]
    assert [audio.read_utterance(u).tobytes() for u in found] == heard


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1)])
def test_an_index_of_another_tar_of_the_same_length_is_made_anew(shards, capsys, order):
    """Members changed places: the size of the tar and the place of its last member are the same."""
    folder = shards("nemo")
    tar = folder / "audio_0.tar"
    beside = Path(f"{tar}.idx")
    numbers = [*order]
    _rebuilt(tar, lambda members: [members[n] for n in numbers] + members[len(numbers) :])
    os.utime(beside, ns=(1, 1))
    assert utterances_of(folder) and "does not fit" in capsys.readouterr().err
    expected = tars._walk(str(tar))
    assert tars.index_of(str(tar)).tolist()[:-1] == expected
    assert np.frombuffer(beside.read_bytes(), "<u8").tolist()[:-1] == expected


def test_an_index_that_is_older_than_its_tar_is_looked_through_once(shards, monkeypatch):
    folder = shards("nemo")
    tar = folder / "audio_0.tar"
    os.utime(f"{tar}.idx", ns=(1, 1))
    first = tars.index_of(str(tar))
    asked = []
    fits = tars._fits
    monkeypatch.setattr(tars, "_fits", lambda *a, **k: asked.append(k) or fits(*a, **k))
    assert (tars.index_of(str(tar)) == first).all() and asked == [{}]


def test_a_tar_in_the_place_of_its_lines_is_told_with_what_to_give(shards):
    folder = shards("nemo")
    message = told(lambda: utterances_of(folder / "audio_0.tar"))
    assert "is an archive, which holds audio" in message and f"{folder}, or the manifest" in message


def test_a_byte_order_mark_is_no_part_of_a_manifest(corpus, tmp_path, monkeypatch):
    marked = corpus / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + (corpus / "m.jsonl").read_bytes())
    expected = utterances_of(corpus / "m.jsonl")
    assert utterances_of(marked) == expected
    assert list(stream_manifest(marked)) == expected
    assert list(Corpus.open(weighted([str(marked)]))) == expected
    marked.unlink()


def test_a_pipe_in_the_place_of_a_manifest_is_called_one(tmp_path):
    os.mkfifo(tmp_path / "m.jsonl")
    assert "is a pipe or a device: expected a file" in told(
        lambda: utterances_of(tmp_path / "m.jsonl")
    )


def _without_member(folder):
    path = folder / "sharded_manifests" / "manifest_0.json"
    path.write_text(path.read_text().replace("0_000001.flac", "0_000777.flac"))
    return "audio_0.tar holds no file 0_000777.flac"


def _without_tar(folder):
    (folder / "audio_1.tar").unlink()
    return "manifest_1.json is the manifest of a shard whose tar is missing"


def _without_shard(folder):
    (folder / "sharded_manifests" / "manifest_1.json").unlink()
    return "shards.json names"


@pytest.mark.parametrize("damage", [_without_member, _without_tar, _without_shard])
def test_what_is_missing_of_nemos_shards_is_told(shards, damage):
    folder = shards("nemo")
    expected = damage(folder)
    assert expected in told(lambda: utterances_of(folder))


@pytest.mark.parametrize(
    ("lost", "told_of"),
    [
        (["cuts.000001.jsonl.gz"], "holds recording.000001.tar and no cuts.000001.jsonl.gz"),
        (["recording.000001.tar"], "recording.000001.tar is missing"),
        (["cuts.000001.jsonl.gz", "recording.000001.tar"], "lacks cuts.000001.jsonl.gz"),
        (["cuts.000003.jsonl.gz", "recording.000003.tar"], "holds 3 of the 4 shards"),
    ],
)
def test_what_is_missing_of_a_shar_is_told(corpus, shards, lost, told_of):
    folder = shards("shar")
    shutil.copytree(corpus / ".shar.state", folder.parent / ".shar.state")
    for name in lost:
        (folder / name).unlink()
    assert told_of in told(lambda: utterances_of(folder))


def test_two_layouts_in_one_folder_are_told(shards):
    folder = shards("nemo")
    for path in shards("shar").iterdir():
        shutil.copy(path, folder)
    assert "holds shards of two layouts" in told(lambda: utterances_of(folder))


def _changed_cut(folder, change):
    path = sorted(folder.glob("cuts.*"))[0]
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    cut = json.loads(lines[1])
    change(cut)
    lines[1] = json.dumps(cut)
    with gzip.open(path, "wt") as out:
        out.write("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda cut: cut.update(supervisions=cut["supervisions"] * 2), "has 2 supervisions"),
        (lambda cut: cut.update(supervisions=[]), "has 0 supervisions"),
        (lambda cut: cut.update(type="MixedCut"), "is a MixedCut"),
        (lambda cut: cut.update(id="another"), "holds no another.flac"),
        (lambda cut: cut.pop("duration"), "is not a cut as Lhotse writes it"),
        (lambda cut: cut.pop("id"), "is no cut with an id"),
        (lambda cut: cut.update(duration=1e9), "duration is 1000000000.0, which is 11574 days"),
    ],
)
def test_a_cut_that_is_no_utterance_is_told_with_its_line(shards, change, expected):
    folder = shards("shar")
    _changed_cut(folder, change)
    message = told(lambda: utterances_of(folder))
    assert expected in message and "line 2" in message


def test_a_shar_without_its_recordings_or_with_arrays_is_told(shards):
    folder = shards("shar")
    tar = sorted(folder.glob("recording.*"))[0]
    with tarfile.open(tar, "w") as out:
        member = tarfile.TarInfo("0-000000.llc")
        out.addfile(member)
    assert ".llc files" in told(lambda: utterances_of(folder))
    tar.unlink()
    assert f"{tar} is missing" in told(lambda: utterances_of(folder))


def test_ranges_that_stand_for_nothing_are_told(corpus, tmp_path):
    assert expand_range("a__OP_08..10_CL_.json") == ["a_08.json", "a_09.json", "a_10.json"]
    assert "3..1 is no range" in told(lambda: expand("a__OP_3..1_CL_.json"))
    assert "neither" in told(lambda: expand(f"{tmp_path}/manifest__OP_0..3_CL_.json"))
    missing = f"{corpus}/nemo/sharded_manifests/manifest__OP_0..99_CL_.json"
    assert "tar is missing" in told(lambda: expand(missing))
    assert "without shards" in told(lambda: expand(str(tmp_path)))


def test_the_identity_follows_the_content_and_not_the_place(shards, tmp_path):
    folder = shards("nemo")
    source = expand(str(folder))[0]
    before = sources.fingerprint(source)
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert sources.fingerprint(expand(str(copied))[0]) == before
    with open(source.tar, "r+b") as tar:
        tar.write(b"x")
    assert sources.fingerprint(source) != before
    assert sources.fingerprint(dataclasses.replace(source, tar=None)) != before


def test_more_shards_than_may_be_open_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MOST_OPEN", 3)
    monkeypatch.setattr(storage, "_open_files", storage._OpenFiles())
    for number in range(10):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 10)
    wanted = [(str(tmp_path / str(n % 10)), n // 10, 2) for n in range(60)]
    assert storage.read_stretches(wanted) == [bytes([n % 10]) * 2 for n in range(60)]
    assert len(storage._open_files.by_name) <= 3


def test_a_member_of_a_file_that_is_gone_is_an_error_of_its_audio(tmp_path):
    with pytest.raises(audio.AudioError, match="No such file") as error:
        audio.read_audio(Member(str(tmp_path / "gone.tar"), "a.flac", 512, 10))
    assert error.value.reason == "missing"


def test_a_folder_in_a_tar_is_no_sample(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"a")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    with tarfile.open(tmp_path / "x.tar") as archive:
        expected = [member.offset for member in archive if member.isreg()]
    assert tars.index_of(str(tmp_path / "x.tar"))[:-1].tolist() == expected
