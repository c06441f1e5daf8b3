"""Waiting for audio is measured, told and recorded; the number of workers is chosen or given."""

import io
import types

import pytest

from parakeet_ft.batches import loaders, workers
from parakeet_ft.batches.plan import Plan
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.run.console import Narrator
from parakeet_ft.training import feeding


def plan_of(manifest):
    found = read_manifest(manifest)
    return Plan(found, num_domain=len(found), batch_seconds=4, seed=1)


def test_a_number_of_workers_stands_and_auto_is_measured(tiny_model, speech):
    plan, model = plan_of(speech(count=4)), tiny_model("ctc")
    assert feeding.choose_workers(7, plan, model, {}) == workers.Choice(7, "given")
    slow = feeding.choose_workers("auto", plan, model, {"tried": [{"audio_per_second": 0.5}]})
    assert slow.num_workers == 1 and slow.wanted == 0.5 and slow.reads > 1
    assert "one reads" in slow.line() and "(measured)" in slow.line()


@pytest.mark.parametrize(("waited", "busy", "warns"), [(1.0, 1.0, True), (0.5, 9.5, False)])
def test_much_waiting_is_a_warning_that_says_what_to_do(waited, busy, warns):
    loader = loaders.TimedLoader([1], batch_size=None)
    loader.waited, loader.busy, loader.first_seconds = waited, busy, 2.0
    recorded, said = {}, io.StringIO()
    callback = feeding.Waiting(
        Narrator(said), lambda **facts: recorded.update(facts), loader, workers.Choice(3, "given")
    )
    callback.on_train_end(types.SimpleNamespace(is_global_zero=True), None)
    share = waited / (waited + busy)
    assert recorded["feeding"]["waiting_share"] == share
    assert recorded["feeding"]["num_workers"] == 3
    assert recorded["feeding"]["first_batch_seconds"] == 2.0
    assert f"{100 * share:.0f} % of the steps' time" in said.getvalue()
    assert ("warning" in said.getvalue()) == warns == ("data.num_workers" in said.getvalue())


def test_the_time_of_a_validation_is_no_steps(monkeypatch):
    loader = loaders.TimedLoader([1], batch_size=None)
    loader.busy = 10.0
    callback = feeding.Waiting(Narrator(io.StringIO()), print, loader, workers.Choice(0, "given"))
    clock = iter([5.0, 12.0])
    monkeypatch.setattr(feeding.time, "perf_counter", lambda: next(clock))
    callback.on_validation_start(None, None)
    callback.on_validation_end(None, None)
    assert loader.busy == 3.0
