"""A run ends in words, saved, when it is asked to."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import pytest

from parakeet_ft.errors import Stopped
from parakeet_ft.run import signals
from parakeet_ft.run.console import Narrator
from tests.faults.signals import stop


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "phase"), [(signal.SIGTERM, "training"), (signal.SIGINT, "scoring")]
)
def test_a_signal_to_the_whole_group_with_loader_workers_saves_and_the_command_continues(
    number, phase, tmp_path
):
    row = stop(number, True, phase, tmp_path)
    assert row["code"] == 75 and row["words"] and not row["traceback"], row
    assert (row["saved_at"] is not None) == (phase == "training")
    assert row["left"] == 0 and row["continued"]


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_is_told_in_one_sentence_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    told = rf"{number.name}: stopped. All is kept. The same command"
    with pytest.raises(Stopped, match=told), signals.ending_in_words(lambda: "All is kept."):
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("an import that tries alternatives would swallow it")
    assert signal.getsignal(number) == before


def test_a_signal_that_a_library_swallows_ends_the_run_before_the_next_phase():
    say = Narrator(io.StringIO())
    with pytest.raises(Stopped, match="SIGTERM: stopped"), signals.ending_in_words():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        say.phase("exporting")
    say.phase("of another run")


def test_under_nohup_a_terminal_that_closes_ends_nothing():
    code = (
        "import os, signal\nfrom parakeet_ft.run import signals\n"
        "with signals.ending_in_words():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n    print('alive')\n"
    )
    command = ["nohup", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.strip()) == (0, "alive")


def test_a_second_ctrl_c_ends_at_once():
    code = (
        "import os, signal, time\nfrom parakeet_ft.run import signals\n"
        "with signals.ending_in_words():\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20)
    assert done.returncode == -signal.SIGINT


def test_workers_leave_signals_to_their_parent():
    code = (
        "import os, signal, time\nfrom parakeet_ft.run import signals\nsignals.leave_to_parent()\n"
        "for number in signals.ENDING: os.kill(os.getpid(), number)\nprint('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "alive"
