"""The files around the code: version, citation, workflows, templates, the page for assistants."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import parakeet_ft
from parakeet_ft.cli import find_script
from parakeet_ft.errors import NotBetter, Stopped, UserError
from parakeet_ft.run.composition import compose, expand_shorthand

ROOT = Path(__file__).resolve().parents[1]
AGENTS = (ROOT / "AGENTS.md").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_the_version_stands_in_one_place():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "parakeet_ft/__init__.py"


def test_what_is_built_has_the_version_of_the_package():
    command = [sys.executable, "-m", "hatchling", "version"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.strip() == parakeet_ft.__version__, shown.stderr


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == parakeet_ft.__version__
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


SCHEMAS = {
    "citation-file-format": ["CITATION.cff"],
    "compose-spec": ["compose.yaml"],
    "github-workflows": [f".github/workflows/{name}.yml" for name in ("ci", "pages", "release")],
    "github-issue-forms": [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/idea.yml"],
    "github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_is_what_its_published_schema_says(schema):
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *SCHEMAS[schema]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_workflow_and_form_is_held_against_its_schema():
    held = {file for files in SCHEMAS.values() for file in files}
    there = {str(p.relative_to(ROOT)) for p in (ROOT / ".github").rglob("*.yml")}
    assert there <= held


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_asks_for_more(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_ci_calls_what_the_makefile_has_on_every_python_that_is_supported():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text()).group(1).split()
    called = [step["run"].split()[1] for step in job["steps"] if "run" in step]
    assert called == ["install", "lint", "test"] and set(called) <= set(targets)
    project = (ROOT / "pyproject.toml").read_text()
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    assert job["strategy"]["matrix"]["python"] == [f"3.{n}" for n in range(int(low), int(high))]


def commands():
    """What the page for assistants tells to run, as words."""
    for line in re.findall(r"`((?:\.venv/bin/python|make|parakeet-ft) [^`]+)`", AGENTS):
        yield shlex.split(line)


def test_each_command_for_assistants_names_a_script_or_target_that_exists():
    found = list(commands())
    assert len(found) > 10
    targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text()).group(1).split()
    for program, first, *rest in found:
        if program == "make":
            assert first in targets
        elif program == "parakeet-ft":
            assert first in ("NAME", "data-prep") or find_script([first, *rest])
        elif first != "-m":
            assert (ROOT / first).is_file(), first


def test_the_settings_for_assistants_exist():
    lines = [line for line in commands() if "recipes/finetune.py" in line and "--help" not in line]
    assert len(lines) == 3
    for line in lines:
        compose("finetune", expand_shorthand(line[2:]))
    compose("finetune", ["data.guard_validation=a"])


def test_exit_codes_for_assistants_are_those_of_the_errors():
    table = dict(re.findall(r"^\| (\d+) \| ([^|]+) \|", AGENTS, re.MULTILINE))
    assert "bad input" in table[str(UserError.code)]
    assert "not better" in table[str(NotBetter.code)]
    assert "asked to stop" in table[str(Stopped.code)]


def test_an_installed_version_is_found():
    try:
        found = importlib.metadata.version("parakeet-ft")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("parakeet-ft is not installed")
    assert found == parakeet_ft.__version__
