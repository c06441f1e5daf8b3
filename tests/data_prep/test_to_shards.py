"""With --shards the scripts write shards at once: the same audio and lines as in files, whatever
the number of jobs, and after a kill.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.corpora.table import read_table
from parakeet_ft.data.layouts import expand
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.data.parallel import InlineExecutor, open_executor
from parakeet_ft.data.prepare import AudioStage, Stages, prepare
from parakeet_ft.data.sources import stream
from parakeet_ft.data.to_shards import write_shards_of_splits
from parakeet_ft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HOURS = 8 / 3600
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """48 recordings of 0.5 to 1.1 s at several rates, and two stretches of a long one."""
    folder, rng = tmp_path_factory.mktemp("in"), np.random.default_rng(0)
    lines = ["path,text,speaker,offset,duration,take"]
    for i in range(48):
        rate_hz = (16000, 44100, 8000)[i % 3]
        samples = 0.1 * rng.standard_normal((int((0.5 + 0.1 * (i % 7)) * rate_hz), 1 + i % 2))
        soundfile.write(folder / f"{i}.wav", samples, rate_hz)
        lines.append(f"{i}.wav,sentence number {i},s{i % 12},,,{i}")
    soundfile.write(folder / "long.wav", 0.1 * rng.standard_normal(16000 * 4), 16000)
    lines += ["long.wav,first part,s1,0.5,1.0,", "long.wav,second part,s2,2.0,1.5,"]
    (folder / "empty.wav").touch()
    lines.append("empty.wav,nothing,s3,,,")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


def call(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def command(table, out, *flags):
    return ["data_prep/from_table.py", table, "--out", out, *flags]


def in_shards(table, out, executor=InlineExecutor, window=4, on_progress=lambda count, s: None):
    """What the script does, in this process; returns the summary."""
    stages = Stages(audio=AudioStage(files=False))
    given = {"root": table.parent, "out": out, "executor": executor, "window": window}
    summary, ledger = prepare(lambda: read_table(table), stages=stages, **given)
    write_shards_of_splits(
        lambda: read_table(table),
        ledger,
        stage=stages.audio,
        hours=HOURS,
        on_progress=on_progress,
        **given,
    )
    ledger.close()
    return summary


def contents(out):
    """{path: bytes} of all that a reader of the folder sees."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(out).parts)
    }


@pytest.fixture(scope="module")
def files(table, tmp_path_factory):
    """The corpus as files."""
    out = tmp_path_factory.mktemp("files")
    done = call(*command(table, out, "--jobs", 1))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def shards(table, tmp_path_factory):
    """The corpus as shards, by the script."""
    out = tmp_path_factory.mktemp("shards")
    done = call(*command(table, out, "--shards", HOURS, "--jobs", 1))
    assert done.returncode == 0, done.stderr
    assert f"shards: {out}/train {out}/dev {out}/test" in done.stdout
    return out


def test_shards_hold_the_audio_and_the_lines_that_files_would(files, shards):
    assert len(list(shards.glob("train/audio_*.tar"))) > 2
    for split in SPLITS:
        expected = {u.text: u for u in read_manifest(files / f"{split}.jsonl")}
        found = {u.text: u for s in expand(str(shards / split)) for u in stream(s)}
        assert set(found) == set(expected)
        for text, utterance in found.items():
            other = expected[text]
            with tarfile.open(utterance.member.file) as tar:
                data = tar.extractfile(utterance.member.name).read()
            assert data == Path(other.audio_filepath).read_bytes()
            assert utterance.speaker == other.speaker and utterance.duration == other.duration
            named = {key: utterance.extra.pop(key) for key in ("shard_id", "source")}
            assert utterance.extra == other.extra
            take = other.extra.get("take")
            assert named["source"] == (f"{take}.wav" if take else "long.wav")


def test_drops_and_figures_are_those_of_files_and_no_audio_file_is_left(table, files, shards):
    assert (shards / "dropped.jsonl").read_bytes() == (files / "dropped.jsonl").read_bytes()
    kinds = {".flac", ".wav", ".jsonl", ".tmp"}
    assert [p.name for p in shards.rglob("*") if p.suffix in kinds] == ["dropped.jsonl"]
    assert not (shards / "audio").exists() and not (shards / ".lists").exists()
    ours, theirs = ((p / "report.html").read_text() for p in (shards, files))
    assert ours.count("data:audio/mpeg") == theirs.count("data:audio/mpeg") > 0


def test_two_processes_write_the_same_bytes_as_one(table, shards, tmp_path):
    with open_executor(jobs=2) as executor:
        in_shards(table, tmp_path, executor)
    expected = contents(shards)
    expected.pop("report.html")
    assert contents(tmp_path) == expected


def test_a_dask_cluster_that_loses_a_worker_writes_the_same_shards(table, shards, tmp_path):
    distributed = pytest.importorskip("distributed")
    import dask

    local = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(**local) as cluster,
        open_executor(jobs=2, scheduler=cluster.scheduler_address) as executor,
    ):
        victim = next(iter(cluster.workers.values()))
        killed = []

        def kill_once(count, seconds):
            if not killed:
                killed.append(os.kill(victim.process.process.pid, signal.SIGKILL))

        in_shards(table, tmp_path, executor, window=2, on_progress=kill_once)
    expected = contents(shards)
    expected.pop("report.html")
    assert killed and contents(tmp_path) == expected


@pytest.mark.parametrize("shard", [0, 2])
def test_a_run_killed_in_the_middle_of_a_shard_ends_with_the_same_bytes(
    table, shards, tmp_path, shard
):
    code = (
        "import os, runpy, signal, sys; from parakeet_ft.data import shards\n"
        "index = shards._write_index\n"
        "def die(offsets, path):\n"
        f"    if path.name == 'manifest_{shard}.json' and path.parent.parent.name == 'train':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    index(offsets, path)\n"
        "shards._write_index = die\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    again = command(table, tmp_path, "--shards", HOURS, "--jobs", 1)
    assert call("-c", code, *again).returncode == -signal.SIGKILL
    assert (tmp_path / "train" / f"audio_{shard}.tar").is_file()
    with pytest.raises(UserError, match=rf"holds {shard + 1} of the \d+ shards"):
        expand(str(tmp_path / "train"))
    first = {p: p.stat().st_mtime_ns for p in tmp_path.glob("train/audio_?.tar")}
    assert call(*again).returncode == 0
    found, expected = contents(tmp_path), contents(shards)
    told = {found.pop("report.html").replace(str(tmp_path).encode(), str(shards).encode())}
    assert told == {expected.pop("report.html")} and found == expected
    kept = [p for p, time in first.items() if p.stat().st_mtime_ns == time]
    assert len(kept) == shard, "those that were whole are not written again"


def test_another_length_of_shards_leaves_nothing_of_the_first(table, shards, tmp_path):
    shutil.copytree(shards, tmp_path / "x")
    done = call(*command(table, tmp_path / "x", "--shards", 1, "--jobs", 1))
    assert done.returncode == 0, done.stderr
    for split in SPLITS:
        assert [s.tar for s in expand(str(tmp_path / "x" / split))] == [
            str(tmp_path / "x" / split / "audio_0.tar")
        ]


def test_the_processes_that_measured_end_before_others_write():
    with open_executor(jobs=2) as executor:
        for _ in range(3):
            executor()
            assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_a_corpus_that_gets_another_line_meanwhile_is_told(table, tmp_path):
    stages = Stages(audio=AudioStage(files=False))
    given = {"root": table.parent, "out": tmp_path, "executor": InlineExecutor, "window": 1}
    _, ledger = prepare(lambda: read_table(table), stages=stages, **given)
    found = list(read_table(table))
    given |= {"stage": stages.audio, "hours": 1, "on_progress": lambda count, seconds: None}
    for other in (found[:-1], [*found, found[0]], [found[1], found[0], *found[2:]]):
        with pytest.raises(UserError, match="has other utterances than when it was measured"):
            write_shards_of_splits(lambda other=other: other, ledger, **given)
    ledger.close()


@pytest.mark.parametrize("size", ["64k", "500k", "ro"])
def test_a_full_or_closed_disk_is_told_in_words(table, tmp_path, on_a_disk, size):
    out = tmp_path / "disk"
    flags = ["--shards", HOURS, "--jobs", 1]
    mount = size if size == "ro" else f"size={size}"
    done = on_a_disk(mount, out, *command(table, out / "x", *flags))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert ("read-only" if size == "ro" else "full") in done.stderr.lower()


def test_audio_that_changes_after_it_was_measured_is_named(table, tmp_path):
    shutil.copytree(table.parent, tmp_path / "in")
    changed = tmp_path / "in" / "7.wav"

    copy = tmp_path / "in" / "t.csv"
    stages = Stages(audio=AudioStage(files=False))
    given = {"root": copy.parent, "out": tmp_path / "out", "executor": InlineExecutor}
    _, ledger = prepare(lambda: read_table(copy), stages=stages, **given)
    soundfile.write(changed, np.zeros(16000 * 3), 16000)
    rest = {"hours": HOURS, "window": 1, "on_progress": lambda count, seconds: None}
    with pytest.raises(UserError, match=r"7\.wav has 3\.000 s, and had 0\.500 s when it was"):
        write_shards_of_splits(
            lambda: read_table(copy), ledger, stage=stages.audio, **given, **rest
        )
    ledger.close()
    in_shards(copy, tmp_path / "out")
    texts = {u.text for u in utterances_in(tmp_path / "out")}
    assert "sentence number 8" in texts and "sentence number 7" not in texts, "it is silence"


def utterances_in(folder):
    """All utterances of the shards in a folder's splits."""
    found = [folder / split for split in SPLITS if (folder / split).exists()]
    return [u for split in found for s in expand(str(split)) for u in stream(s)]


def test_shards_become_other_shards(shards, tmp_path):
    names = [shards / split for split in SPLITS]
    flags = ["--shards", 1, "--jobs", 1]
    done = call("data_prep/nemo_manifest.py", *names, "--out", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr

    def audio(folder):
        return {u.text: read_audio(u.member).tobytes() for u in utterances_in(folder)}

    assert audio(tmp_path / "out") == audio(shards)
    assert "data:audio/mpeg" in (tmp_path / "out" / "report.html").read_text()


def test_commands_of_kaldi_and_names_that_are_no_utf8_go_into_shards(table, tmp_path):
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "wav.scp").write_text(f"r1 cat {table.parent}/1.wav |\n")
    (tmp_path / "k" / "text").write_text("r1 from a command\n")
    flags = ["--shards", 1, "--jobs", 1, "--test-share", 0, "--dev-share", 0]
    out = tmp_path / "k_out"
    done = call("data_prep/kaldi.py", tmp_path / "k", "--allow-pipes", "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    assert [u.text for u in utterances_in(out)] == ["from a command"]
    (tmp_path / "f").mkdir()
    shutil.copy(table.parent / "1.wav", os.fsencode(tmp_path / "f") + b"/\xff.wav")
    Path(os.fsdecode(os.fsencode(tmp_path / "f") + b"/\xff.txt")).write_text("odd name")
    done = call("data_prep/from_folder.py", tmp_path / "f", "--out", tmp_path / "f_out", *flags)
    assert done.returncode == 0, done.stderr
    assert [u.text for u in utterances_in(tmp_path / "f_out")] == ["odd name"]


def test_bytes_in_a_dataset_go_into_shards_and_never_become_files(table, tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["1.wav", "2.wav", "4.wav", "1.wav"]
    rows = [
        {"audio": {"bytes": (table.parent / name).read_bytes(), "path": name}, "text": f"t{number}"}
        for number, name in enumerate(names)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    out = tmp_path / "out"
    flags = ["--shards", 1, "--jobs", 1, "--dev-share", 0, "--test-share", 0]
    again = ["data_prep/hugging_face.py", tmp_path / "saved", "--out", out, *flags]
    again += ["--audio-column", "audio", "--max-dropped", 0.5]
    out.mkdir()
    (out / "source.tar").write_bytes(b"cut off by a kill")
    for _ in range(2):
        done = call(*again)
        assert done.returncode == 0, done.stderr
        found = {u.text: read_audio(u.member) for u in utterances_in(out)}
        assert list(sorted(found)) == ["t0", "t1", "t2"], "t3 is a duplicate"
        for number, samples in enumerate(found[f"t{n}"] for n in range(3)):
            assert np.abs(samples - read_audio(str(table.parent / names[number]))).max() < 1e-4
        with tarfile.open(out / "source.tar") as tar:
            assert len(tar.getnames()) == 3
        assert not [p for p in out.rglob("*") if p.suffix in (".wav", ".flac")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shards", 1], "train.jsonl is of a run without --shards"),
        (["--shards", 1, "--in-place"], "expected one of the two"),
        (["--shards", 0], "expected a number of 0.001 or more"),
        (["--shards", 1e-9], "expected a number of 0.001 or more"),
    ],
)
def test_what_cannot_go_together_is_one_sentence(table, files, flags, message):
    done = call(*command(table, files, *flags))
    assert done.returncode == 2 and message in done.stderr
    assert json.loads((files / "train.jsonl").read_text().splitlines()[0])


def test_files_are_not_written_beside_shards(table, shards):
    done = call(*command(table, shards))
    assert done.returncode == 2 and "train holds shards, of a run with --shards" in done.stderr
