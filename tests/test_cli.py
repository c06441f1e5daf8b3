"""The console command, from a clone and from a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from parakeet_ft import cli
from parakeet_ft.errors import UserError, exit_on_user_error

ROOT = Path(__file__).resolve().parents[1]


def test_every_recipe_and_script_is_a_command():
    for folder, prefix in (("recipes", []), ("data_prep", ["data-prep"])):
        for path in (ROOT / folder).glob("[!_]*.py"):
            words = [*prefix, path.stem.replace("_", "-"), "--flag", "value"]
            assert cli.find_script(words) == (path, ["--flag", "value"])


def test_a_script_may_be_named_as_its_file():
    found, rest = cli.find_script(["data-prep", "from_table", "x.csv"])
    assert found.name == "from_table.py" and rest == ["x.csv"]


def test_the_demo_is_finetune_as_it_is_bundled():
    assert cli.find_script(["demo", "budget.steps=1"]) == (
        ROOT / "recipes/finetune.py",
        ["budget.steps=1"],
    )


def test_a_package_that_is_missing_leads_to_the_doctor(tmp_path):
    package = tmp_path / "hydra"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "parakeet_ft.cli", "demo"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no_such_module" in done.stderr and "parakeet-ft doctor" in done.stderr


def test_a_module_of_ours_that_is_missing_is_a_bug_and_keeps_its_traceback():
    with pytest.raises(ImportError), exit_on_user_error():
        import parakeet_ft.no_such_module  # noqa: F401


def test_an_unknown_command_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'finetun'.*Did you mean finetune\?"):
        cli.find_script(["finetun"])


def test_the_listing_says_what_each_command_does(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["parakeet-ft"])
    cli.main()
    shown = capsys.readouterr().out
    assert "finetune" in shown and "Fine-tune a Parakeet checkpoint to a domain" in shown
    assert max(map(len, shown.splitlines())) <= 80


SCRIPTS = [*(ROOT / "recipes").glob("[!_]*.py"), *(ROOT / "data_prep").glob("[!_]*.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_fits_a_terminal_of_80_columns(script):
    shown = subprocess.run(
        [sys.executable, script, "--help"],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert shown.returncode == 0 and shown.stderr == ""
    assert [line for line in shown.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "parakeet_ft.cli"],
        ["-m", "parakeet_ft.cli", "export", "--help"],
        ["recipes/finetune.py", "--help"],
        ["data_prep/check.py", "--help"],
        ["recipes/publish.py", "--help"],
    ],
)
def test_a_reader_that_has_gone_is_no_error(words):
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()  # as `| head -0` does
    assert process.stderr.read() == b"" and process.wait() in (0, 128 + 13)


def test_a_broken_pipe_elsewhere_is_not_hidden():
    with pytest.raises(BrokenPipeError), exit_on_user_error():
        raise BrokenPipeError(32, "of a worker")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A wheel of this project, unpacked where no clone is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run(installed: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "parakeet_ft.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_wheel_holds_settings_recipes_scripts_and_the_demo(installed):
    package = installed / "parakeet_ft"
    for folder, suffix in (("conf", "yaml"), ("recipes", "py"), ("data_prep", "py")):
        ours = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob(f"*.{suffix}")}
        theirs = {p.relative_to(package / folder) for p in (package / folder).rglob(f"*.{suffix}")}
        assert ours == theirs and ours
    clips = {p.name for p in (ROOT / "parakeet_ft/demo/audio").rglob("*.opus")}
    assert clips == {p.name for p in (package / "demo/audio").rglob("*.opus")}


def test_a_wheel_finetunes_where_no_clone_is(installed, tmp_path):
    shown = run(installed, "finetune", "--help", cwd=tmp_path)
    assert shown.returncode == 0 and "budget.steps" in shown.stdout, shown.stderr
    refused = run(installed, "finetune", "data.train=none.jsonl", cwd=tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_wheel_prepares_data_where_no_clone_is(installed, tmp_path):
    shown = run(installed, "data-prep", "from_table", "--help", cwd=tmp_path)
    assert shown.returncode == 0 and "usage" in shown.stdout, shown.stderr
