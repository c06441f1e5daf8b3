"""A run with two guards, of which training ruins one: that one decides, and everything says so."""

import json
import re

import pytest

from parakeet_ft import preflight
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.run.directory import differences
from parakeet_ft.settings.finetune import read_finetune
from recipes.finetune import finetune


def configure(*overrides):
    return composition.compose("finetune", composition.expand_shorthand(list(overrides)))


def arguments(nemo, manifest, *more):
    return [
        f"model={nemo}",
        f"data.train={manifest}",
        f"data.validation={manifest}",
        "data.allow_overlap=true",
        "data.num_workers=0",
        "data.batch_seconds=6",
        "logger=csv",
        "evaluation.validations=2",
        "evaluation.interpolation=[0.5]",
        "optim.lr=1e-3",
        "adaptation.freeze_batch_norm=false",
        *more,
    ]


@pytest.fixture(scope="module")
def manifests(speech, tmp_path_factory):
    """The domain, and some of the same speech as a guard, which training cannot ruin."""
    folder = tmp_path_factory.mktemp("guards")
    domain = speech(count=8)
    lines = [json.loads(line) for line in domain.read_text().splitlines()]
    for line in lines:
        line["audio_filepath"] = str(domain.parent / line["audio_filepath"])
    spoken = folder / "spoken.jsonl"
    spoken.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    return domain, spoken


@pytest.fixture(scope="module")
def run(tiny_nemo, manifests, tmp_path_factory):
    """Six steps; the checkpoint of random weights babbles, so its transcripts of the second guard
    are made its references: it begins without an error there, and training forgets them.
    """
    from parakeet_ft.model.restore import restore
    from parakeet_ft.transcription.decode import transcribe

    domain, spoken = manifests
    nemo = tiny_nemo("ctc")
    heard = transcribe(restore(str(nemo)), read_manifest(spoken), batch_seconds=60)
    assert all(heard), "random weights say something"
    lines = [json.loads(line) for line in spoken.read_text().splitlines()]
    babble = spoken.with_name("babble.jsonl")
    babble.write_text(
        "".join(
            json.dumps(line | {"text": text}) + "\n"
            for line, text in zip(lines, heard, strict=True)
        )
    )
    run_dir = tmp_path_factory.mktemp("outputs") / "experiment" / "first"
    given = arguments(
        nemo,
        domain,
        "budget.steps=6",
        f"data.guard_validation={spoken}",
        f"data.guards.babble.validation={babble}",
        "data.guards.babble.tolerance=0.05",
        f"data.guards.babble.replay={babble}",
        "data.guards.babble.replay.ratio=0.25",
    )
    report = finetune(read_finetune(configure(*given)), run_dir=run_dir, command=["x"])
    return run_dir, report


def test_the_ruined_guard_decides_and_the_other_does_not(run):
    _, report = run
    assert list(report["tuned"]) == ["domain", "guard", "babble"]
    assert report["baseline"]["babble"]["wer"] == 0
    for row in report["candidates"]:
        assert set(row["guard_wers"]) == {"guard", "babble"} and "guard_wer" not in row
        assert row["judgement"]["worst_guard"] == "babble"
        lost = row["guard_wers"]["babble"]
        assert row["judgement"]["loss"] == pytest.approx(lost)
        assert row["judgement"]["refused"] == (row["judgement"]["risk"] > 0.5)
        if row["judgement"]["refused"]:
            assert row["selection_score"] <= 0
    assert any(row["judgement"]["refused"] for row in report["candidates"])
    assert report["history"][0]["guard_wers"]["babble"] == 0


def test_the_run_records_tolerance_and_replay_of_each_guard(run):
    run_dir, report = run
    stored = json.loads((run_dir / "run.json").read_text())
    assert stored["effective"]["guards"] == {
        "guard": {"tolerance": 0.02, "replay_ratio": 0.0},
        "babble": {"tolerance": 0.05, "replay_ratio": 0.25},
    }
    assert stored["effective"]["budget"]["replay_ratio"] == 0.25
    assert {"guards.babble.validation", "guards.babble.replay"} <= set(stored["manifests"])
    assert report["guard_tolerances"] == {"guard": 0.02, "babble": 0.05}
    assert "guard_wer/babble" in (run_dir / "metrics.csv").read_text().splitlines()[0]


def test_verdict_tables_and_picture_name_each_guard(run):
    run_dir, report = run
    assert "; guard babble WER " in report["verdict"] and "; guard WER " in report["verdict"]
    if report["tuned"]["babble"]["wer"] > 0.05:
        assert "MORE THAN THE TOLERANCE of 5.0 points" in report["verdict"]
    page = (run_dir / "report.html").read_text()
    assert "worst guard: babble" in page and "What was forgotten" in page
    assert ">tolerated of babble<" in page
    text = (run_dir / "report.md").read_text()
    assert re.search(r"^\| guard babble \|.* 5\.0: (kept|MORE THAN TOLERATED) \|$", text, re.M)
    assert "| step | domain WER (dev) | guard WER (dev) | guard babble WER (dev) | score |" in text


def test_another_guard_is_another_run(tiny_nemo, manifests):
    domain, spoken = manifests
    nemo, told = tiny_nemo("ctc"), []
    named = f"data.guards.kids.validation={spoken}"
    for more in ([], [named], [named, "data.guards.kids.tolerance=0.1"]):
        settings = read_finetune(configure(*arguments(nemo, domain, *more)))
        told.append(preflight.identity_of(settings))
    assert any("guards.kids.validation" in line for line in differences(told[0], told[1]))
    [line] = differences(told[1], told[2])
    assert line == "config.data.guards.kids.tolerance: None -> 0.1"
    assert differences(told[1], told[1]) == []


def test_a_replay_that_holds_its_guards_test_set_is_refused(manifests, tiny_nemo):
    domain, spoken = manifests
    given = [
        f"model={tiny_nemo('ctc')}",
        f"data.train={domain}",
        f"data.validation={domain}",
        f"data.guards.kids.validation={spoken}",
        f"data.guards.kids.replay={spoken}",
    ]
    said = r"data.guards.kids.validation are in data.guards.kids.replay"
    with pytest.raises(UserError, match=said):
        preflight.check_finetune(given)
    with pytest.raises(UserError, match=r"No manifest at .*nowhere\.jsonl"):
        preflight.check_finetune([*given[:-1], "data.guards.kids.test=nowhere.jsonl"])
