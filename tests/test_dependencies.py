"""What is imported is declared, what is declared is needed, and all of it is pinned."""

import ast
import functools
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported by others in our name: Lightning's loggers.
BY_NAME = {"gcsfs", "s3fs", "tensorboard", "wandb"}


def normal(requirement):
    """The name of a distribution, as packages are compared."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@functools.cache
def imported():
    """{module: one file that imports it} of all that is neither ours nor Python's."""
    found = {}
    for folder in ("parakeet_ft", "recipes", "data_prep"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {
        name: path
        for name, path in found.items()
        if name not in sys.stdlib_module_names and name not in ("parakeet_ft", "recipes")
    }


def of_extras(*names):
    extras = PROJECT["optional-dependencies"]
    return [line for name in names for line in extras[name]]


def declared():
    """What the product imports; tests and the site have tools of their own."""
    extras = sorted(set(PROJECT["optional-dependencies"]) - {"test", "docs"})
    return {normal(line) for line in [*PROJECT["dependencies"], *of_extras(*extras)]}


def distributions():
    """The distributions that the imported modules come from."""
    by_module = packages_distributions()
    return {
        normal(name): module for module in imported() for name in by_module.get(module, [module])
    }


def test_every_import_comes_from_a_declared_dependency():
    missing = {name: imported()[module] for name, module in distributions().items()}
    assert {name: where for name, where in missing.items() if name not in declared()} == {}


def test_every_declared_dependency_is_imported():
    assert declared() - set(distributions()) == BY_NAME


def test_every_declared_dependency_is_pinned_and_has_a_reason():
    pins = {
        normal(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    site = {normal(line) for line in of_extras("docs")}
    assert (declared() | site) - pins == set()
    text = (ROOT / "pyproject.toml").read_text()
    for beginning in ("dependencies = [\n", "docs = [\n"):
        block = text.partition(beginning)[2].partition("\n]")[0]
        assert [line for line in block.splitlines() if not re.search(r",\s+# \w", line)] == []
