"""Each line of the doctor, for a machine that is well and for one that is not."""

import dataclasses

import pytest

from parakeet_ft.doctor import findings
from parakeet_ft.doctor.facts import Facts, Place, Probe

GB = 1e9
WELL = Facts(
    python=(3, 11, 7),
    executable="python3",
    clone=True,
    constraints="constraints.txt",
    needed=("torch", "numpy"),
    pins={"torch": "2.13.0", "numpy": "2.4.6"},
    installed={"torch": "2.13.0+cu130", "numpy": "2.4.6", "another": "1"},
    driver="580.65.06",
    torch_build=("2.13.0+cu130", "13.0"),
    probes={
        "torch": Probe({"seen": True, "gpus": [["NVIDIA H100", 70 * GB, 80 * GB]]}),
        "nemo": Probe({"version": "3.0.0"}),
        "soundfile": Probe({"version": "1.2.2"}),
        "av": Probe({"version": "8.0"}),
        "hub": Probe({"endpoint": "https://huggingface.co", "problem": None}),
    },
    memory_free=64 * GB,
    shared_memory=Place("/dev/shm", 8 * GB),
    outputs=Place("outputs", 500 * GB),
    temporary=Place("/tmp", 100 * GB),
    cache=Place("cache", 100 * GB),
    hub_cache=Place("hub", 100 * GB),
)


def probes(**changed):
    return {"probes": WELL.probes | changed}


def without_hub():
    return {"probes": {name: found for name, found in WELL.probes.items() if name != "hub"}}


def line(name, **changed):
    found = findings.examine(dataclasses.replace(WELL, **changed))
    return {line.name: line for line in found}[name]


def test_a_machine_that_is_well_has_only_ok_lines_and_no_cures():
    lines = findings.examine(WELL)
    assert len(lines) == len(findings.CHECKS)
    assert {(line.status, line.cure) for line in lines} == {("ok", "")}


BROKEN = Probe(problem="OSError: libcudart.so.13: cannot open shared object file")
CASES = {
    "a Python too new": ("Python", {"python": (3, 13, 0)}, "wrong", "PYTHON=python3.11"),
    "a Python too old": ("Python", {"python": (3, 9, 2), "clone": False}, "wrong", "uv python"),
    "a package missing": ("packages", {"installed": {"torch": "2.13.0"}}, "wrong", "make install"),
    "another version": (
        "packages",
        {"installed": WELL.installed | {"numpy": "1.26.0"}},
        "warning",
        "make install",
    ),
    "no constraints": ("packages", {"pins": {}}, "warning", "make install"),
    "a torch that does not load": ("torch", probes(torch=BROKEN), "wrong", "make install"),
    "a torch for the CPU": ("torch", {"torch_build": ("2.13.0", None)}, "wrong", "TORCH=cu130"),
    "an old driver": ("torch", {"driver": "550.54.15"}, "wrong", "TORCH=cu126"),
    "a driver too old for any": ("torch", {"driver": "390.12"}, "wrong", "update"),
    "a GPU that torch does not see": (
        "torch",
        probes(torch=Probe({"seen": False, "gpus": []})),
        "wrong",
        "torch.cuda.init()",
    ),
    "a GPU that is full": (
        "GPU",
        probes(torch=Probe({"seen": True, "gpus": [["NVIDIA L4", 2 * GB, 24 * GB]]})),
        "warning",
        "low_memory",
    ),
    "a NeMo that does not load": ("NeMo", probes(nemo=BROKEN), "wrong", "make install"),
    "no libsndfile": ("libsndfile", probes(soundfile=BROKEN), "wrong", "make install"),
    "no ffmpeg": ("ffmpeg", probes(av=BROKEN), "wrong", "make install"),
    "no memory": ("memory", {"memory_free": GB}, "wrong", "container"),
    "little memory": ("memory", {"memory_free": 4 * GB}, "warning", "end what"),
    "no shared memory": ("/dev/shm", {"shared_memory": None}, "warning", "--shm-size"),
    "shared memory of a plain container": (
        "/dev/shm",
        {"shared_memory": Place("/dev/shm", 64e6)},
        "warning",
        "--shm-size",
    ),
    "shared memory that is full": (
        "/dev/shm",
        {"shared_memory": Place("/dev/shm", 1e6)},
        "wrong",
        "--shm-size",
    ),
    "shared memory of others": (
        "/dev/shm",
        {"shared_memory": Place("/dev/shm", problem="Permission denied")},
        "wrong",
        "--shm-size",
    ),
    "outputs of others": (
        "outputs",
        {"outputs": Place("outputs", problem="Read-only file system")},
        "wrong",
        "hydra.run.dir",
    ),
    "a small disk": ("outputs", {"outputs": Place("outputs", 9 * GB)}, "warning", "hydra.run.dir"),
    "a full disk": ("temporary", {"temporary": Place("/tmp", 1e6)}, "wrong", "TMPDIR"),
    "a cache of others": ("cache", {"cache": Place("c", problem="no")}, "wrong", "PARAKEET_FT"),
    "a full hub cache": ("hub cache", {"hub_cache": Place("hub", 1e6)}, "wrong", "HF_HOME"),
    "a hub out of reach": (
        "hub",
        probes(hub=Probe({"endpoint": "https://h", "problem": "no answer from h within 3 s"})),
        "warning",
        "download.py",
    ),
    "a broken hub": ("hub", probes(hub=BROKEN), "warning", "download.py"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_wrong_is_told_with_its_cure(case):
    name, changed, status, cure = case
    found = line(name, **changed)
    assert found.status == status and cure in found.cure and found.found


def test_without_a_gpu_torch_is_for_the_cpu_and_no_line_tells_of_one():
    changed = probes(torch=Probe({"seen": False, "gpus": []}))
    lines = findings.examine(
        dataclasses.replace(WELL, driver=None, torch_build=("2.13.0+cpu", None), **changed)
    )
    assert "GPU" not in {line.name for line in lines}
    assert {line.status for line in lines} == {"ok"}


def test_offline_the_hub_is_not_asked():
    assert line("hub", **without_hub()).found == "not asked (--offline)"


def test_an_installed_wheel_is_cured_without_make():
    found = line("torch", clone=False, driver="550.54.15")
    assert "make" not in found.cure
    assert "torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" in found.cure
    assert "-c constraints.txt" in line("packages", clone=False, installed={}).cure
