"""Fixtures: tiny models of every family, built in memory; synthetic audio. No network, no external
files, same results every time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

# What runs behind another command may have been started with Ctrl-C ignored; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Tensors of tests are too small for threads: with two busy cores, two threads that wait for each
# other took twenty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# nv_one_logger warns at NeMo's import that nothing is configured (nemo 3.0.0).
for _name in (
    "nv_one_logger.api.config",
    "nv_one_logger.training_telemetry.api.training_telemetry_provider",
):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

import pytest  # noqa: E402

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen jugs",
    "how vexing quick daft zebras jump",
    "sphinx of black quartz judge my vow",
    "we promptly judged antique ivory buckles",
    "it is what it is not what it was",
    "this is that and that is this",
    "other words than these were said there",
]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A BPE tokenizer of 64 pieces over lower-case letters, in NeMo's form."""
    from parakeet_ft.tokenizer.sentencepiece_model import train_sentencepiece, write_tokenizer_dir

    return write_tokenizer_dir(
        train_sentencepiece(TEXTS, vocab_size=64), tmp_path_factory.mktemp("tokenizer")
    )


@pytest.fixture(scope="session")
def tiny_model(tokenizer_dir):
    """tiny_model(family, seed=0, **changes) -> a fresh model with the same weights each time.

    Families: ctc, rnnt, tdt, hybrid (TDT-CTC), hybrid_rnnt.
    `changes` replace fields of the tiny Architecture (omega=0.0, fused_batch_size=4, ...).
    """
    import dataclasses

    import torch
    from nemo.utils import logging as nemo_logging

    from parakeet_ft.model import replicas

    nemo_logging._logger.addFilter(lambda record: record.levelno >= logging.ERROR)

    def make(family: str, seed: int = 0, **changes):
        torch.manual_seed(seed)
        return replicas.build(dataclasses.replace(replicas.tiny(family), **changes), tokenizer_dir)

    return make


@pytest.fixture(scope="session")
def tiny_nemo(tiny_model, tmp_path_factory):
    """tiny_nemo(family) -> path of a saved .nemo, made once a session: do not change it."""
    folder, made = tmp_path_factory.mktemp("nemo"), {}

    def path(family: str) -> Path:
        if family not in made:
            made[family] = folder / f"tiny_{family}.nemo"
            tiny_model(family).save_to(str(made[family]))
        return made[family]

    return path


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """speech(count=4, seconds=1.0) -> path of a manifest of `count` wavs: tones that follow the
    text's letters, in noise.
    """
    import numpy
    import soundfile

    def write(count: int = 4, seconds: float = 1.0) -> Path:
        folder = tmp_path_factory.mktemp("speech")
        rng = numpy.random.default_rng(0)
        lines = []
        for i in range(count):
            duration = seconds * (1 + 0.25 * (i % 4))
            text = " ".join(TEXTS[i % len(TEXTS)].split()[: 1 + i % 4])
            time = numpy.arange(int(duration * 16000)) / 16000
            pitch = numpy.interp(
                time,
                numpy.linspace(0, duration, len(text)),
                [100.0 + 20 * (ord(c) - 96) for c in text],
            )
            wave = 0.2 * numpy.sin(
                2 * numpy.pi * numpy.cumsum(pitch) / 16000
            ) + 0.01 * rng.standard_normal(len(time))
            soundfile.write(folder / f"{i}.wav", wave, 16000)
            lines.append(
                {
                    "audio_filepath": str(folder / f"{i}.wav"),
                    "duration": len(time) / 16000,
                    "text": text,
                }
            )
        (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder / "manifest.jsonl"

    return write


@pytest.fixture
def on_a_disk():
    """on_a_disk(options, folder, script, *arguments) -> the finished script, run while `folder` is
    a file system of its own; skips where that needs more rights.
    """
    import shutil
    import subprocess

    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")

    def run(options: str, folder: Path, *command) -> subprocess.CompletedProcess:
        folder.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o {options} none "$0" || exit 99; exec "$@"'
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", mount, folder, sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        if done.returncode == 99 or "unshare failed" in done.stderr:
            pytest.skip("no mounts in a user namespace here")
        return done

    return run


@pytest.fixture
def largest_file():
    """largest_file(size): no file of this process may grow beyond `size` bytes until the test
    ends, as on a disk that is nearly full; needs no rights.
    """
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def largest_file_once_restored(largest_file, monkeypatch):
    """The same for all but the restoring of models, which NeMo unpacks elsewhere."""
    import resource

    from parakeet_ft.model import restore

    unpack = restore.restore

    def prepare(size: int) -> None:
        def restored(source: str):
            largest_file(resource.RLIM_INFINITY)
            model = unpack(source)
            largest_file(size)
            return model

        largest_file(size)
        monkeypatch.setattr(restore, "restore", restored)

    return prepare


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium of the system, driven by playwright; skips where either is missing."""
    import shutil

    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if path is None:
        pytest.skip("no Chromium on this machine")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """open_page(address, width=1100, dark=False) -> (page, complaints of the console, requests to
    anything but data: and the address's own host).
    """
    from urllib.parse import urlsplit

    opened = []

    def show(address: str, *, width: int = 1100, dark: bool = False):
        page = chromium.new_page(
            viewport={"width": width, "height": 850}, color_scheme="dark" if dark else "light"
        )
        opened.append(page)
        complaints, foreign, own = [], [], urlsplit(address).netloc
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                foreign.append(request.url)
                if urlsplit(request.url.removeprefix("blob:")).netloc != own
                and not request.url.startswith("data:")
                else None
            ),
        )
        page.goto(address, timeout=90_000)
        return page, complaints, foreign

    yield show
    for page in opened:
        page.close()
