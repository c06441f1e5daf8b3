"""The files of recipes/launch, held against what each service takes."""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import schemas
import yaml

from parakeet_ft.errors import NotBetter, Stopped, UserError

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "recipes/launch"
MANIFESTS = sorted(LAUNCH.glob("kubernetes*.yaml"))


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def job_of(path):
    return next(d for d in documents(path) if d["kind"] == "Job")


def container_of(path):
    return job_of(path)["spec"]["template"]["spec"]["containers"][0]


@pytest.fixture
def keys():
    """Every setting that a command line may name."""
    from parakeet_ft.run.composition import compose

    def flat(config, prefix=""):
        for key, value in config.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")

    return set(flat(compose("finetune", ["data.train=a", "data.validation=b"])))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_kubernetes_takes_each_document(path):
    for document in documents(path):
        assert schemas.faults(document, schemas.KUBERNETES[document["kind"]]) == []


def test_a_misspelt_field_is_found():
    broken = job_of(MANIFESTS[0])
    broken["spec"]["template"]["spec"]["restartPolicies"] = "Never"
    (fault,) = schemas.faults(broken, schemas.JOB)
    assert "restartPolicies" in fault


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_what_a_pod_mounts_is_there_and_shared_memory_is_in_memory(path):
    pod = job_of(path)["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_exit_codes_are_those_of_the_errors():
    rules = job_of(LAUNCH / "kubernetes.yaml")["spec"]["podFailurePolicy"]["rules"]
    codes = {r["action"]: r["onExitCodes"]["values"] for r in rules if "onExitCodes" in r}
    assert codes == {"Ignore": [Stopped.code], "FailJob": [UserError.code, NotBetter.code]}
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [Stopped.code]


def test_the_pods_of_one_run_find_its_first():
    service, job = documents(LAUNCH / "kubernetes_nodes.yaml")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert f"--master-addr={first} " in container["args"][0]
    assert spec["completions"] == spec["parallelism"] == int(container["env"][0]["value"])
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus} " in container["args"][0]


def test_each_setting_that_a_file_names_exists(keys):
    words = [
        *container_of(LAUNCH / "kubernetes.yaml")["args"][1:],
        *container_of(LAUNCH / "kubernetes_nodes.yaml")["args"][0].split(),
        *yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())["run"].split(),
        *re.findall(r"[\w.]+=[\w./]+", (LAUNCH / "README.md").read_text()),
    ]
    named = {w.partition("=")[0] for w in words if re.match(r"[a-z_]+(\.[a-z_]+)*=", w)}
    named -= {"command"}
    assert named >= {"data.train", "model", "trainer.num_nodes"}
    assert named - keys == set()


def torchrun_takes(words):
    """Whether torchrun's own parser takes these words."""
    from torch.distributed.run import get_args_parser

    return get_args_parser().parse_args(words)


def test_torchrun_takes_the_words_of_a_pod():
    line = container_of(LAUNCH / "kubernetes_nodes.yaml")["args"][0]
    line = line.replace("$NODES", "2").replace("$JOB_COMPLETION_INDEX", "1")
    words = shlex.split(line)
    assert words[:2] == ["exec", "torchrun"]
    read = torchrun_takes(words[2:])
    assert (read.nnodes, read.node_rank, read.master_port) == ("2", 1, 29500)
    assert read.training_script == "/opt/parakeet-ft/recipes/finetune.py"


def test_skypilot_takes_the_task():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert schemas.faults(task, schemas.SKYPILOT) == []


@pytest.fixture
def stubs(tmp_path):
    """A folder whose programs write the words they get into `told`, and the environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("torchrun", "python", "uvx", "hf", "uv"):
        file = folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/told\n')
        file.chmod(0o755)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("nodes", [1, 2])
def test_skypilot_runs_the_recipe_on_one_node_or_more(nodes, stubs, tmp_path):
    script = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())["run"]
    script = script.replace("/kept", str(tmp_path / "kept"))
    script = script.replace("recipes/launch", str(LAUNCH))
    environment = stubs | {
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "ARGS": "model=tiny budget.steps=2",
    }
    subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, check=True)
    name, *words = (tmp_path / "told").read_text().split()
    assert words[-2:] == ["model=tiny", "budget.steps=2"]
    if nodes == 1:
        assert (name, words[0]) == ("python", "recipes/finetune.py")
        return
    read = torchrun_takes(words)
    assert (read.nnodes, read.nproc_per_node, read.node_rank) == ("2", "8", 1)
    assert read.master_addr == "10.0.0.1"
    assert "trainer.num_nodes=2" in read.training_script_args


def test_hugging_face_takes_the_job(stubs, tmp_path):
    """hf reads the command itself and says what it would submit; no network."""
    environment = stubs | {
        "HF": str(Path(sys.executable).with_name("hf")),
        "HF_TOKEN": "hf_none",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "DATA": "me/corpus",
        "BUCKET": "me/runs",
        "OPTIONS": "--dry-run",
    }
    done = subprocess.run(
        [LAUNCH / "hf_job.sh", "finetune", "model=parakeet_ctc_0.6b"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Job not submitted" in done.stdout, done.stdout + done.stderr
    assert "l4x1" in done.stdout and "8h" in done.stdout
    assert "uv build --quiet --wheel" in (tmp_path / "told").read_text()


def test_the_job_runs_the_wheel_with_its_pins(tmp_path):
    spec = importlib.util.spec_from_file_location("hf_job", LAUNCH / "hf_job.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "parakeet_ft-0.1.0-py3-none-any.whl").touch()
    words = module.command(tmp_path, "/runs", ["finetune", "name=mine"])
    assert words[:3] == ["bash", str(tmp_path / "keep.sh"), "/runs"]
    assert words[words.index("--constraints") + 1] == str(tmp_path / "constraints.txt")
    assert words[-3:] == ["parakeet-ft", "finetune", "name=mine"]


def test_what_one_machine_left_is_there_on_the_next(tmp_path):
    kept = tmp_path / "bucket"
    for machine, code in (("first", 75), ("second", 0)):
        place = tmp_path / machine
        place.mkdir()
        script = (
            "mkdir -p outputs/mine/1/.hydra; ls outputs/mine/1 > seen; "
            f"echo {machine} > outputs/mine/1/of_{machine}; touch outputs/mine/1/.hydra/c.yaml; "
            f"ln -s 1 outputs/mine/latest; touch outputs/mine/a.lock; exit {code}"
        )
        done = subprocess.run(["bash", LAUNCH / "keep.sh", kept, "bash", "-c", script], cwd=place)
        assert done.returncode == code
    assert (tmp_path / "second/seen").read_text() == "of_first\n"
    found = {str(p.relative_to(kept)) for p in kept.rglob("*") if p.is_file()}
    assert found == {"mine/1/of_first", "mine/1/of_second", "mine/1/.hydra/c.yaml"}


def test_a_signal_reaches_the_command_and_its_exit_code_comes_back(tmp_path):
    script = "trap 'touch outputs/saved; exit 75' TERM; touch ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        ["bash", LAUNCH / "keep.sh", tmp_path / "kept", "bash", "-c", script], cwd=tmp_path
    )
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "kept/saved").exists()
