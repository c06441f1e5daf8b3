"""Facts of a machine -> a line for each thing that a run needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from parakeet_ft.doctor.facts import Facts, Place
from parakeet_ft.training.driver import FIRST_DRIVER

OK, WARNING, WRONG = "ok", "warning", "wrong"
GB = 1e9
# What training/host.py computes for a run of 0.6B weights with the default settings is 43 GB.
DISK_DEMO, DISK_REAL = 2 * GB, 45 * GB
# A container has 64 MB where nothing is said.
SHM_LEAST, SHM_GOOD = 32e6, 1 * GB
# Restoring 0.6B weights takes 2.4 GB beside Python, torch and NeMo; the demo some 2.
MEMORY_DEMO, MEMORY_REAL = 2 * GB, 8 * GB
# The least that experiment=low_memory leaves for 0.6B and 1.1B weights.
GPU_LEAST = 8 * GB
# The build of torch for each CUDA, newest first.
BUILDS = ((13, "cu130"), (12, "cu126"))


@dataclasses.dataclass(frozen=True)
class Line:
    """One thing: what was found, and the command that cures it where it is not ok."""

    name: str
    status: str
    found: str
    cure: str = ""


def examine(facts: Facts) -> list[Line]:
    """All lines, in the order in which they are best mended."""
    return [line for check in CHECKS if (line := check(facts))]


def _install(facts: Facts, torch: str = "") -> str:
    """The command that installs, a named build of torch if one is given."""
    if facts.clone:
        return "make install" + (f" TORCH={torch}" if torch else "")
    if torch:
        version = facts.pins.get("torch", "")
        index = f"https://download.pytorch.org/whl/{torch}"
        return f"pip install --force-reinstall torch=={version} --index-url {index}"
    return f"pip install -c {facts.constraints} parakeet-ft"


def python(facts: Facts) -> Line:
    """Whether the package allows this Python."""
    found = f"{'.'.join(map(str, facts.python))} ({facts.executable})"
    if (3, 10) <= facts.python[:2] < (3, 13):
        return Line("Python", OK, found)
    cure = (
        "rm -r .venv; make install PYTHON=python3.11" if facts.clone else "uv python install 3.11"
    )
    return Line("Python", WRONG, f"{found}; expected 3.10, 3.11 or 3.12", cure)


def packages(facts: Facts) -> Line:
    """Whether all packages are there, in the versions of constraints.txt."""
    missing = [name for name in facts.needed if name not in facts.installed]
    if missing:
        return Line("packages", WRONG, f"missing: {', '.join(missing)}", _install(facts))
    if not facts.pins:
        found = f"{facts.constraints} cannot be read, so no version was compared"
        return Line("packages", WARNING, found, _install(facts))
    others = [
        f"{name} {facts.installed[name]} (pinned: {pin})"
        for name, pin in facts.pins.items()
        if name in facts.installed and facts.installed[name].partition("+")[0] != pin
    ]
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
        return Line(
            "packages", WARNING, f"other than the versions tested: {shown}", _install(facts)
        )
    number = sum(name in facts.installed for name in facts.pins)
    return Line("packages", OK, f"{number} as pinned in constraints.txt")


def torch(facts: Facts) -> Line:
    """Whether torch loads, and whether it and the driver fit."""
    if problem := facts.probes["torch"].problem:
        return Line("torch", WRONG, f"does not load: {problem}", _install(facts))
    version, cuda = facts.torch_build or ("?", None)
    if facts.driver is None:
        return Line("torch", OK, f"{version}, for the CPU: nvidia-smi shows no GPU to use")
    major = int(facts.driver.partition(".")[0])
    fitting = next((b for c, b in BUILDS if major >= FIRST_DRIVER[c]), "")
    cure = _install(facts, fitting) if fitting else "update the NVIDIA driver"
    found = f"{version}, driver {facts.driver}"
    if cuda is None:
        return Line("torch", WRONG, f"{found}: a GPU, but a torch without CUDA", cure)
    needs = FIRST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if major < needs:
        return Line("torch", WRONG, f"{found}: CUDA {cuda} needs driver {needs} or later", cure)
    if not facts.probes["torch"].found["seen"]:
        cure = "python -c 'import torch; torch.cuda.init()' says why"
        return Line("torch", WRONG, f"{found}: torch sees no GPU", cure)
    return Line("torch", OK, f"{found}, CUDA {cuda}")


def gpus(facts: Facts) -> Line | None:
    """Memory of the GPUs that torch sees; no line without one."""
    found = facts.probes["torch"].found.get("gpus") or []
    if not found:
        return None
    shown = "; ".join(f"{n}, {f / GB:.0f} of {t / GB:.0f} GB free" for n, f, t in found)
    if min(free for _, free, _ in found) < GPU_LEAST:
        cure = "nvidia-smi shows what else runs there; experiment=low_memory takes least"
        return Line("GPU", WARNING, shown, cure)
    return Line("GPU", OK, shown)


def _loads(name: str, probe: str, what: str) -> Callable[[Facts], Line]:
    """A check that a package loads."""

    def check(facts: Facts) -> Line:
        tried = facts.probes[probe]
        if tried.problem:
            return Line(name, WRONG, f"{what} does not load: {tried.problem}", _install(facts))
        return Line(name, OK, str(tried.found["version"]))

    return check


def memory(facts: Facts) -> Line:
    """Host memory that is free."""
    found = f"{facts.memory_free / GB:.1f} GB free"
    if facts.memory_free < MEMORY_DEMO:
        return Line("memory", WRONG, found, "end what else runs here, or give a container more")
    if facts.memory_free < MEMORY_REAL:
        found = f"{found}: enough for the demo, little for 0.6B weights"
        return Line("memory", WARNING, found, "end what else runs here")
    return Line("memory", OK, found)


def shared_memory(facts: Facts) -> Line:
    """Room in /dev/shm, through which batches travel."""
    cure = "docker run --shm-size=8g"
    if facts.shared_memory is None:
        return Line("/dev/shm", WARNING, "is not there", cure)
    place = facts.shared_memory
    if place.problem:
        return Line("/dev/shm", WRONG, f"cannot be written: {place.problem}", cure)
    found = f"{place.free / GB:.2f} GB free"
    if place.free < SHM_LEAST:
        return Line("/dev/shm", WRONG, found, cure)
    if place.free < SHM_GOOD:
        return Line("/dev/shm", WARNING, f"{found}: little for batches of real size", cure)
    return Line("/dev/shm", OK, found)


def _folder(name: str, of: Callable[[Facts], Place], cure: str) -> Callable[[Facts], Line]:
    """A check that a folder can be written and its disk has room."""

    def check(facts: Facts) -> Line:
        place = of(facts)
        if place.problem:
            return Line(name, WRONG, f"{place.path} cannot be written: {place.problem}", cure)
        found = f"{place.path}, {place.free / GB:.0f} GB free"
        if place.free < DISK_DEMO:
            return Line(name, WRONG, f"{found}; the demo needs {DISK_DEMO / GB:.0f}", cure)
        if place.free < DISK_REAL and name == "outputs":
            need = f"{DISK_REAL / GB:.0f} GB"
            return Line(name, WARNING, f"{found}; a run of 0.6B weights keeps about {need}", cure)
        return Line(name, OK, found)

    return check


def hub(facts: Facts) -> Line:
    """Whether the hub of checkpoints answers."""
    if "hub" not in facts.probes:
        return Line("hub", OK, "not asked (--offline)")
    tried = facts.probes["hub"]
    cure = (
        "python recipes/download.py parakeet_ctc_0.6b, where there is a network; HF_HOME names it"
    )
    if problem := tried.problem or tried.found["problem"]:
        return Line("hub", WARNING, f"{problem}: only what is in its cache can be used", cure)
    return Line("hub", OK, f"{tried.found['endpoint']} answers")


CHECKS: tuple[Callable[[Facts], Line | None], ...] = (
    python,
    packages,
    torch,
    gpus,
    _loads("NeMo", "nemo", "nemo_toolkit"),
    _loads("libsndfile", "soundfile", "soundfile"),
    _loads("ffmpeg", "av", "av, which holds it,"),
    memory,
    shared_memory,
    _folder("outputs", lambda facts: facts.outputs, "hydra.run.dir=DIR on another disk"),
    _folder("temporary", lambda facts: facts.temporary, "export TMPDIR=DIR on another disk"),
    _folder("cache", lambda facts: facts.cache, "export PARAKEET_FT_CACHE=DIR on another disk"),
    _folder("hub cache", lambda facts: facts.hub_cache, "export HF_HOME=DIR on another disk"),
    hub,
)
