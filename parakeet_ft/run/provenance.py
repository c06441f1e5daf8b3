"""What made a run: commit, versions, configuration, data hashes, hardware, time of each phase ->
run.json.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parakeet_ft.distributed import ranks
from parakeet_ft.files import (
    PACKAGE,
    broken_seal,
    file_hash,
    json_hash,
    misfit,
    read_json,
    sealed,
    write_json,
)
from parakeet_ft.run.directory import read_run

PACKAGES = (
    "nemo_toolkit",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "lhotse",
    "sentencepiece",
    "kaldialign",
    "whisper_normalizer",
    "numpy",
)
# What recipes/publish.py uploads, and what it says of it.
PUBLISHED = ("best.nemo", "report.json")


def git_commit() -> str | None:
    """Commit of the checkout that holds this package, with `-dirty` if files differ; None outside
    git.
    """
    folder = PACKAGE
    done = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def hardware() -> dict[str, Any]:
    """CPU, cores, memory in GB and GPUs; the GPUs only if torch is already imported."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }
    with contextlib.suppress(OSError):
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        facts["cpu"] = names[0] if names else platform.processor()
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch_threads"] = torch.get_num_threads()
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


class Run:
    """run.json, rewritten whole whenever something is known, so that a killed run leaves what it
    knew.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        command: list[str],
        config: dict[str, Any],
        manifests: dict[str, dict[str, Any]],
        identity: dict[str, Any],
        resumed_at_step: int | None,
        say: Callable[[list[str]], None] = lambda lines: print(*lines, sep="\n", file=sys.stderr),
    ) -> None:
        self.path = run_dir / "run.json"
        self.say = say
        earlier = (read_run(run_dir) if self.path.exists() else None) or {}
        resumed_at_steps = list(earlier.get("resumed_at_steps", []))
        if resumed_at_step is not None:
            resumed_at_steps.append(resumed_at_step)
        self.content: dict[str, Any] = {
            "command": command,
            "commit": git_commit(),
            "versions": versions(),
            "config": config,
            "hardware": hardware(),
            "manifests": manifests,
            "identity": identity,
            "resumed_at_steps": resumed_at_steps,
            "effective": {},
            "phases_seconds": {},
            "finished": False,
        }
        self._write(self.path, self.content)

    def record(self, **effective: Any) -> None:
        """Store effective values, as read back from live objects."""
        self.content["effective"].update(effective)
        self._write(self.path, self.content)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        """Write run.json; of several ranks the first alone does."""
        if not ranks.rank():
            write_json(path, sealed(content))

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, a JSON value; read from run_dir/<name>.json if this run, with these
        settings, was there before, and the file is as it was written.
        """
        path = self.path.with_name(f"{name}.json")
        kept, problem = ranks.on_first(lambda: _kept(path))
        if problem:
            self.say([f"{path.name} is not used, and made again: {problem}"])
        elif kept and json_hash(kept["identity"]) == json_hash(self.content["identity"]):
            return kept["value"]
        made = {"identity": self.content["identity"], "value": make()}
        self._write(path, made)
        return made["value"]

    def finish(self, phases_seconds: dict[str, float]) -> None:
        """Store what each phase took, and the hashes of what the run is published from."""
        files = [self.path.with_name(name) for name in PUBLISHED]
        hashes = {
            path.name: file_hash(path) for path in files if path.exists() and not ranks.rank()
        }
        self.content.update(phases_seconds=phases_seconds, finished=True, files=hashes)
        self._write(self.path, self.content)


def _kept(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What `once` wrote, or why it cannot be used; neither if there is nothing."""
    if not os.path.lexists(path):
        return None, None
    try:
        kept = read_json(path)
    except ValueError as error:
        return None, str(error)
    problem = misfit(kept, {"identity": dict, "value": object, "sha256": str}) or broken_seal(kept)
    return (None, problem) if problem else (kept, None)
