"""A full disk, a closed one and a SIGKILL: told in words, and nothing is left running."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data import audio, parallel
from parakeet_ft.data.ledger import Ledger, ledger_errors
from parakeet_ft.data.parallel import open_executor
from parakeet_ft.errors import UserError, exit_on_user_error

ROOT = Path(__file__).resolve().parents[2]
# Seconds that a busy machine may take; no test waits longer than it must.
PATIENCE = 120


@pytest.fixture
def table(tmp_path):
    """A table of 40 recordings of a second."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((40, 16000))
    lines, manifest = ["path,text,speaker"], []
    for i, one in enumerate(samples):
        soundfile.write(tmp_path / f"{i}.wav", one, 16000)
        lines.append(f"{i}.wav,sentence number {i},s{i % 8}")
        manifest.append({"audio_filepath": f"{i}.wav", "duration": 1.0, "text": f"number {i}"})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in manifest))
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


@pytest.mark.parametrize("size", ["8k", "64k", "500k", "1200k"])
def test_a_full_disk_is_told_in_words(table, tmp_path, size, on_a_disk):
    out = tmp_path / "out"
    done = on_a_disk(
        f"size={size}", out, "data_prep/from_table.py", table, "--out", out / "x", "--jobs", 1
    )
    assert "Traceback" not in done.stderr and "System error" not in done.stderr
    assert done.returncode == 2 and "full" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["from_table.py", "TABLE", "--jobs", 1],
        ["split.py", "MANIFEST"],
        ["shard.py", "MANIFEST", "--jobs", 1],
        ["non_speech.py", "--hours", 0.001],
        ["check.py", "MANIFEST", "--jobs", 1],
        ["check.py", "MANIFEST", "--quick"],
    ],
)
def test_a_read_only_disk_is_told_in_words(table, tmp_path, command, on_a_disk):
    given = {"TABLE": table, "MANIFEST": table.with_name("m.jsonl")}
    script, *arguments = [given.get(a, a) for a in command]
    done = on_a_disk(
        "ro", tmp_path / "out", f"data_prep/{script}", *arguments, "--out", tmp_path / "out" / "x"
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "read-only" in done.stderr.lower() and len(done.stderr.strip().splitlines()) == 1


def test_errors_of_the_disk_are_one_line_and_other_errors_pass(tmp_path, capsys):
    with pytest.raises(SystemExit) as end, exit_on_user_error():
        raise OSError(errno.ENOSPC, "No space left on device", "out/train.jsonl")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: out/train.jsonl: the disk is full")
    file = tmp_path / "out"
    file.touch()
    with pytest.raises(SystemExit), exit_on_user_error():
        file.mkdir(exist_ok=True)
    assert "out: a file of that name is in the way" in capsys.readouterr().err
    with pytest.raises(ConnectionResetError), exit_on_user_error():
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_flac_that_cannot_be_written_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="the disk is full"):
        audio.write_flac(np.zeros(100, dtype=np.int16), tmp_path / "a.flac", rate_hz=16000)
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_is_damaged_or_taken_says_which(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"hello" * 1000)
    with pytest.raises(UserError, match="it is damaged. Remove it"):
        Ledger(tmp_path / "a.sqlite")
    first = Ledger(tmp_path / "b.sqlite")
    with pytest.raises(UserError, match="another run is working in the same folder"):
        Ledger(tmp_path / "b.sqlite")
    with pytest.raises(UserError, match="no file can be written there"), ledger_errors(first.path):
        first.connection.execute("PRAGMA query_only = ON")
        first.commit(now=True)
        first.connection.execute("CREATE TABLE x (y)")


def alive(session: int) -> dict[int, str]:
    """Processes of a session, zombies left out: {pid: command}."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and int(fields[3]) == session and fields[0] != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue
    return found


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def long_table(folder: Path) -> Path:
    """A table that takes minutes: 3,000 names of one recording of ten seconds."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(480000)
    soundfile.write(folder / "0.wav", samples, 48000)
    lines = ["path,text"]
    for i in range(1, 3000):
        os.link(folder / "0.wav", folder / f"{i}.wav")
        lines.append(f"{i}.wav,sentence number {i}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


@pytest.fixture
def long_run(tmp_path):
    """long_run(jobs) -> a preparation that takes minutes, in a session of its own; what is left of
    it is killed at the end.
    """
    table, started = long_table(tmp_path), []

    def start(jobs: int) -> subprocess.Popen:
        command = [sys.executable, ROOT / "data_prep" / "from_table.py", table]
        process = subprocess.Popen(
            [*map(str, command), "--jobs", str(jobs), "--out", str(tmp_path / "out")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # As in a terminal, whatever this test was started by.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_preparation_leaves_no_process(tmp_path, long_run):
    process = long_run(jobs=2)
    assert until(lambda: len(alive(process.pid)) >= 4, PATIENCE), "two workers and a tracker"
    assert until(lambda: any(tmp_path.glob("out/audio/*/*.flac")), PATIENCE)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert until(lambda: not alive(process.pid), PATIENCE), alive(process.pid)


@pytest.mark.long
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_told_in_one_sentence(tmp_path, long_run, jobs, number):
    """As Ctrl-C in a terminal, or as batch systems end a job."""
    process = long_run(jobs)
    assert until(lambda: (tmp_path / "out").is_dir(), PATIENCE)
    os.killpg(process.pid, number)
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 128 + number, told
    assert told.strip() == f"{number.name}: stopped. The same command may be given again."


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_preparation_that_is_told_to_end_leaves_no_file_that_is_not_whole(
    tmp_path, long_run, jobs
):
    process = long_run(jobs)
    assert until(lambda: any(tmp_path.glob("out/audio/*/*.flac")), PATIENCE)
    os.kill(process.pid, signal.SIGTERM)
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 143, told
    assert told.strip() == "SIGTERM: stopped. The same command may be given again."
    assert until(lambda: not alive(process.pid), PATIENCE), "a tracker ends after its parent"
    assert not list(tmp_path.rglob("*.tmp"))
    for path in tmp_path.glob("out/audio/*/*.flac"):
        assert soundfile.info(path).frames == 160000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_a_pool_starts_is_answered_by_the_parent_alone(
    monkeypatch, number
):
    """All are sent it, as from a terminal; a second is for processes that are only being made."""
    pools, answers = [], []

    class Signalled(ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            pools.append(self)
            future = super().submit(*args, **kwargs)
            if len(pools) == 1:
                for pid in [*self._processes, os.getpid()]:
                    os.kill(pid, number)
            return future

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Signalled)
    before = signal.signal(number, lambda number, frame: answers.append(number))
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with open_executor(jobs=2) as executor:
            pool = executor()
            assert answers == [number]
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
            if number == signal.SIGINT:
                assert pool.submit(max, 2, 3).result(timeout=PATIENCE) == 3
    finally:
        signal.signal(number, before)


def test_a_pool_starts_in_a_thread_that_gets_no_signals():
    def work() -> int:
        with open_executor(jobs=2) as executor:
            return executor().submit(max, 2, 3).result(timeout=PATIENCE)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(work).result(timeout=PATIENCE) == 3


def test_a_process_that_is_told_to_end_takes_along_what_it_has_begun(tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from parakeet_ft.data.parallel import die_with_parent\n"
        "from parakeet_ft.files import atomic_path\n"
        "die_with_parent(os.getppid())\n"
        "with atomic_path(sys.argv[2]) as begun:\n"
        "    begun.touch()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), str(tmp_path / "a")])
    assert done.returncode == 143 and not list(tmp_path.iterdir())


def test_a_child_ends_with_a_parent_that_ended_before_it_could_ask():
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from parakeet_ft.data.parallel import die_with_parent\n"
        "die_with_parent(1 if os.getppid() != 1 else 2)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(ROOT)]).returncode == 1


def test_where_the_kernel_cannot_be_asked_the_parent_is_watched(monkeypatch):
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from parakeet_ft.data import parallel\n"
        "parallel.ctypes.CDLL = None\n"
        "parallel.die_with_parent(1)\n"
        "time.sleep(30)\n"
    )
    assert parallel.PR_SET_PDEATHSIG == 1
    assert subprocess.run([sys.executable, "-c", code, str(ROOT)], timeout=PATIENCE).returncode == 1


def test_ctrl_c_where_python_would_lose_it_is_raised_when_the_file_is_done():
    done = []
    handler = signal.getsignal(signal.SIGINT)

    def read(item):
        signal.raise_signal(signal.SIGINT)
        done.append(item)

    with open_executor(jobs=1) as executor, pytest.raises(KeyboardInterrupt):
        executor().submit(read, "a")
    assert done == ["a"] and signal.getsignal(signal.SIGINT) is handler

    def read_twice(item):
        signal.raise_signal(signal.SIGINT)
        read(item)

    with open_executor(jobs=1) as executor, pytest.raises(KeyboardInterrupt):
        executor().submit(read_twice, "b")
    assert done == ["a"], "the second ends it at once"


@pytest.mark.parametrize(
    "command", [["shard.py", "MANIFEST", "--jobs", "1"], ["non_speech.py", "--hours", "0.001"]]
)
def test_where_nobody_reads_any_more_a_script_ends_without_a_word(table, tmp_path, command):
    """As in `command | head -0`."""
    given = {"MANIFEST": table.with_name("m.jsonl")}
    script, *arguments = [given.get(a, a) for a in command]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, ROOT / "data_prep" / script, *arguments, "--out", tmp_path / "out"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
