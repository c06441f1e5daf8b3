"""What evaluate.py is asked for: labels, texts from files, and every mistake told before torch is
imported.
"""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_ft.errors import UserError
from parakeet_ft.evaluation import request
from parakeet_ft.run import composition
from parakeet_ft.run.composition import compose
from parakeet_ft.transcription import decoding, language_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def manifest(speech):
    path = speech(count=3)
    rows = [
        json.loads(line) | {"speaker": f"s{i}", "gate": i % 2}
        for i, line in enumerate(path.read_text().splitlines())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(*overrides):
    return request.read_request(compose("evaluate", request.expand_shorthand(overrides)))


def test_labels_are_the_shortest_ends_that_tell_paths_apart():
    assert request.labels(["tiny", "outputs/a/best.nemo", "outputs/b/best.nemo"]) == [
        "tiny",
        "a/best",
        "b/best",
    ]
    assert request.labels(["x/test.jsonl", "y/guard.jsonl"]) == ["test", "guard"]
    assert request.labels(["nvidia/parakeet-ctc-0.6b"]) == ["parakeet-ctc-0.6b"]
    assert request.labels(["a.nemo", "a.nemo"]) == ["a", "a (2)"]


def test_without_an_argument_the_demo_is_scored():
    asked = read()
    assert (
        list(asked.models) == ["tiny_tdt_ctc"]
        and list(asked.sets) == ["test", "guard"]
        and not asked.terms
        and asked.language_model({}) is None
    )


def test_texts_come_from_lists_files_and_manifests(manifest, tmp_path):
    (tmp_path / "terms.txt").write_text("flight level\n\nsquawk\n")
    asked = read(
        f"manifests=[{manifest}]",
        f"terms={tmp_path / 'terms.txt'}",
        "decoding.phrases=[speed bird,gate]",
        f"language_model.text={manifest}",
        f"language_model.tune_on={manifest}",
        "fields=[speaker,gate]",
    )
    assert asked.terms == ("flight level", "squawk") and asked.phrases == ("speed bird", "gate")
    assert len(asked.lm_text) == 3 and len(asked.lm_tune_on) == 3 and asked.lm_guard == ()


def test_terms_are_found_as_words_of_the_first_set_that_general_text_lacks():
    asked = read("terms=auto", "general=bundled:replay.jsonl")
    assert {"runway", "niner"} <= set(asked.terms) and not {"the", "to"} & set(asked.terms)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models=[]"], "models=.*expected a list of values"),
        (["models=[nowhere.nemo]"], "No model at nowhere.nemo"),
        (["manifests=[nowhere.jsonl]"], "No manifest at .*nowhere.jsonl"),
        (["manifests=[]"], "Nothing to score"),
        (["model=tiny"], "Unknown key 'model'. Did you mean models"),
        (["decoding=wfst"], "decoding=wfst: no such option"),
        (["decoding.beam_size=0"], "decoding.beam_size=0: expected a whole number from 1"),
        (["decoding.head=rnnt"], "expected auto, transducer or ctc"),
        (["fields=[colour]"], "no manifest has 'colour'; they have speaker"),
        (["terms=auto"], "terms=auto needs general speech"),
        (["terms=nowhere.txt"], "terms='nowhere.txt' cannot be read"),
        (["language_model.text=bundled:train.jsonl"], "weight=auto needs a set of the domain"),
        (
            ["language_model.text=nowhere.txt", "language_model.weight=0.3"],
            "language_model.text='nowhere.txt' cannot be read",
        ),
        (["language_model.weight=-1"], "expected auto or a number from 0"),
        (["replacements=nowhere.tsv"], "Cannot read the replacement table"),
        (["scored=both"], "expected raw or normalized"),
        (["language=null"], "expected none or the code of a language"),
        (
            ["benchmark=open_asr_leaderboard", "benchmark.sets=[{name: ami}]"],
            "name: ..., config: ..., split",
        ),
    ],
)
def test_a_mistake_is_told_in_words(overrides, message):
    with pytest.raises(UserError, match=message):
        read(*overrides)


def test_a_mistake_and_help_need_no_torch_and_a_mistake_exits_with_2():
    code = (
        "import sys; sys.argv = ['evaluate.py', *{argv!r}]\nfrom parakeet_ft.errors import "
        "exit_on_user_error\nfrom parakeet_ft.evaluation import request\n"
        "try:\n    with exit_on_user_error(): request.prepare('help')\n"
        "finally: print(sorted({{'torch', 'nemo', 'lightning'}} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    for argv, status, said in (
        (["fields=[colour]"], 2, "error: fields: no manifest has 'colour'"),
        ([], 0, ""),
        (["--help"], 0, ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(argv=argv)], capture_output=True, text=True, cwd=ROOT
        )
        assert (
            done.returncode == status
            and said in done.stderr
            and done.stderr.rstrip().endswith("[]")
        ), done.stderr


OPTIONS = [
    (group, option)
    for group in composition.groups("evaluate")
    for option in composition.options_of(group)
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_has_the_keys_of_its_group_and_opens_with_its_command(group, option):
    assert (
        compose("evaluate", [f"{group}={option}"])[group].keys()
        == compose("evaluate", [])[group].keys()
    )
    lines = (composition.CONF / group / f"{option}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ") and any(
        "python recipes/evaluate.py" in line for line in lines if line.startswith("#")
    )


@pytest.mark.parametrize(
    ("group", "function", "filled"),
    [
        ("decoding", decoding.set_decoding, {"model", "lm_path", "lm_weight", "words"}),
        (
            "language_model",
            language_model.fuse_language_model,
            {"model", "arpa_path", "decoding", "batch_seconds", "on_weight"},
        ),
    ],
)
def test_the_keys_of_a_group_are_the_arguments_of_its_function(group, function, filled):
    assert (
        set(compose("evaluate", [])[group]) == set(inspect.signature(function).parameters) - filled
    )
