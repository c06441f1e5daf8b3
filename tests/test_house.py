"""The house stays as docs/how/house.md shows it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    p
    for folder in ("parakeet_ft", "recipes", "data_prep", "benchmarks", "demo_making")
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


def test_the_page_of_the_house_names_every_script():
    page = (ROOT / "docs/how/house.md").read_text()
    scripts = [
        p.name for folder in ("recipes", "data_prep") for p in (ROOT / folder).glob("[!_]*.py")
    ]
    assert [name for name in scripts if name not in page] == []


def test_no_file_names_a_machine_path():
    found = [
        f"{p.relative_to(ROOT)}: {line}"
        for p in [*SOURCES, *ROOT.glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
        for line in p.read_text().splitlines()
        if re.search(r"(?<![\w.])/(work|root|home)/", line)
    ]
    assert found == []


# From the roof to the ground: a room imports from those below it only, also inside functions.
ROOMS = (
    "cli",
    "api",
    "stages",
    "preflight",
    "doctor",
    "publishing",
    "evaluation",
    "training",
    "export",
    "report",
    "transcription",
    "batches",
    "run",
    "scoring",
    "model",
    "data",
    "tokenizer",
    "distributed",
    "settings",
    "memory",
    "files",
    "errors",
    "urls",
)


def imports_between_rooms():
    """(importing module, imported module) of this package, those for type checkers left out."""
    for path in sorted((ROOT / "parakeet_ft").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        for_types = {
            node
            for test in ast.walk(tree)
            if isinstance(test, ast.If) and getattr(test.test, "id", "") == "TYPE_CHECKING"
            for node in ast.walk(test)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in for_types:
                for name in node.names:
                    target = (
                        f"{node.module}.{name.name}"
                        if node.module == "parakeet_ft"
                        else node.module
                    )
                    if target and target.startswith("parakeet_ft."):
                        yield module, target


def test_imports_point_down():
    known = {path.stem for path in (ROOT / "parakeet_ft").iterdir() if path.stem[0].isalpha()}
    assert known - {"demo"} == set(ROOMS)
    floor = {room: number for number, room in enumerate(reversed(ROOMS))}
    up = [
        f"{module} -> {target}"
        for module, target in imports_between_rooms()
        if module.count(".") and module.split(".")[1] != target.split(".")[1]
        if not module.endswith("__init__") or module.count(".") > 1
        if floor[module.split(".")[1]] <= floor[target.split(".")[1]]
    ]
    assert up == []


def asks_a_model(node):
    """Whether a node of a syntax tree asks a NeMo model what only model/parts.py asks."""
    text = ast.unparse(node)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr"):
        return bool(re.match(r"(\w+\.)*_?model\b", ast.unparse(node.args[0])))
    if isinstance(node, ast.Attribute):
        return node.attr in ("_sample_rate", "cur_decoder", "window_stride") or bool(
            re.fullmatch(r"next\(.*model\.parameters\(\)\)\.device", text)
        )
    return False


def test_one_module_asks_a_model_what_it_is():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for folder in ("parakeet_ft", "recipes")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "parakeet_ft/model/parts.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if asks_a_model(node)
    ]
    assert found == []


def test_no_line_is_longer_than_100_columns():
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []
