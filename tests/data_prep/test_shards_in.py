"""The scripts that read manifests read shards as well."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest, write_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.files import DEMO

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Twelve utterances of the demo in two Shar shards."""
    folder = tmp_path_factory.mktemp("corpus")
    write_manifest(read_manifest(DEMO / "dev.jsonl")[:12], folder / "m.jsonl")
    write_shards(
        folder / "m.jsonl",
        out=folder / "train",
        hours=20 / 3600,
        format="shar",
        executor=InlineExecutor,
    )
    return folder


def run(script, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "data_prep" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_check_audits_shards_as_it_does_manifests(shards, tmp_path, flags):
    done = run("check.py", shards / "train", *flags, "--out", tmp_path / "check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "check" / "report.html").is_file()
    assert not (tmp_path / "check" / "dropped.jsonl").exists()


def test_check_writes_no_manifest_of_members(shards, tmp_path):
    done = run("check.py", shards / "train", "--write", "--out", tmp_path / "check", cwd=tmp_path)
    assert done.returncode == 2 and "--write writes manifests of single files" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "check").exists()


def test_shards_become_files_again(shards, tmp_path):
    done = run(
        "nemo_manifest.py", shards / "train", "--out", tmp_path / "out", "--jobs", 1, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = [
        u
        for path in (tmp_path / "out").glob("*.jsonl")
        if path.name != "dropped.jsonl"
        for u in read_manifest(path)
    ]
    expected = {u.text: u for u in read_manifest(shards / "m.jsonl")}
    assert {u.text for u in found} == set(expected)
    for u in found:
        ours, theirs = read_audio(u.audio_filepath), read_audio(expected[u.text].audio_filepath)
        assert np.abs(ours - theirs[: len(ours)]).max() < 2e-4
