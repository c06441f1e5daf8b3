"""The table of gains and losses, its intervals, and which results are made again."""

import argparse
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gains(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _gains

    return _gains


@pytest.fixture
def forgetting(gains):
    import forgetting

    return forgetting


def scored(gains, base, words, speakers=None):
    return gains.Scored(np.array(words), speakers or [None] * len(words), np.array(base))


def test_rates_and_their_difference_are_those_counted_by_hand(gains):
    # 8 errors in 20 words before; 4 and 2 with two seeds: 20 % and 10 %, 15 % in the mean.
    base = scored(gains, [4, 2, 2, 0], [5, 5, 5, 5])
    found = gains.change([np.array([2, 1, 1, 0]), np.array([1, 1, 0, 0])], base)
    assert found.wers == (0.2, 0.1) and found.mean == pytest.approx(0.15)
    assert found.difference == pytest.approx(0.15 - 0.4)
    assert base.base_wer == 0.4


def test_the_interval_is_students_around_the_mean_over_utterances(gains):
    # Alike in words, the drawn WER is a mean of N differences: its standard error is sd / sqrt(N).
    rng = np.random.default_rng(3)
    before, after = rng.integers(0, 9, size=(2, 400))
    base = scored(gains, before, [10] * 400)
    found = gains.change([after], base)
    differences = (after - before) / 10
    half = 1.966 * differences.std(ddof=1) / np.sqrt(400)  # t of 399 degrees of freedom
    assert found.low == pytest.approx(differences.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.06 * half)


def test_seeds_that_err_in_turn_leave_less_to_chance_than_one_of_them(gains):
    base = scored(gains, [2] * 100, [4] * 100)
    one = np.array([0, 4] * 50)
    alone = gains.change([one], base)
    both = gains.change([one, 4 - one], base)
    assert both.difference == alone.difference == 0
    assert both.high - both.low == 0 < 0.1 < alone.high - alone.low


def test_speakers_are_drawn_as_one_where_there_are_ten(gains):
    # Every speaker has ten utterances that rise or fall together.
    errors = np.repeat([0, 4] * 5, 10)
    names = np.repeat([f"s{n}" for n in range(10)], 10).tolist()
    by_speaker = gains.change([errors], scored(gains, [2] * 100, [4] * 100, names))
    by_utterance = gains.change([errors], scored(gains, [2] * 100, [4] * 100))
    few = gains.change([errors], scored(gains, [2] * 100, [4] * 100, names[:90] + names[:10]))
    # 10 means of +-0.5: t(9) = 2.262, sd 0.527, / sqrt(10).
    assert by_speaker.high == pytest.approx(2.262 * 0.527 / np.sqrt(10), rel=0.06)
    assert by_utterance.high < 0.3 * by_speaker.high
    assert few.high == pytest.approx(by_utterance.high, rel=0.1)


def results(domain, guard, share=1.0):
    return [
        {"domain": d, "guard": g, "learning_share": share}
        for d, g in zip(domain, guard, strict=True)
    ]


def test_a_row_tells_rates_interval_share_of_weights_and_of_the_defaults_gain(gains):
    domain = scored(gains, [10, 10], [10, 10])
    guard = scored(gains, [2, 2], [10, 10])
    runs = results([[6, 6], [4, 4]], [[2, 2], [3, 3]], share=0.048)
    row = gains.row("ours, LoRA", runs, domain, guard, default_gain=0.8)
    assert row.of_default == pytest.approx(0.5 / 0.8) and row.relative == pytest.approx(-0.5)
    assert list(gains.cells(row)) == [
        "ours, LoRA",
        "4.8",
        "50.0 (40.0-60.0)",
        "-50.0 [-50.0, -50.0]",
        "-50",
        "62",
        "25.0 (20.0-30.0)",
        "+5.0 [+5.0, +5.0]",
    ]
    without = gains.row("NeMo, stock", runs[:1], domain, guard, default_gain=None)
    assert list(gains.cells(without))[2:6] == ["60.0", "-40.0 [-40.0, -40.0]", "-40", ""]


def test_the_table_fits_120_columns_with_every_cell_on_one_line(gains):
    cells = ["NeMo, sensible", "100.0", "46.1 (46.0-46.1)", "-36.8 [-40.1, -33.5]", "-44", "100"]
    cells += ["67.0 (65.4-68.3)", "+27.7 [+24.1, +31.2]"]
    out = io.StringIO()
    Console(width=120, file=out).print(gains.table("demo: a title", [cells]))
    row = next(line for line in out.getvalue().splitlines() if "NeMo" in line)
    assert all(cell in row for cell in cells)
    assert max(map(len, out.getvalue().splitlines())) <= 120


def test_the_markdown_table_has_the_same_cells(gains):
    lines = gains.markdown("demo", [["a", *"1234567"], ["b", *"7654321"]]).splitlines()
    assert lines[0] == "**demo**"
    assert {line.count("|") for line in lines[2:]} == {len(gains.HEADER) + 1}
    assert lines[-1] == "| b | 7 | 6 | 5 | 4 | 3 | 2 | 1 |"


def test_a_kept_result_is_made_again_only_when_its_key_is_another(forgetting, tmp_path):
    made = []

    def make():
        made.append(1)
        return {"domain": [len(made)]}

    path = tmp_path / "a" / "result.json"
    assert forgetting.kept(path, "one", make)["domain"] == [1]
    assert forgetting.kept(path, "one", make)["domain"] == [1]
    assert forgetting.kept(path, "two", make)["domain"] == [2]
    path.write_text(path.read_text()[:-20])  # as a killed process would not leave it
    assert forgetting.kept(path, "two", make)["domain"] == [3]


@pytest.fixture
def domain(forgetting, tmp_path):
    """Makes the demo's data a domain of its own, in a folder whose files may change."""

    def read(*overrides, out="out"):
        args = argparse.Namespace(data=tmp_path, out=tmp_path / out, overrides=list(overrides))
        return forgetting.read_domain("mine", args)

    from parakeet_ft.data.manifest import read_manifest, write_manifest
    from parakeet_ft.files import DEMO

    for name in ("train", "dev", "test"):
        write_manifest(read_manifest(DEMO / f"{name}.jsonl"), tmp_path / "mine" / f"{name}.jsonl")
    return read


def job_of(domain, forgetting, *, seed=1, passes=1):
    return forgetting._ways.Job(
        folder=domain.folder,
        out=domain.out,
        seed=seed,
        passes=passes,
        overrides=domain.overrides,
        base=domain.base,
        inputs=domain.inputs,
        evaluation=domain.settings.evaluation,
        python=sys.executable,
    )


def test_keys_change_with_settings_manifests_and_base_and_with_nothing_else(
    forgetting, domain, tmp_path
):
    def keys(*overrides, **more):
        job = job_of(domain(*overrides), forgetting, **more)
        return {way: job.key(way) for way in ("nemo_sensible", "nemo_selected", "ours")}

    first = keys()
    assert len(set(first.values())) == len(first) and keys() == first

    def changed(**found):
        return {way for way in first if first[way] != found[way]}

    every = set(first)
    assert changed(**keys(passes=2)) == changed(**keys(seed=2)) == every
    assert changed(**keys("optim.lr=1e-3")) == {"ours"}
    selection = "evaluation.guard_tolerance=0.01"
    assert changed(**keys(selection)) == {"ours", "nemo_selected"}
    assert changed(**keys("model=tiny")) == every
    manifest = tmp_path / "mine" / "train.jsonl"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]) + "\n")
    assert changed(**keys()) == every


def test_ways_are_run_once_and_again_when_a_setting_changes(
    forgetting, domain, monkeypatch, capsys
):
    made = []

    def make(way, job, sets):
        made.append((way, job.seed))
        return {"learning_share": 1.0}

    def errors(archive, sets):
        count = 1 if archive.name == "best.nemo" else 2
        return {"domain": [count] * len(sets["test"]), "guard": [1] * len(sets["guard_test"])}

    monkeypatch.setattr(forgetting._ways, "make", make)
    monkeypatch.setattr(forgetting._ways, "errors", errors)
    args = argparse.Namespace(
        ways=["nemo_stock", "ours"], seeds=[1, 2], passes=1, jobs=2, python="", markdown=False
    )
    found = forgetting.measure([domain()], args)[0]
    assert sorted(made) == [("nemo_stock", 1), ("nemo_stock", 2), ("ours", 1), ("ours", 2)]
    made.clear()
    assert forgetting.measure([domain()], args)[0] == found and not made
    forgetting.measure([domain("optim.lr=1e-3")], args)
    assert sorted(made) == [("ours", 1), ("ours", 2)]
    shown = forgetting.show(domain(), found, args)
    assert shown["ours"]["of_default"] == 1.0 and json.dumps(shown)
    assert "ours, default" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--domains", "nowhere"], "Expected demo, or a folder in --data"),
        (["--ways", "other"], "--ways other: expected nemo_stock"),
        (["--domains", "demo", "model=nowhere.nemo"], "No model at nowhere.nemo"),
    ],
)
def test_a_mistake_is_one_message_before_anything_runs(arguments, message, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "forgetting.py", *arguments]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_nemos_weights_get_our_selection(forgetting, domain, tmp_path):
    """The best of the weights that NeMo left is chosen by the domain and the guard."""
    from parakeet_ft.data.corpus import Corpus
    from parakeet_ft.model import restore
    from parakeet_ft.training import checkpoints, states

    found = domain(
        "model=tiny", "evaluation.interpolation=[0.5]", "evaluation.interpolation_step=null"
    )
    sets = {key: Corpus.of(list(corpus)[:2]) for key, corpus in found.sets.items()}
    job = job_of(found, forgetting)
    base = states.copy_state(restore.restore(str(found.base)))
    ruined = {
        key: value + (0.5 * value.std() if value.is_floating_point() and value.dim() > 1 else 0)
        for key, value in base.items()
    }
    weights = tmp_path / "nemo" / "weights"
    for step, state in ((10, base), (20, ruined)):
        content = {"state_dict": state, "global_step": step}
        checkpoints.write(content, weights / f"weights-step={step:06d}.ckpt")
    out = tmp_path / "selected"
    made = forgetting._ways._select(tmp_path / "nemo", out, job, sets)
    assert made["chosen"] == "the weights of step 10" and made["tried"] == 3
    chosen = states.copy_state(restore.restore(str(out / "best.nemo")))
    assert all(bool((chosen[key] == base[key]).all()) for key in base)


def test_results_hold_only_what_json_can(gains):
    found = gains.change([np.array([1, 2])], scored(gains, [2, 2], [4, 4]))
    assert json.loads(json.dumps(dataclasses.asdict(found)))["wers"] == [0.375]
