"""Dockerfile, compose.yaml and devcontainer.json, without Docker."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SBATCH = ROOT / "recipes/slurm/finetune.sbatch"


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed beside this Python")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def copied():
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_all_that_is_copied_is_there_and_not_ignored():
    allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied() == set(allowed)
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_the_image_holds_all_that_the_wheel_is_made_of():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    assert needed - copied() == set()
    extras = set(re.findall(r"--extra (\w+)", DOCKERFILE))
    assert extras and extras <= set(project["project"]["optional-dependencies"])


def test_the_image_has_the_uv_that_is_pinned():
    pins = (ROOT / "constraints.txt").read_text()
    (version,) = re.findall(r"astral-sh/uv:([\d.]+)", DOCKERFILE)
    assert f"\nuv=={version}\n" in pins


def test_compose_gives_arguments_that_the_dockerfile_has():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    known = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for service in services.values():
        assert set(service["build"]["args"]) <= known
        assert service["shm_size"] == "8gb" and service["volumes"] == [".:/parakeet"]
    (gpu,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["driver"] == "nvidia" and gpu["capabilities"] == ["gpu"]


def test_the_dev_container_is_one_that_editors_take():
    text = {"type": "string", "minLength": 1}
    schema = {
        "type": "object",
        "required": ["name", "image", "postCreateCommand"],
        "additionalProperties": False,
        "properties": {
            "name": text,
            "image": text,
            "postCreateCommand": {"const": "make install"},
            "runArgs": {"type": "array", "items": text},
            "hostRequirements": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "cpus": {"type": "integer"},
                    "memory": {"type": "string", "pattern": r"^\d+(tb|gb|mb|kb)$"},
                    "storage": {"type": "string", "pattern": r"^\d+(tb|gb|mb|kb)$"},
                    "gpu": {"enum": [True, False, "optional"]},
                },
            },
            "customizations": {"type": "object"},
        },
    }
    found = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(found)) == []


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("", ["python", "recipes/finetune.py", "seed=1"]),
        (
            "--container-image=a.sqsh --container-workdir=/w",
            ["--container-image=a.sqsh", "--container-workdir=/w", "python", "recipes/finetune.py"],
        ),
        (
            "apptainer exec --nv a.sif",
            ["apptainer", "exec", "--nv", "a.sif", "python", "recipes/finetune.py", "seed=1"],
        ),
    ],
)
def test_a_slurm_job_runs_inside_what_it_is_told(inside, words, tmp_path):
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/told\n')
    srun.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": "python",
        "INSIDE": inside,
    }
    environment.pop("SLURM_ARRAY_TASK_ID", None)
    subprocess.run(["bash", SBATCH, "seed=1"], env=environment, check=True, cwd=ROOT)
    told = (tmp_path / "told").read_text().splitlines()
    options = [word for word in told if word.startswith(("--kill-on", "--wait"))]
    assert told[len(options) :][: len(words)] == words


def test_the_lines_of_the_container_page_name_settings_and_scripts_that_exist():
    page = (ROOT / "docs/container.md").read_text()
    from parakeet_ft.cli import ALIASES, scripts

    commands = set(scripts("recipes")) | set(ALIASES)
    used = re.findall(r"parakeet-ft(?::cuda)? ([a-z][a-z-]+)", page) + ["demo"]
    assert {word for word in used if word not in ("cpu", "in")} <= commands
    for variable in ("BASE", "TORCH"):
        assert f"ARG {variable}=" in DOCKERFILE
    assert "INSIDE" in SBATCH.read_text()
