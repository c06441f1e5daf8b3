"""A GPU that the installed torch cannot use is told, not passed over for the CPU."""

import os
import stat
import subprocess
import sys

import pytest

from parakeet_ft.errors import UserError
from parakeet_ft.training import driver


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(driver's version, torch's version.py): a GPU, as nvidia-smi says, and a torch."""

    def make(version, build=None):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{version}'\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if build:
            (tmp_path / "torch").mkdir()
            (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
            (tmp_path / "torch" / "version.py").write_text(build)
            origin = type("Spec", (), {"origin": str(tmp_path / "torch" / "__init__.py")})
            monkeypatch.setattr(driver.importlib.util, "find_spec", lambda name: origin)

    return make


BUILD = "from typing import Optional\n__version__ = '2.13.0{}'\ncuda: Optional[str] = {}\n"


@pytest.mark.parametrize(
    ("version", "build", "words"),
    [
        (
            "570.86.15",
            BUILD.format("", "'13.0'"),
            ["570.86.15", "CUDA 13.0", "driver 580", "trainer=cpu"],
        ),
        ("580.65.06", BUILD.format("+cpu", "None"), ["580.65.06", "2.13.0+cpu", "without CUDA"]),
        ("580.65.06", BUILD.format("", "'13.0'"), []),
        ("525.60", BUILD.format("+cu128", "'12.8'"), []),
        ("NVIDIA-SMI has failed", BUILD.format("+cpu", "None"), []),
    ],
)
def test_a_driver_too_old_for_torch_and_a_torch_without_cuda_are_told(
    version, build, words, machine
):
    machine(version, build)
    driver.check("cpu")
    if not words:
        driver.check("auto")
        return
    with pytest.raises(UserError) as told:
        driver.check("auto")
    assert all(word in str(told.value) for word in words)


def test_hidden_gpus_are_none(machine, monkeypatch):
    machine("570.86.15", BUILD.format("", "'13.0'"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    driver.check("auto")


def test_the_installed_torch_is_read_as_it_says_of_itself():
    import torch

    assert driver.torch_build() == (torch.__version__, torch.version.cuda)


def test_what_torch_sees_is_compared_with_nvidia_smi(machine, monkeypatch):
    import torch

    machine("590.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    driver.check_seen("cpu")
    with pytest.raises(UserError, match="driver 590.1"):
        driver.check_seen("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver.check_seen("auto")


def test_the_recipe_ends_with_exit_code_2_before_torch_is_imported(machine, tmp_path):
    machine("450.1")
    code = (
        "import sys\nfrom parakeet_ft import preflight\nfrom parakeet_ft.training import driver\n"
        "from parakeet_ft.errors import exit_on_user_error\n"
        "driver.torch_build = lambda: ('2.13.0', '13.0')\n"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
        "with exit_on_user_error():\n    preflight.prepare('finetune', '')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"hydra.run.dir={tmp_path}/r"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "driver 450.1" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.split() == ["False"] and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("recipe", "given", "words"),
    [
        ("evaluate", ["models=[tiny]", "out=OUT"], "to score on the CPU, give device=cpu"),
        ("transcribe", ["tiny", "README.md", "--out", "OUT"], "give --device cpu"),
    ],
)
def test_scoring_and_transcribing_do_not_take_the_cpu_in_silence(
    recipe, given, words, machine, tmp_path
):
    machine("450.1")
    code = (
        "import sys, runpy\nfrom parakeet_ft.training import driver\n"
        "driver.torch_build = lambda: ('2.13.0', '13.0')\n"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
        f"runpy.run_path('recipes/{recipe}.py', run_name='__main__')\n"
    )
    out = str(tmp_path / "out")
    command = [sys.executable, "-c", code, *(one.replace("OUT", out) for one in given)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout.split() == ["False"], done.stderr
    assert "driver 450.1" in done.stderr and words in done.stderr
    assert "trainer=cpu" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_gpu_memory_grows_in_place_unless_the_user_says_otherwise(name):
    mine = {name: "backend:native"}
    driver.let_memory_grow(mine)
    assert mine == {name: "backend:native"}
    theirs = {}
    driver.let_memory_grow(theirs)
    assert theirs == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
