"""Install parakeet-ft, with versions from constraints.txt, into .venv beside this file.

    python install.py                     what `make` does
    python install.py --torch cpu         a torch for another device: cpu, cu126, cu130, pypi
    eval "$(python install.py --sources)" pip's sources for uv, to use uv by hand

uv does the work: the one on PATH, else one that pip puts into .venv. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# The first whose --torch-backend is not a preview.
FIRST_UV = (0, 7, 14)
# An index of torch wheels that is asked instead of PyPI; `auto` asks the driver which.
OWN_SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` says of installing, by the names of pip's options.

    As in pip, the environment is worth more than the section [install], and that more than
    [global].
    """
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.+([\w-]+)=('.*'|\".*\")$", listing, re.M):
            found[name.removeprefix("default-")] = ast.literal_eval(value)
    return found


def uv_environment(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell uv what pip is told by its configuration, which uv does not read;
    none that the user has set.
    """
    wanted = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_INDEX": " ".join(pip.get("extra-index-url", "").split()),
        # pip looks for the best version in all of them, uv else in the first that has the package.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if pip.get("extra-index-url") else "",
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in ("1", "true", "yes") else "",
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": pip.get("timeout", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "HTTPS_PROXY": pip.get("proxy", ""),
        "HTTP_PROXY": pip.get("proxy", ""),
    }
    older = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
    return {
        name: value
        for name, value in wanted.items()
        if value and not environment.get(name) and not environment.get(older.get(name, name))
    }


def torch_backend(asked: str, pip: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """The value for uv's --torch-backend; None where torch comes from the usual sources, which
    whoever has sources of their own is believed to want.
    """
    if asked == "pypi":
        return None
    if asked != "auto":
        return asked
    if chosen := environment.get("UV_TORCH_BACKEND"):
        return chosen
    own = any(pip.get(name) for name in OWN_SOURCES) or any(
        environment.get(name)
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS")
    )
    return None if own else "auto"


def install_command(uv: str, backend: str | None, asked: str, pip: Mapping[str, str]) -> list[str]:
    """uv's command. A torch that was asked for by name takes the place of one that is there."""
    constraints = ["constraints.txt", *pip.get("constraint", "").split()]
    return [
        *(uv, "pip", "install", "--python", str(PYTHON)),
        *(word for file in constraints for word in ("--constraints", file)),
        *(["--torch-backend", backend] if backend else []),
        *([] if asked == "auto" else ["--reinstall-package", "torch"]),
        *("--editable", ".[test]"),
    ]


def ask(*command: str) -> str:
    """What a command prints; nothing where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    except OSError:
        return ""


def new_enough(uv: str) -> bool:
    """Whether this uv is there, and knows the options that are used."""
    found = re.match(r"uv (\d+)\.(\d+)\.(\d+)", ask(uv, "--version"))
    return bool(found) and tuple(map(int, found.groups())) >= FIRST_UV


def run(*command: str, environment: Mapping[str, str] | None = None, hint: str = "") -> None:
    """Run a command in sight; ends with what to do if it fails."""
    done = subprocess.run(command, cwd=ROOT, env=environment)
    if done.returncode:
        again = "The same command goes on."
        sys.exit(f"error: `{shlex.join(command)}` failed, see above. {hint or again}")


def prepare_venv(extra: Mapping[str, str]) -> str:
    """Make .venv where there is none; the uv to use. `extra` tells uv of pip's sources."""
    uv = shutil.which("uv")
    if uv and new_enough(uv):
        if not PYTHON.exists():
            # --seed: pip in it too. uv finds, or fetches, a Python that pyproject.toml allows.
            seeded = (uv, "venv", "--quiet", "--seed", *this_python(), str(VENV))
            run(*seeded, environment={**os.environ, **extra})
        return uv
    if not PYTHON.exists():
        if not this_python():
            version = ".".join(map(str, sys.version_info[:2]))
            sys.exit(
                f"error: this is Python {version}; expected 3.10, 3.11 or 3.12. "
                "Give one: make PYTHON=python3.11. Or install uv, which fetches one."
            )
        run(sys.executable, "-m", "venv", str(VENV))
    own = str(VENV / "bin" / "uv")
    if not new_enough(own):
        quiet = ("--quiet", "--disable-pip-version-check")
        run(str(PYTHON), "-m", "pip", "install", *quiet, "-c", "constraints.txt", "uv")
    return own


def this_python() -> list[str]:
    """uv's option for the Python that runs this file; nothing if pyproject.toml forbids it."""
    usable = (3, 10) <= sys.version_info[:2] < (3, 13)
    return ["--python", sys.executable] if usable else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="auto", metavar="BUILD", help="which torch")
    parser.add_argument("--sources", action="store_true", help="print pip's sources for uv")
    args = parser.parse_args()
    began = time.monotonic()
    if not args.sources:
        print(f"installing parakeet-ft into {VENV}", flush=True)
    # A system's Python may have no pip; `venv` then puts one into .venv.
    pip = pip_settings(ask(sys.executable, "-m", "pip", "config", "list"))
    if args.sources:
        extra = uv_environment(pip, os.environ)
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in extra.items()))
        return
    uv = prepare_venv(uv_environment(pip, os.environ))
    pip = pip or pip_settings(ask(str(PYTHON), "-m", "pip", "config", "list"))
    extra = uv_environment(pip, os.environ)
    backend = torch_backend(args.torch, pip, os.environ)
    origin = f"for {backend}" if backend else "from the sources that are configured, else PyPI"
    print(f"torch {origin}", flush=True)
    if extra:
        print(f"uv is told what pip's configuration says: {' '.join(sorted(extra))}", flush=True)
    run(
        *install_command(uv, backend, args.torch, pip),
        environment={**os.environ, **extra},
        hint="`make install TORCH=pypi` takes torch from PyPI." if backend else "",
    )
    print(f"installed in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
