"""What install.py tells uv of pip's configuration, and which torch it asks for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("install", ROOT / "install.py")
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)


@pytest.fixture
def listing(tmp_path):
    """What pip itself lists for a configuration file and variables of the environment."""

    def of(text="", **variables):
        file = tmp_path / "pip.conf"
        file.write_text(text)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        alone = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}
        environment = kept | alone | {"PIP_CONFIG_FILE": str(file)} | variables
        command = [sys.executable, "-m", "pip", "config", "list"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.stdout

    return of


def test_uv_is_told_what_pips_file_says(listing):
    pip = install.pip_settings(
        listing(
            "[global]\nindex-url = https://mirror.example/simple\n"
            "extra-index-url =\n    https://a.example/simple\n    https://b.example/simple\n"
            "find-links = wheels more/wheels\ncert = ca.pem\n[install]\nno-index = true\n"
        )
    )
    told = install.uv_environment(pip, {})
    assert told["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert told["UV_INDEX"] == "https://a.example/simple https://b.example/simple"
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert told["UV_FIND_LINKS"] == "wheels,more/wheels"
    assert told["SSL_CERT_FILE"] == "ca.pem" and told["UV_NO_INDEX"] == "1"


def test_the_environment_is_worth_more_than_pips_file(listing):
    shown = listing(
        "[global]\nfind-links = of-the-file\ntimeout = 5\n",
        PIP_FIND_LINKS="of-the-environment",
        PIP_DEFAULT_TIMEOUT="180",
    )
    told = install.uv_environment(install.pip_settings(shown), {})
    assert (told["UV_FIND_LINKS"], told["UV_HTTP_TIMEOUT"]) == ("of-the-environment", "180")


def test_what_the_user_told_uv_stays():
    pip = {"index-url": "https://pip.example", "find-links": "wheels"}
    assert install.uv_environment(pip, {"UV_INDEX_URL": "x", "UV_FIND_LINKS": "y"}) == {}


def test_nothing_is_told_where_pip_has_no_configuration():
    assert install.uv_environment(install.pip_settings(""), {}) == {}


@pytest.mark.parametrize(
    ("asked", "pip", "environment", "backend"),
    [
        ("auto", {}, {}, "auto"),
        ("auto", {"find-links": "wheels"}, {}, None),
        ("auto", {"index-url": "https://mirror.example"}, {}, None),
        ("auto", {"timeout": "180"}, {}, "auto"),
        ("auto", {}, {"UV_INDEX": "https://mirror.example"}, None),
        ("auto", {"find-links": "wheels"}, {"UV_TORCH_BACKEND": "cu126"}, "cu126"),
        ("cpu", {"find-links": "wheels"}, {"UV_TORCH_BACKEND": "cu126"}, "cpu"),
        ("pypi", {}, {}, None),
    ],
)
def test_torch_comes_from_where_it_was_asked_for(asked, pip, environment, backend):
    assert install.torch_backend(asked, pip, environment) == backend


def test_only_a_torch_that_was_asked_for_takes_the_place_of_another():
    named = install.install_command("uv", "cu130", "cu130", {})
    assert named[named.index("--reinstall-package") + 1] == "torch"
    assert "--reinstall-package" not in install.install_command("uv", "auto", "auto", {})


def test_pips_own_constraints_hold_beside_ours():
    command = install.install_command("uv", None, "auto", {"constraint": "theirs.txt"})
    files = [command[i + 1] for i, word in enumerate(command) if word == "--constraints"]
    assert files == ["constraints.txt", "theirs.txt"]


def test_uv_knows_every_option_and_finds_every_pin(tmp_path):
    """Without a network: what is installed here is found, under the pins of constraints.txt."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed beside this Python")
    command = install.install_command(str(uv), "cpu", "auto", {})
    command[command.index("--python") + 1] = sys.executable
    command[command.index("--editable") :] = ["--dry-run", "--offline", "torch", "numpy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Would make no changes" in done.stderr, done.stderr


def test_a_uv_that_is_too_old_is_not_used(tmp_path):
    old = tmp_path / "uv"
    for version, enough in (("0.7.13", False), ("0.7.14", True), ("1.0.0", True)):
        old.write_text(f"#!/bin/sh\necho uv {version}\n")
        old.chmod(0o755)
        assert install.new_enough(str(old)) is enough
    assert not install.new_enough(str(tmp_path / "none"))


def test_make_asks_for_the_torch_that_it_was_given():
    shown = subprocess.run(
        ["make", "-n", "demo", "TORCH=cu126"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "install.py --torch cu126" in shown and "recipes/finetune.py" in shown
