"""README's commands parse: scripts exist, keys and options too."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_ft.run import composition

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", README, flags=re.S)
INLINE = [code for code in re.findall(r"`([^`\n]+)`", README) if "..." not in code]
LINES = [
    line.partition(" #")[0].strip()
    for block in [*BLOCKS, *INLINE]
    for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = sorted({line for line in LINES if re.match(r"(\.venv/bin/)?python \w|make ", line)})


def test_the_readme_holds_commands():
    assert "make demo" in COMMANDS and "make test" in COMMANDS and len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        known = re.search(r"\.PHONY: (.*)", makefile).group(1).split()
        known += re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
        assert all(word.partition("=")[0] in known for word in words[1:])
        return
    script = ROOT / words[1]
    assert script.is_file(), f"{words[1]} does not exist"
    if words[1] == "recipes/finetune.py" and "--help" not in words:
        composition.compose("finetune", composition.expand_shorthand(words[2:]))
    else:
        shown = subprocess.run(
            [sys.executable, str(script), "--help"], capture_output=True, text=True
        )
        assert shown.returncode == 0, shown.stderr
        for option in (word for word in words[2:] if word.startswith("--") and word != "--help"):
            assert option.partition("=")[0] in shown.stdout, f"{words[1]} has no option {option}"


@pytest.mark.parametrize(
    "words",
    [
        "--dev-share 0",
        "[export]",
        "[ui]",
        "[slurm]",
        "[dask]",
        "bundled:guard_dev.jsonl",
        "name=",
        "device=cpu",
    ],
)
def test_what_a_reader_looks_for_stands_in_the_readme(words):
    assert words in README


def test_the_readme_installs_only_extras_that_there_are():
    known = re.search(
        r"optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.S
    )
    extras = set(re.findall(r"^(\w+) =", known.group(1), re.M))
    assert set(re.findall(r"(?:parakeet-ft|\.)\[(\w+)\]", README)) <= extras
