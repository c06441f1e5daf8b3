"""The house stays as README.md shows it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    p
    for folder in ("parakeet_ft", "recipes", "data_prep", "benchmarks")
    for p in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    assert path.stem not in {"utils", "helpers", "common", "misc", "core", "base", "tools"}
    assert ast.get_docstring(ast.parse(path.read_text())), "no docstring"


def test_the_data_package_imports_neither_torch_nor_nemo():
    modules = [
        str(p.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for p in (ROOT / "parakeet_ft/data").rglob("*.py")
    ]
    code = (
        f"import sys, importlib\nfor m in {modules!r}: "
        f"importlib.import_module(m)\nprint({{'torch', 'nemo', 'lightning'}} & "
        f"set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_the_readme_names_every_script_and_every_folder():
    readme = (ROOT / "README.md").read_text()
    scripts = [
        p.name for folder in ("recipes", "data_prep") for p in (ROOT / folder).glob("[!_]*.py")
    ]
    assert [name for name in scripts if name not in readme] == []


def test_no_file_names_a_machine_path():
    found = [
        f"{p.relative_to(ROOT)}: {line}"
        for p in [*SOURCES, *ROOT.glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
        for line in p.read_text().splitlines()
        if re.search(r"(?<![\w.])/(work|root|home)/", line)
    ]
    assert found == []
