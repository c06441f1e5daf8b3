"""The Space is a folder that runs by itself with what it names, and the Hub reads its header."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest
from huggingface_hub import HfApi, SpaceCard

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.publishing.hub import Folder, push
from parakeet_ft.publishing.space import check_name, requirements, write_space

UTTERANCE = read_manifest(DEMO / "guard.jsonl")[2]
# What app.py does but for serving it; then which distributions its own modules name.
TRANSCRIBE = """
import ast, importlib.metadata, json, pathlib, sys
import app, parakeet_ft
from parakeet_ft.model.restore import restore
from parakeet_ft.publishing.playground import build_page, compare
names = app.sources()
models = {kind: restore(name).eval() for kind, name in names.items()}
build_page(models, names=names)
shown = compare(sys.argv[1], models=models)
named = set()
for name, module in list(sys.modules.items()):
    if name.startswith("parakeet_ft"):
        for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named.add(node.module.partition(".")[0])
known = importlib.metadata.packages_distributions()
used = {d for n in named & sys.modules.keys() for d in known.get(n, ())} - {"parakeet-ft"}
print(json.dumps({"where": parakeet_ft.__file__, "shown": shown, "used": sorted(used)}))
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "space"
    files = write_space(
        folder, space="me/mine-demo", repo="me/mine", base_model="nvidia/base", licence="mit"
    )
    return folder, files


def test_the_hub_reads_the_header_with_versions_that_are_pinned(space):
    folder, _ = space
    data = SpaceCard.load(folder / "README.md").data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "mit")
    assert data.models == ["me/mine", "nvidia/base"]
    assert data.sdk_version == importlib.metadata.version("gradio")
    assert data.to_dict()["colorFrom"] in {"red", "yellow", "green", "blue", "indigo", "purple"}
    assert data.python_version == "3.11", "a string: 3.10 as a number would be 3.1"


def test_no_bundled_model_and_no_cache_of_python_is_in_the_folder(space):
    folder, files = space
    assert {"README.md", "app.py", "requirements.txt", "parakeet_ft/api.py"} <= files.keys()
    assert sum(files.values()) < 5e6
    assert not [name for name in files if name.endswith((".nemo", ".opus", ".pyc"))]
    assert all((folder / name).stat().st_size == size for name, size in files.items())


def normal(name):
    return re.match(r"[\w.-]+", name)[0].lower().replace("_", "-")


@pytest.mark.long
def test_the_folder_alone_transcribes_with_what_requirements_name(space):
    pytest.importorskip("gradio")
    folder, _ = space
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MODEL": str(DEMO / "tiny.nemo"), "BASE": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRANSCRIBE, UTTERANCE.audio_filepath],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["where"].startswith(str(folder))
    assert "<ruby" in found["shown"][1]
    given = {normal(line) for line in requirements().splitlines()[1:]} | {"gradio"}
    assert "torch" in given and {normal(name) for name in found["used"]} <= given


def test_the_models_are_those_published_unless_the_environment_says_otherwise(space, monkeypatch):
    folder, _ = space
    names = {}
    text = (folder / "app.py").read_text()
    for name in ("MODEL", "BASE"):
        monkeypatch.delenv(name, raising=False)
    exec(compile(text.replace("__main__", "app"), "app.py", "exec"), names)
    assert names["sources"]() == {"base": "nvidia/base", "tuned": "me/mine"}
    monkeypatch.setenv("BASE", "")
    assert names["sources"]() == {"tuned": "me/mine"}


def test_a_name_that_is_none_is_refused():
    with pytest.raises(UserError, match="organisation/name, such as me/mine-demo"):
        check_name("demo", "me/mine")


def test_a_push_makes_a_private_space_of_gradio(space, monkeypatch):
    folder, files = space
    calls = []
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(HfApi, name, lambda api, **given: calls.append(given) or "https://hub")
    assert push(Folder(folder, files), repo="me/d", public=False, kind="space") == "https://hub"
    made, sent = calls
    assert (made["repo_type"], made["space_sdk"], made["private"]) == ("space", "gradio", True)
    assert sent["repo_type"] == "space" and set(sent["allow_patterns"]) == set(files)
