"""Shards hold every utterance once, are of about equal length, and are read by those who defined
their layout.
"""

import contextlib
import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.manifest import Utterance, read_manifest, write_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import plan_shards, write_shards
from parakeet_ft.errors import UserError
from parakeet_ft.files import hold


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder, rng, utterances = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    soundfile.write(folder / "long.wav", 0.1 * rng.standard_normal(16000 * 12), 16000)
    for i in range(30):
        seconds = 0.5 + 0.1 * (i % 7)
        if i % 3:
            soundfile.write(
                folder / f"{i}.flac", 0.1 * rng.standard_normal(int(seconds * 16000)), 16000
            )
            utterances.append(
                Utterance(
                    audio_filepath=f"{i}.flac",
                    duration=seconds,
                    text=f"text {i}",
                    speaker="ann",
                    extra={"lang": "en", "take": i},
                )
            )
        else:
            utterances.append(
                Utterance(
                    audio_filepath="long.wav", duration=seconds, text=f"text {i}", offset=0.3 * i
                )
            )
    write_manifest(utterances, folder / "m.jsonl")
    return folder / "m.jsonl"


def run(manifest, out, **options):
    return write_shards(manifest, out=out, hours=6 / 3600, executor=InlineExecutor, **options)


def test_shards_are_of_about_equal_length_and_hold_each_line_once(manifest, tmp_path):
    shards = plan_shards(manifest, out=tmp_path, hours=6 / 3600, format="nemo")
    assert (
        sorted(o for s in shards for o in s.offsets)
        == sorted({o for s in shards for o in s.offsets})
        and sum(len(s.offsets) for s in shards) == 30
    )
    described = run(manifest, tmp_path)
    seconds = [shard["seconds"] for shard in described["shards"]]
    assert (
        len(seconds) == 4
        and max(seconds) - min(seconds) <= 0.6
        and sum(seconds) == pytest.approx(sum(u.duration for u in read_manifest(manifest)))
    )


def test_nemo_reads_the_shards(manifest, tmp_path):
    pytest.importorskip("nemo")
    from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoTarredIterator

    described = run(manifest, tmp_path)
    last = len(described["shards"]) - 1
    cuts = list(
        LazyNeMoTarredIterator(
            manifest_path=f"{tmp_path}/sharded_manifests/manifest__OP_0..{last}_CL_.json",
            tar_paths=f"{tmp_path}/audio__OP_0..{last}_CL_.tar",
        )
    )
    expected = {u.text: u for u in read_manifest(manifest)}
    assert sorted(c.supervisions[0].text for c in cuts) == sorted(expected)
    for cut in cuts:
        utterance = expected[cut.supervisions[0].text]
        original, _ = soundfile.read(
            utterance.audio_filepath,
            start=round(utterance.offset * 16000),
            frames=round(utterance.duration * 16000),
        )
        assert np.abs(cut.load_audio()[0] - original).max() < 1e-4


def test_the_indices_are_those_that_nemo_would_write(manifest, tmp_path):
    pytest.importorskip("nemo")
    from nemo.collections.common.data.lhotse.indexed_adapters import create_index, create_tar_index

    run(manifest, tmp_path)
    create_tar_index(tmp_path / "audio_1.tar", tmp_path / "tar.idx")
    create_index(tmp_path / "sharded_manifests" / "manifest_1.json", tmp_path / "json.idx")
    assert (tmp_path / "tar.idx").read_bytes() == (tmp_path / "audio_1.tar.idx").read_bytes()
    assert (tmp_path / "json.idx").read_bytes() == (
        tmp_path / "sharded_manifests" / "manifest_1.json.idx"
    ).read_bytes()


def test_lhotse_reads_the_shar(manifest, tmp_path):
    lhotse = pytest.importorskip("lhotse")
    run(manifest, tmp_path, format="shar")
    cuts = list(lhotse.CutSet.from_shar(in_dir=str(tmp_path)))
    expected = {u.text: u for u in read_manifest(manifest)}
    assert sorted(c.supervisions[0].text for c in cuts) == sorted(expected)
    cut = next(c for c in cuts if c.supervisions[0].text == "text 4")
    assert (cut.supervisions[0].speaker, cut.supervisions[0].language, cut.custom["take"]) == (
        "ann",
        "en",
        4,
    )
    assert (
        np.abs(cut.load_audio()[0] - soundfile.read(expected["text 4"].audio_filepath)[0]).max()
        < 1e-4
    )


def test_the_same_manifest_gives_the_same_bytes_and_finished_shards_stay(manifest, tmp_path):
    run(manifest, tmp_path / "a")
    run(manifest, tmp_path / "b")
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    times = {f: (tmp_path / "a" / f).stat().st_mtime_ns for f in files if f.suffix == ".tar"}
    (tmp_path / ".a.state" / "done_2.json").unlink()
    (tmp_path / "a" / "audio_2.tar").unlink()
    run(manifest, tmp_path / "a")
    assert [str(f) for f in times if (tmp_path / "a" / f).stat().st_mtime_ns != times[f]] == [
        "audio_2.tar"
    ]
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )


def test_whole_flac_files_go_in_byte_for_byte(manifest, tmp_path):
    run(manifest, tmp_path)
    originals = {p.read_bytes() for p in manifest.parent.glob("*.flac")}
    with tarfile.open(tmp_path / "audio_0.tar") as tar:
        names = {
            json.loads(line)["audio_filepath"]: json.loads(line)
            for line in (tmp_path / "sharded_manifests" / "manifest_0.json")
            .read_text()
            .splitlines()
        }
        assert tar.getnames() == list(names)
        copied = sum(tar.extractfile(name).read() in originals for name in names)
    assert copied == sum("take" in line for line in names.values()) > 0


def test_audio_that_cannot_be_read_is_named(manifest, tmp_path):
    write_manifest(
        [Utterance(audio_filepath=str(tmp_path / "none.wav"), duration=1.0, text="x")],
        tmp_path / "m.jsonl",
    )
    with pytest.raises(UserError, match=r"No audio at .*none\.wav"):
        run(tmp_path / "m.jsonl", tmp_path / "out")


def contents(folder):
    """{path: bytes} of all files, and of what is noted beside them."""
    places = [folder, folder.with_name(f".{folder.name}.state")]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder.parent)): path.read_bytes() for path in files}


class Killed(BaseException):
    """A kill, which no `except` sees."""


@contextlib.contextmanager
def killed_after(count):
    """Inside, the renaming of the file after so many ends a run, and leaves what SIGKILL would."""
    left = [count]

    def rename(source, target, replace=os.replace):
        left[0] -= 1
        if left[0] < 0:
            shutil.copy(source, f"{target.parent}/.{target.name}.1.tmp")
            raise Killed
        replace(source, target)
        return target

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(os, "replace", rename)
        patches.setattr(Path, "rename", rename)
        patches.setattr(os, "fsync", lambda file: None)
        yield


@pytest.mark.parametrize("layout", ["nemo", "shar"])
def test_a_run_killed_at_any_file_goes_on_to_the_bytes_of_one_that_was_not(
    manifest, tmp_path, layout
):
    if layout == "shar":
        pytest.importorskip("lhotse")
    run(manifest, tmp_path / "a" / "x", format=layout)
    expected = contents(tmp_path / "a" / "x")
    out = tmp_path / "b" / "x"
    run(manifest, out, format=layout)
    assert contents(out) == expected
    for count in itertools.count():
        # What was noted stays, as it does where somebody removes the folder.
        shutil.rmtree(out)
        try:
            with killed_after(count):
                run(manifest, out, format=layout)
        except Killed:
            run(manifest, out, format=layout)
            assert contents(out) == expected, count
        else:
            break
    assert count > 10


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "audio_2.tar").write_bytes((out / "audio_2.tar").read_bytes()[:9000]),
        lambda out: (out / "audio_1.tar.idx").unlink(),
        lambda out: (out / "sharded_manifests" / "manifest_0.json").unlink(),
        lambda out: (out.with_name(".out.state") / "done_3.json").write_text("{"),
    ],
)
def test_a_shard_that_is_not_as_it_was_written_is_written_again(manifest, tmp_path, damage):
    run(manifest, tmp_path / "out")
    expected = contents(tmp_path / "out")
    damage(tmp_path / "out")
    run(manifest, tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_shards_of_another_manifest_are_never_replaced(manifest, tmp_path):
    other = tmp_path / "other.jsonl"
    utterances = read_manifest(manifest)
    write_manifest(utterances[:3], other)
    run(manifest, tmp_path / "out")
    expected = contents(tmp_path / "out")
    told = r"out holds shards of .*m\.jsonl: expected none, or those of .*other\.jsonl\. Give anot"
    with pytest.raises(UserError, match=told):
        run(other, tmp_path / "out")
    assert contents(tmp_path / "out") == expected
    shutil.rmtree(tmp_path / ".out.state")
    with pytest.raises(UserError, match="holds shards of which nothing is noted"):
        run(manifest, tmp_path / "out")


def test_shards_of_the_same_manifest_with_other_options_are_replaced_and_told(
    manifest, tmp_path, capsys
):
    run(manifest, tmp_path / "out")
    own = tmp_path / "out" / "notes.txt"
    own.write_text("mine")
    run(manifest, tmp_path / "out", seed=3)
    assert own.read_text() == "mine"
    own.unlink()
    assert "seed was 0 and is 3; its shards are written anew" in capsys.readouterr().out
    run(manifest, tmp_path / "fresh", seed=3)
    assert [b for p, b in contents(tmp_path / "out").items() if "state" not in p] == [
        b for p, b in contents(tmp_path / "fresh").items() if "state" not in p
    ]


def test_one_run_at_a_time_writes_shards(manifest, tmp_path):
    (tmp_path / ".out.state").mkdir()
    lock = hold(tmp_path / ".out.state" / "lock")
    with pytest.raises(UserError, match="Another run is writing shards to"):
        run(manifest, tmp_path / "out")
    lock.release()


def test_names_of_files_stay_known(manifest, tmp_path):
    run(manifest, tmp_path)
    lines = (tmp_path / "tarred_audio_manifest.json").read_text().splitlines()
    named = {json.loads(line)["source"] for line in lines}
    assert named == {json.loads(line)["audio_filepath"] for line in manifest.open()}
