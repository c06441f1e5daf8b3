"""What the doctor asks of a machine, and what it makes of a broken one."""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

from parakeet_ft.doctor import facts

ROOT = Path(__file__).resolve().parents[2]


def test_a_probe_tells_what_it_found():
    assert facts.probe("print('noise'); print('{\"a\": 1}')") == facts.Probe({"a": 1})


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import os; os.abort()", "signal 6"),
        ("raise SystemExit(3)", "exit code 3"),
        ("pass", "exit code 0"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_an_import_that_fails_in_any_way_is_told(code, says):
    assert says in facts.probe(code, seconds=1.0).problem


def test_pins_are_read_as_pip_reads_them(tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(
        "# a comment\nNum_Py==1.0\nold==1 ; python_full_version < '3.0'\n"
        "new==2 ; python_full_version >= '3.0'\n"
    )
    assert facts.pinned(constraints) == {"num-py": "1.0", "new": "2"}
    assert facts.pinned(tmp_path / "none.txt") == {}


def test_the_pins_of_this_project_are_found_where_it_is_installed():
    pins = facts.pinned(facts.constraints_file())
    assert pins["torch"] == version("torch").partition("+")[0]


def test_a_place_that_is_not_there_yet_is_measured_where_it_would_be(tmp_path):
    found = facts.place(tmp_path / "new" / "outputs")
    assert found.free > 0 and not found.problem
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_says_why():
    assert facts.place(Path("/proc/1/new")).problem


def doctor(*words, **variables):
    command = [sys.executable, ROOT / "recipes/doctor.py", *words]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def broken(tmp_path):
    """A folder with a torch and a NeMo that do not load, and no yaml and numpy."""
    for name in ("torch", "nemo", "numpy", "yaml", "hydra", "rich"):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('libbroken.so: no such file')\n")
    return tmp_path


def test_a_broken_installation_is_examined_all_the_same(broken):
    done = doctor("--offline", "--json", PYTHONPATH=f"{broken}{os.pathsep}{ROOT}")
    assert done.returncode == 1, done.stderr
    lines = {line["name"]: line for line in json.loads(done.stdout)["lines"]}
    for name in ("torch", "NeMo"):
        assert lines[name]["status"] == "wrong" and "libbroken.so" in lines[name]["found"]
    assert lines["Python"]["status"] == "ok"


def test_this_machine_is_found_well_enough_to_run_the_tests():
    done = doctor("--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("0 wrong")
    assert "torch" in done.stdout and "not asked (--offline)" in done.stdout


def test_where_nothing_is_installed_it_says_what_installs_it(tmp_path):
    venv.create(tmp_path / "venv")
    command = [tmp_path / "venv/bin/python", ROOT / "recipes/doctor.py", "--offline"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No module named 'torch'" in done.stdout and "-> make install" in done.stdout
