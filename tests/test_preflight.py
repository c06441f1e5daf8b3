"""Mistakes on the command line are found before torch is imported, and say what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_ft import preflight
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.model.checkpoints import CHECKPOINTS
from parakeet_ft.run import composition
from parakeet_ft.settings.manifests import weighted

ROOT = Path(__file__).resolve().parents[1]


def composed(*overrides):
    return composition.compose("finetune", composition.expand_shorthand(list(overrides)))


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("optim.lrr=1", "optim.lr"),
        ("lr=1", "optim.lr"),
        ("mdel=tiny", "model"),
        ("model=tinny", "tiny"),
        ("budget.epoch=3", "budget.epochs"),
        ("+data.batchseconds=3", "data.batch_seconds"),
        ("dataa.train=x", "data.train"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, hint):
    with pytest.raises(UserError, match=f"Did you mean.*{hint}"):
        composed(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.gradient_clip=high"], "expected a number from 0"),
        (["adaptation.freeze_batch_norm=3"], "true or false"),
        (["adaptation.frozen=encoder"], r"a list.*The nearest is \[encoder\]"),
        (["budget.steps=5", "budget.hours=1"], "one budget"),
        (["seed"], "key=value"),
        (["optim.betas=[0.9"], "cannot be read"),
        (["data.train=a.jsonl"], "data.validation is missing"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        preflight.check_settings(composed(*overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=0", "optim.lr"),
        ("optim.lr=fast", "auto or a number"),
        ("data.batch_seconds=-1", "above 0"),
        ("optim.warmup_ratio=1.5", "from 0 and below 1"),
        ("evaluation.alarm_after=0", "alarm_after"),
        ("evaluation.patience=0", "null or a whole"),
        ("evaluation.ema_decay=1", "above 0 and below 1"),
        ("distillation.weight=-1", "The nearest is 0"),
        ("distillation.temperature=0", "above 0"),
        ("budget.epochs=null", "No budget"),
        ("optim.accumulate=0.5", "whole number"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        preflight.check_settings(composed(override))


def test_distillation_after_a_replaced_vocabulary_is_refused():
    with pytest.raises(UserError, match="tokenizer=keep or extend"):
        preflight.check_settings(composed("distillation.weight=0.5", "tokenizer=replace"))


@pytest.mark.parametrize("override", ["distillation.weight=0.5", "evaluation.ema_decay=0.9"])
def test_what_needs_the_whole_model_is_refused_where_it_is_divided(override):
    with pytest.raises(UserError, match=f"{override.partition('=')[0]} with trainer.strategy=fsdp"):
        preflight.check_settings(composed(override, "trainer=fsdp"))


def test_mlflow_where_it_is_not_installed_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        preflight.check_settings(composed("logger=mlflow"))
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: object())
    preflight.check_settings(composed("logger=mlflow"))


def test_a_path_or_hub_id_is_a_model():
    assert composed("model=some/where/x.nemo")["model"]["source"] == "some/where/x.nemo"
    assert (
        composed("model=nvidia/parakeet-ctc-0.6b")["model"]["source"] == "nvidia/parakeet-ctc-0.6b"
    )
    assert composed("model=parakeet_ctc_0.6b")["model"]["source"] == "nvidia/parakeet-ctc-0.6b"
    assert composed("model=tiny")["model"]["source"] == "tiny"


def test_own_manifests_bring_nothing_of_the_demo():
    data = composed("data.train=a.jsonl", "data.validation=b.jsonl")["data"]
    assert [data[key] for key in ("test", "guard_validation", "guard_test")] == [None] * 3 and data[
        "replay"
    ]["manifest"] is None
    assert data["name"] == "finetune"


def test_a_budget_of_steps_replaces_the_default_epochs():
    assert composed("budget.steps=5")["budget"] == {"epochs": None, "hours": None, "steps": 5}


def write_manifest(path, records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


GOOD = {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no utterance"),
        ([GOOD, "{not json"], "line 2 is not JSON"),
        ([GOOD, {"text": "x"}], "line 2 lacks audio_filepath, duration"),
        ([GOOD, GOOD | {"duration": 1e9}], "line 2: duration is 1000000000.0, which is 11574 days"),
        ([GOOD | {"duration": -1}], "duration is -1"),
        ([GOOD | {"text": 3}], "text is 3"),
        ([[1, 2]], "expected a JSON object"),
        (
            [GOOD | {"audio_filepath": f"{i}.wav"} for i in range(7)],
            r"7 .*(?s:.)*0\.wav(?s:.)*4\.wav",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_says_which_line(tmp_path, records, message):
    path = write_manifest(tmp_path / "m.jsonl", records)
    with pytest.raises(UserError, match=message):
        preflight.check_finetune([f"data.train={path}", f"data.validation={path}"])


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No manifest at .*none\.jsonl"):
        preflight.check_finetune(
            [f"data.train={tmp_path}/none.jsonl", f"data.validation={tmp_path}/none.jsonl"]
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["optim.lrr=1"],
        ["model=missing.nemo"],
        ["data.train=none.jsonl", "data.validation=none.jsonl"],
    ],
)
def test_help_and_mistakes_import_neither_torch_nor_nemo_and_leave_no_file(arguments, tmp_path):
    code = (
        f"import sys, runpy; sys.argv = ['finetune.py', *{arguments!r}]\n"
        f"sys.path.insert(0, {str(ROOT / 'recipes')!r})\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'recipes' / 'finetune.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('exit', end.code, {'torch', 'nemo', 'lightning'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    code = 0 if arguments == ["--help"] else 2
    assert done.stdout.splitlines()[-1] == f"exit {code} set()", done.stderr
    assert "Traceback" not in done.stderr and (code == 0 or done.stderr.startswith("error: "))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_guard_or_with_few_words_to_choose_by_is_warned():
    few, many = ([Utterance("a.wav", 1.0, "one two three four")] * count for count in (1, 50))
    few, many = Corpus.of(few), Corpus.of(many)
    assert preflight.check_choice({"validation": many, "guard_validation": many}) == []
    alone, blind = preflight.check_choice({"validation": few})
    assert "no guard set" in alone and "holds 4 words: one word is 25.0 points" in blind


def test_a_choice_on_voices_of_training_is_warned_where_speakers_are_known():
    def said_by(*speakers):
        return Corpus.of([Utterance("a.wav", 1.0, "a b " * 100, speaker=s) for s in speakers])

    sets = {"guard_validation": said_by(None), "train": said_by("ann", "bob", "ann", None)}
    [line] = preflight.check_choice(sets | {"validation": said_by("ann", "cleo", "cleo")})
    assert line.startswith("1 of 2 speakers of data.validation is in data.train: best.nemo")
    assert "split.py` divides by speaker" in line
    [line] = preflight.check_choice(sets | {"validation": said_by("bob")})
    assert line.startswith("The only speaker of data.validation is in data.train")
    for others in (said_by("cleo"), said_by(None)):
        assert preflight.check_choice(sets | {"validation": others}) == []


def test_a_smoke_test_is_not_warned_of_a_choice_that_it_does_not_make(capsys):
    alone = ["data.guard_validation=null", "data.guard_test=null"]
    for smoke in (False, True):
        preflight.check_inputs(preflight.check_settings(composed(f"smoke={smoke}", *alone)))
        assert ("no guard set" in capsys.readouterr().err) is not smoke


def named(**sets):
    return {key: weighted(names) for key, names in sets.items()}


def test_a_test_that_is_the_validation_and_a_manifest_named_twice_are_warned(tmp_path):
    a, b = (write_manifest(tmp_path / f"{x}.jsonl", [GOOD | {"text": x}]) for x in "ab")
    other = write_manifest(tmp_path / "again.jsonl", [GOOD | {"text": "b"}])
    a, b, other = map(str, (a, b, other))
    assert preflight.check_doubles(named(train=[a, other], validation=b, test=a)) == []
    assert preflight.check_doubles(named(train=a, validation=b)) == []
    for test in (b, other):
        (line,) = preflight.check_doubles(named(train=a, validation=b, test=test))
        assert line.startswith("data.test is the same as data.validation")
    guard = {"guards.kids.validation": weighted(b), "guards.kids.test": weighted(b)}
    (line,) = preflight.check_doubles(named(train=a) | guard)
    assert line.startswith("data.guards.kids.test is the same as data.guards.kids.validation")
    (line,) = preflight.check_doubles(named(train=[a, b, f"{tmp_path}/./a.jsonl"]))
    assert line.startswith(f"data.train names {a} 2 times")
    (line,) = preflight.check_doubles(named(train=a, replay=[b, b]))
    assert line.startswith(f"data.replay.manifest names {b} 2 times")


def test_help_names_every_group_option_and_key(capsys):
    composition.show_help("finetune", "what it does")
    shown = capsys.readouterr().out
    for group in composition.groups():
        assert all(option in shown for option in composition.options_of(group)), group
    assert all(name in shown for name in CHECKPOINTS)
    assert "optim.warmup_ratio" in shown and "what it does" in shown
    assert "data.num_workers=1   with your own data: auto" in shown


def test_few_words_of_any_guard_are_told_and_a_named_guard_is_one():
    many = Corpus.of([Utterance("a.wav", 1.0, "a b " * 100)])
    few = Corpus.of([Utterance("a.wav", 1.0, "a b c d")])
    [told] = preflight.check_choice({"validation": many, "guards.kids.validation": few})
    assert told.startswith("data.guards.kids.validation holds 4 words")


def test_a_replay_ratio_without_speech_to_mix_in_is_warned():
    own = ["data.train=a.jsonl", "data.validation=b.jsonl"]
    silent = [[], ["data.replay.ratio=0"], ["data.replay.ratio=2", "data.replay.manifest=c.jsonl"]]
    for given in silent:
        assert preflight.check_replay(preflight.read_command(own + given)[1].data) == []
    (line,) = preflight.check_replay(preflight.read_command([*own, "data.replay.ratio=2"])[1].data)
    assert "data.replay.ratio=2 does nothing without data.replay.manifest" in line


def test_a_second_start_skips_what_an_earlier_one_found_right_and_says_so(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("parakeet_ft.data.corpus.SMALL", 0)
    monkeypatch.setattr("parakeet_ft.data.manifest_blocks.num_cores", lambda: 1)
    settings = preflight.check_settings(composed())
    first = preflight.check_inputs(settings)
    assert capsys.readouterr().out.count("once for all runs") == 6
    for name in (
        "data.corpus.blocks_of",
        "data.overlap.check_overlap",
        "tokenizer.sentencepiece_model.coverage",
    ):
        monkeypatch.setattr(f"parakeet_ft.{name}", lambda *a, n=name, **k: pytest.fail(n))
    second = preflight.check_inputs(settings)
    told = capsys.readouterr().out
    assert told.count("audio files were found by an earlier run") == 6
    assert {key: list(found) for key, found in second.items()} == {
        key: list(found) for key, found in first.items()
    }


def test_the_bundled_demo_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    preflight.check_inputs(preflight.check_settings(composed()))
    assert not (tmp_path / "cache").exists()
