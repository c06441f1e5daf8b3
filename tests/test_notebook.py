"""docs/finetune.ipynb in its short form: every code cell runs, in order, without Jupyter."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from parakeet_ft.files import DEMO
from parakeet_ft.report.headline import figures

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "finetune.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def plain_python(cell: str) -> str:
    """A cell with its `!command` and `%pip` lines, values in braces, as calls of `shell`."""
    return re.sub(r"^(\s*)[!%](.*)$", lambda f: f"{f[1]}shell(f{f[2]!r})", cell, flags=re.M)


def shell(command: str) -> None:
    """A line of a shell; parakeet-ft is this checkout's."""
    words = command.split()
    assert words[0] == "parakeet-ft", f"{command}: only what is installed here is run"
    subprocess.run(
        [sys.executable, "-m", "parakeet_ft.cli", *words[1:]],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )


def test_the_notebook_is_one_without_outputs_of_others():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    cells = NOTEBOOK["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        kinds = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            kinds |= {"execution_count", "outputs"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert cell.keys() == kinds
        assert "".join(cell["source"]).strip()


def test_lines_of_a_shell_are_read_as_notebooks_read_them():
    told = []
    code = plain_python("x = 1\nif x:\n    %pip install {x}\n!a b\ny = 5 % 2")
    exec(code, {"shell": told.append})
    assert told == ["pip install 1", "a b"]


@pytest.mark.slow
def test_every_cell_runs_in_the_short_form(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shown = []
    display = types.ModuleType("IPython.display")
    display.display = shown.append
    display.Audio = lambda samples, rate: ("audio", len(samples) / rate)
    display.SVG = lambda text: ("svg", text)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    found: dict = {"shell": shell}
    assert CELLS[0].startswith("SMOKE = False\n")
    for number, cell in enumerate([CELLS[0].replace("False", "True"), *CELLS[1:]]):
        exec(compile(plain_python(cell), f"cell {number}", "exec"), found)
    printed = capfd.readouterr().out
    report = json.loads(Path("outputs/notebook/latest/report.json").read_text())
    assert report["steps"] == 3 and report["verdict"] in printed
    assert [figure.value for figure in figures(report) if figure.value not in printed] == []
    assert any(kind == "audio" and seconds > 0.5 for kind, seconds in shown if kind == "audio")
    assert any(kind == "svg" for kind, _ in shown)
    lines = [
        line
        for name in ("train", "dev", "test")
        if (path := Path(f"data/mine/{name}.jsonl")).exists()
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == 12
    base, tuned = found["heard"].values()
    assert base and f"tiny_tdt_ctc: {base}" in printed and f"best.nemo: {tuned}" in printed
    assert Path(found["recording"]).is_relative_to(DEMO)
