"""A published checkpoint has one name, which every recipe knows and tells apart from a file."""

import importlib.util
import sys

import pytest

from parakeet_ft.model import source
from parakeet_ft.model.checkpoints import PUBLISHED
from tests.model.test_restore import ROOT


def load(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finetune(name, tmp_path):
    from parakeet_ft.errors import exit_on_user_error
    from parakeet_ft.preflight import check_finetune

    with exit_on_user_error():
        check_finetune([f"model={name}"])


def evaluate(name, tmp_path):
    from parakeet_ft.errors import exit_on_user_error
    from parakeet_ft.evaluation import request

    sys.argv[1:] = [f"models=[{name}]"]
    with exit_on_user_error():
        request.prepare("")


def recipe(script, arguments):
    def start(name, tmp_path):
        sys.argv[1:] = [word.format(name=name, out=tmp_path / "out") for word in arguments]
        module = load(ROOT / "recipes" / f"{script}.py")
        if script == "demo_ui":
            from parakeet_ft.errors import exit_on_user_error

            with exit_on_user_error():
                module.main()
        module.main()

    return start


AUDIO = str(ROOT / "parakeet_ft" / "demo" / "audio" / "guard" / "0064.opus")
RECIPES = {
    "finetune": finetune,
    "evaluate": evaluate,
    "transcribe": recipe("transcribe", ["{name}", AUDIO, "--out", "{out}"]),
    "export": recipe("export", ["{name}", "--to", "nemo", "--out", "{out}"]),
    "download": recipe("download", ["{name}"]),
    "demo_ui": recipe("demo_ui", ["{name}"]),
}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["recipe"])


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("start", RECIPES.values(), ids=RECIPES)
def test_a_name_stands_for_its_repository_in_every_recipe_and_offline_it_says_what_to_do(
    start, name, offline, tmp_path, capsys
):
    with pytest.raises(SystemExit) as end:
        start(name, tmp_path)
    assert end.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {PUBLISHED[name]} is not in the cache")
    assert said.count(". ") == 0 and said.endswith("."), "one sentence"
    assert "HF_HUB_OFFLINE is set" in said and f"hf download {PUBLISHED[name]} " in said
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_cache_is_found_by_its_name(offline, tmp_path):
    snapshot = tmp_path / "cache" / "models--nvidia--parakeet-ctc-0.6b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "parakeet-ctc-0.6b.nemo").touch()
    found = source.locate("parakeet_ctc_0.6b")
    assert found == source.fetch("nvidia/parakeet-ctc-0.6b") == snapshot / "parakeet-ctc-0.6b.nemo"
