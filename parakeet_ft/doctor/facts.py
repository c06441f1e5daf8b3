"""What there is on this machine. Imports nothing that an installation may lack; torch, NeMo and
their like are imported by processes of their own, which may crash.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from parakeet_ft.files import PACKAGE
from parakeet_ft.training import driver

PROBE_SECONDS = 180.0  # NeMo's first import compiles some thousand files
SHARED_MEMORY = Path("/dev/shm")
# The last line that each prints is what was found.
PROBES = {
    "torch": """
import json, torch
seen = torch.cuda.is_available()
memory = [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i))
          for i in range(torch.cuda.device_count() if seen else 0)]
print(json.dumps({"seen": seen, "gpus": memory}))
""",
    "nemo": """
import json, nemo
from nemo.collections.asr.models import ASRModel
print(json.dumps({"version": nemo.__version__}))
""",
    "soundfile": """
import json, soundfile
print(json.dumps({"version": soundfile.__libsndfile_version__}))
""",
    "av": """
import json, av
print(json.dumps({"version": av.ffmpeg_version_info}))
""",
    "hub": """
import json
from huggingface_hub import constants
from parakeet_ft.model.source import unreachable
off = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)
print(json.dumps({"endpoint": constants.ENDPOINT, "problem": off}))
""",
}


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a process found; `problem` is the last line of one that failed."""

    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder that is written to: bytes free there, and why it cannot be written, if so."""

    path: str
    free: float = 0.0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """All that the lines are made of. `needed` are names of distributions, `pins` and `installed`
    their versions; `clone` is whether install.py is at hand.
    """

    python: tuple[int, int, int]
    executable: str
    clone: bool
    constraints: str
    needed: tuple[str, ...]
    pins: Mapping[str, str]
    installed: Mapping[str, str]
    driver: str | None
    torch_build: tuple[str, str | None] | None
    probes: Mapping[str, Probe]
    memory_free: float
    shared_memory: Place | None
    outputs: Place
    temporary: Place
    cache: Place
    hub_cache: Place


def gather(*, offline: bool = False) -> Facts:
    """Ask everything, at most PROBE_SECONDS for each import; nothing of the network if offline."""
    asked = {name: code for name, code in PROBES.items() if not (offline and name == "hub")}
    with ThreadPoolExecutor(len(asked)) as pool:
        probes = dict(zip(asked, pool.map(probe, asked.values()), strict=True))
    constraints = constraints_file()
    version = sys.version_info
    return Facts(
        python=(version.major, version.minor, version.micro),
        executable=sys.executable,
        clone=(PACKAGE.parent / "install.py").is_file(),
        constraints=str(constraints),
        needed=needed(),
        pins=pinned(constraints),
        installed={
            normal(found.name): found.version for found in importlib.metadata.distributions()
        },
        driver=driver.driver_version(),
        torch_build=driver.torch_build(),
        probes=probes,
        memory_free=memory_free(),
        shared_memory=place(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
        outputs=place(Path("outputs")),
        temporary=place(Path(tempfile.gettempdir())),
        cache=place(cache_folder()),
        hub_cache=place(hub_folder()),
    )


def probe(code: str, *, seconds: float = PROBE_SECONDS) -> Probe:
    """What a new Python prints for `code`, and how it ended where it did not end well."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return Probe(problem=f"no answer within {seconds:.0f} s")
    if done.returncode < 0:
        return Probe(problem=f"ended by signal {-done.returncode}")
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode or not lines:
        return Probe(problem=lines[-1] if lines else f"exit code {done.returncode}")
    return Probe(json.loads(lines[-1]))


def normal(name: str) -> str:
    """The name of a distribution, as packages are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> tuple[str, ...]:
    """What this package needs without extras; nothing where it is not installed itself."""
    try:
        lines = importlib.metadata.requires("parakeet-ft") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    names = (re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line)
    return tuple(normal(name[0]) for name in names if name)


def constraints_file() -> Path:
    """constraints.txt: inside an installed wheel's package, or in the clone around it."""
    installed = PACKAGE / "constraints.txt"
    return installed if installed.is_file() else PACKAGE.parent / "constraints.txt"


def pinned(constraints: Path) -> dict[str, str]:
    """{name: version} of the lines that are for this Python; nothing where they cannot be read."""
    try:
        from packaging.requirements import Requirement

        lines = constraints.read_text(encoding="utf-8").splitlines()
    except (ImportError, OSError):
        return {}
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        normal(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def memory_free() -> float:
    """Bytes of this machine's memory, within the limit of its control group."""
    from parakeet_ft import memory

    try:
        return float(memory.free_bytes())
    except (OSError, KeyError):  # no Linux
        return float("inf")


def cache_folder() -> Path:
    """Where large manifests are kept (data/cache.py)."""
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PARAKEET_FT_CACHE") or Path(own) / "parakeet_ft")


def hub_folder() -> Path:
    """The Hugging Face cache, by the variables that huggingface_hub reads."""
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(own) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def place(path: Path) -> Place:
    """What is free at a folder that need not be there yet, and whether it can be written: a file is
    made and removed in it, or in the nearest folder above that is there.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = float(shutil.disk_usage(there).free)
        with tempfile.NamedTemporaryFile(dir=there, prefix=".parakeet-ft-doctor-"):
            pass
    except OSError as error:
        return Place(str(path), problem=error.strerror or str(error))
    return Place(str(path), free)
