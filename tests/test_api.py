"""What a notebook imports: the snippet of the documentation as it stands, and what it answers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parakeet_ft
from parakeet_ft.data.manifest import read_manifest, write_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/python.md"


def test_importing_the_package_brings_neither_torch_nor_nemo():
    code = "import sys, parakeet_ft; print(sorted({'torch', 'nemo', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_snippet_of_the_documentation_runs_as_it_stands(tmp_path, monkeypatch, capfd):
    """With three steps instead of 200, and less data."""
    snippet = re.search(r"# From Python\n\n```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    for name, size in {"train": 8, "dev": 2, "guard": 2}.items():
        write_manifest(read_manifest(DEMO / f"{name}.jsonl")[:size], tmp_path / f"{name}.jsonl")
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    clip = read_manifest(DEMO / "guard.jsonl")[0]
    (recordings / "a.opus").symlink_to(clip.audio_filepath)
    code = snippet[1].replace('"budget.steps": 200', '"budget.steps": 3, "data.num_workers": 0')
    found: dict = {}
    exec(compile(code, str(PAGE), "exec"), found)
    assert found["report"]["steps"] == 3
    stored = json.loads((tmp_path / "outputs" / "mine" / "latest" / "report.json").read_text())
    assert stored["verdict"] == found["report"]["verdict"]
    printed = capfd.readouterr().out.splitlines()
    assert stored["verdict"] in printed and printed[-1] == str(1 / 3)
    wer = stored["tuned"]["guard"]["wer"]
    assert float(printed[-2]) == pytest.approx(wer), "as the run itself scored it"
    assert found["transcript"].words and found["transcript"].text in " ".join(printed)


def test_a_mistake_is_told_as_the_recipes_tell_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"optim.lr=fast: expected auto or a number"):
        parakeet_ft.finetune(settings={"optim.lr": "fast"})
    with pytest.raises(UserError, match=r"it's not here.nemo"):
        parakeet_ft.finetune(model="it's not here.nemo")
    with pytest.raises(UserError, match=r"nowhere"):
        parakeet_ft.transcribe("tiny", tmp_path / "nowhere")
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        parakeet_ft.train  # noqa: B018
    assert not (tmp_path / "outputs").exists()
