"""A folder that is a Hugging Face Space: the page of recipes/demo_ui.py for a published model.

It holds the part of this package that the page needs, since a Space installs from PyPI.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from parakeet_ft.errors import UserError
from parakeet_ft.files import PACKAGE, atomic_path
from parakeet_ft.model.source import HUB_ID

PYTHON = "3.11"
# What the page imports, directly or where it is asked for; gradio is the Space's own (sdk_version).
NEEDED = (
    "nemo_toolkit[asr]",
    "torch",
    "numpy",
    "scipy",
    "omegaconf",
    "pyyaml",
    "filelock",
    "fsspec",
    "huggingface_hub",
    "sentencepiece",
    "soundfile",
    "av",
    "soxr",
    "silero-vad",
    "kaldialign",
    "lightning-utilities",
    "whisper-normalizer",
    "num2words",
)
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
# The bundled checkpoints and recordings are another's models.
LEFT_OUT = shutil.ignore_patterns("demo", "__pycache__", "conf", "recipes", "data_prep")


def check_name(space: str, repo: str) -> None:
    """Raise UserError unless `space` may be the name of a Space beside the model `repo`."""
    if not HUB_ID.fullmatch(space):
        raise UserError(f"--space {space!r}: expected organisation/name, such as {repo}-demo.")


def write_space(
    folder: Path, *, space: str, repo: str, base_model: str | None, licence: str
) -> dict[str, int]:
    """Write the Space into `folder`, which is emptied first; returns the bytes of each file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PACKAGE, folder / "parakeet_ft", ignore=LEFT_OUT)
    for name, text in (
        ("README.md", _readme(space=space, repo=repo, base_model=base_model, licence=licence)),
        ("app.py", _app(repo=repo, base_model=base_model)),
        ("requirements.txt", requirements()),
    ):
        with atomic_path(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _readme(*, space: str, repo: str, base_model: str | None, licence: str) -> str:
    """The Space's configuration, and a sentence."""
    from huggingface_hub import SpaceCardData

    header = SpaceCardData(
        title=space.rpartition("/")[2],
        colorFrom="green",
        colorTo="gray",
        sdk="gradio",
        sdk_version=_pins()["gradio"],
        python_version=PYTHON,
        app_file="app.py",
        license=licence,
        models=[repo, *([base_model] if base_model else [])],
        pinned=False,
    )
    beside = f", beside {base_model} from which it was tuned" if base_model else ""
    return f"""---
{header}
---

# {space.rpartition("/")[2]}

Upload or record speech: [{repo}](https://huggingface.co/{repo}) writes it down{beside}.

On your own machine: `pip install -r requirements.txt gradio=={_pins()["gradio"]}`, then
`python app.py`. A Space needs the secret HF_TOKEN where the model is private.
"""


def _app(*, repo: str, base_model: str | None) -> str:
    """app.py: the page, with the models' names in it."""
    return f'''"""The page of {repo}.

MODEL and BASE in the environment name other models; an empty BASE shows none.
"""

import os

from parakeet_ft.model.restore import restore
from parakeet_ft.publishing.playground import build_page, serve


def sources() -> dict[str, str]:
    """Hub ids or .nemo files by kind."""
    base = os.environ.get("BASE", {base_model or ""!r})
    return ({{"base": base}} if base else {{}}) | {{"tuned": os.environ.get("MODEL", {repo!r})}}


def page():
    """The page of the models, restored."""
    names = sources()
    return build_page(
        {{kind: restore(name).eval() for kind, name in names.items()}}, names=names
    )


if __name__ == "__main__":
    serve(
        page(),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
'''


def requirements() -> str:
    """requirements.txt: what the page needs, in the versions of constraints.txt."""
    pins = _pins()
    lines = [f"{name}=={pins[_normal(name)]}" for name in NEEDED]
    return "\n".join([f"--extra-index-url {TORCH_FOR_CPUS}", *lines]) + "\n"


def _pins() -> dict[str, str]:
    """Versions in constraints.txt that hold on a Space."""
    from packaging.requirements import Requirement

    inside = PACKAGE / "constraints.txt"
    path = inside if inside.is_file() else PACKAGE.parent / "constraints.txt"
    if not path.is_file():
        raise UserError(f"No constraints.txt at {path}: a Space's versions are pinned by it.")
    place = {
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
    }
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        _normal(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(place)
    }


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return name.partition("[")[0].lower().replace("_", "-")
