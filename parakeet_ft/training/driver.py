"""A GPU and the torch that is installed: whether they fit, without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import MutableMapping
from pathlib import Path

from parakeet_ft.errors import UserError

# The first Linux driver of each CUDA (table "CUDA Toolkit and Corresponding Driver Versions" in its
# release notes); later minor versions of the same CUDA run with it as well.
FIRST_DRIVER = {11: 450, 12: 525, 13: 580}


def driver_version() -> str | None:
    """The driver's version, as nvidia-smi says; None without a GPU that may be used."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    first = done.stdout.strip().partition("\n")[0].strip()
    return first if done.returncode == 0 and re.match(r"\d+\.", first) else None


def torch_build() -> tuple[str, str | None] | None:
    """(version, CUDA's version or None) of the installed torch, read from its version.py."""
    found = importlib.util.find_spec("torch")
    if not found or not found.origin:
        return None
    file = Path(found.origin).with_name("version.py")
    if not file.is_file():  # a part of an installation
        return None
    text = file.read_text(encoding="utf-8")
    version = re.search(r"^__version__ = ['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= ['\"]([^'\"]+)", text, re.MULTILINE)
    return (version[1], cuda and cuda[1]) if version else None


def check(accelerator: str, *, cpu: str = "to train on the CPU, give trainer=cpu") -> None:
    """Raise UserError if there is a GPU that torch cannot use, unless a CPU was asked for; `cpu`
    says how that is done.
    """
    driver = None if accelerator == "cpu" else driver_version()
    build = torch_build() if driver else None
    if not driver or not build:
        return
    version, cuda = build
    if cuda is None:
        _refuse(
            driver,
            f"torch {version}, which is built without CUDA",
            "install a torch for its CUDA (`parakeet-ft doctor` says which)",
            cpu,
        )
        return
    needed = FIRST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if int(driver.partition(".")[0]) < needed:
        _refuse(
            driver,
            f"torch {version} for CUDA {cuda}, which needs driver {needed} or later",
            "update the driver, or install a torch for an older CUDA "
            "(`parakeet-ft doctor` says which)",
            cpu,
        )


def check_seen(accelerator: str, *, cpu: str = "to train on the CPU, give trainer=cpu") -> None:
    """Raise UserError if nvidia-smi finds a GPU, but torch none that it can use."""
    import torch

    if torch.cuda.is_available() or accelerator == "cpu":
        return
    if driver := driver_version():
        _refuse(
            driver,
            f"torch {torch.__version__} for CUDA {torch.version.cuda}, which cannot use it",
            "see what `python -c 'import torch; torch.cuda.init()'` and `parakeet-ft doctor` say",
            cpu,
        )


def _refuse(driver: str, found: str, cure: str, cpu: str) -> None:
    raise UserError(
        f"This machine has an NVIDIA GPU (driver {driver}), but {found}. To use the GPU, "
        f"{cure}; {cpu}."
    )


def let_memory_grow(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's GPU memory grow in place, as batches of many sizes leave holes that do not fit.

    Before torch is imported; what the user has set stays (torch 2.13 reads either name).
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & environment.keys():
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
