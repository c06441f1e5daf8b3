"""Which terms a run scores, and what it says of lists that cannot be meant."""

import os

import pytest

from parakeet_ft import preflight
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition, terms
from parakeet_ft.settings.finetune import read_finetune


def settings(*overrides):
    given = composition.expand_shorthand(list(overrides))
    return read_finetune(composition.compose("finetune", given))


def corpus(*texts):
    return Corpus.of(Utterance(f"{i}.wav", 1.0, text) for i, text in enumerate(texts))


DOMAIN = ["squawk seven two", "climb to flight level two", "Speedbird, hold"] * 5
GENERAL = ["we climb to the top", "hold the door"] * 30
SETS = {
    "train": corpus(*DOMAIN),
    "validation": corpus(*DOMAIN),
    "guard_validation": corpus(*GENERAL),
}


def resolve(*overrides, sets=SETS, references=tuple(DOMAIN)):
    return terms.resolve(settings(*overrides).evaluation, sets, references=references)


def test_without_terms_nothing_is_scored():
    assert resolve() is None


def test_terms_of_a_list_and_of_a_file_are_the_same(tmp_path):
    listed = resolve("evaluation.terms=[flight  level,squawk,gate,squawk]")
    assert listed.terms == ("flight level", "squawk", "gate") and listed.said == (5, 5, 0)
    assert listed.facts()["terms"] == {"flight level": 5, "squawk": 5, "gate": 0}
    assert any("1 do not occur there: gate" in line for line in listed.lines())
    file = tmp_path / "terms.txt"
    file.write_text("\ufeffflight level\n\n  squawk\ngate\n", encoding="utf-8")
    read = resolve(f"evaluation.terms={file}")
    assert (read.terms, read.said) == (listed.terms, listed.said) and read.origin == str(file)


def test_found_terms_are_frequent_in_training_and_validation_and_rare_in_general_speech():
    found = resolve("evaluation.terms=auto", "evaluation.terms_weight=0.25")
    assert {"flight level two", "squawk seven two"} <= set(found.terms)
    assert not {"climb", "to", "hold"} & set(found.terms)
    assert found.facts()["origin"] == "found" and found.facts()["weight"] == 0.25
    shown = "\n".join(found.lines())
    assert "squawk seven two" in shown and "0.25 of the domain's gain" in shown
    unheard = resolve("evaluation.terms=auto", references=["flight level two"] * 3)
    assert "squawk seven two" not in unheard.terms


def test_at_most_two_hundred_are_found():
    many = [" ".join(f"w{i}" for i in range(300)), " ".join(f"w{i}" for i in range(299, -1, -1))]
    sets = {"train": corpus(*many * 3), "replay": corpus(*["so it is"] * 20_000)}
    found = resolve("evaluation.terms=auto", sets=sets, references=many * 3)
    assert len(found.terms) == terms.MOST_FOUND


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.terms=nowhere.txt"], "terms='nowhere.txt' cannot be read.*a list such as"),
        (["evaluation.terms=[]"], "names no term"),
        (["evaluation.terms=[squawk,'***']"], r"'\*\*\*' has no letter and no digit"),
        (["evaluation.terms=5"], "expected null or auto or a list"),
        (["evaluation.terms=[squawk]", "evaluation.terms_weight=1.5"], "from 0 to 1"),
        (["evaluation.terms_weight=0.5"], "weighs terms, and none are given"),
        (
            ["evaluation.terms=[gate,taxi]", "evaluation.terms_weight=0.5"],
            "none of the 2 occurs.*would weigh nothing",
        ),
        (
            ["evaluation.terms=[speedbird,SQUAWK]", "evaluation.terms_weight=0.5"],
            "In other case or with punctuation they occur 10 times",
        ),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        resolve(*overrides)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "no line"), (b" \n\n", "no line"), (b"\xff\xfe\x00a", "utf-8")]
)
def test_files_without_a_term_are_refused(content, message, tmp_path):
    (tmp_path / "terms.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        resolve(f"evaluation.terms={tmp_path / 'terms.txt'}")


def test_a_folder_or_a_pipe_is_no_list_of_terms(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="cannot be read"):
            resolve(f"evaluation.terms={path}")


def test_auto_without_general_speech_is_refused():
    with pytest.raises(UserError, match="data.replay.manifest or data.guard_validation"):
        resolve("evaluation.terms=auto", sets={"train": SETS["train"]})


def test_auto_that_finds_nothing_is_refused_with_a_weight_alone():
    same = SETS | {"guard_validation": SETS["train"]}
    assert resolve("evaluation.terms=auto", sets=same).terms == ()
    with pytest.raises(UserError, match="found no term"):
        resolve("evaluation.terms=auto", "evaluation.terms_weight=0.1", sets=same)


def test_terms_that_validation_lacks_are_warned_of_and_those_its_subset_lacks_too(capsys):
    preflight.check_terms(settings("evaluation.terms=[gate]"), SETS)
    told = capsys.readouterr().err
    assert told.startswith("warning: evaluation.terms=[gate]: none of the 1 occurs")
    assert "say nothing of them" in told and len(told.splitlines()) == 1
    preflight.check_terms(settings("evaluation.terms=[squawk]"), SETS)
    assert capsys.readouterr().err == ""
    rare = SETS | {"validation": corpus("squawk", *["hold"] * 99)}
    overrides = ["evaluation.terms=[squawk]", "evaluation.terms_weight=0.5"]
    preflight.check_terms(settings(*overrides), rare)
    with pytest.raises(UserError, match="of data.validation \\(1 utterances\\)"):
        preflight.check_terms(
            settings(*overrides, "evaluation.subset_hours=0.0001", "seed=3"), rare
        )


def test_a_changed_list_of_terms_is_another_run(tmp_path):
    file = tmp_path / "terms.txt"
    file.write_text("squawk\n")
    asked = settings(f"evaluation.terms={file}")
    before = preflight.identity_of(asked)
    assert preflight.identity_of(asked) == before
    file.write_text("squawk\ngate\n")
    assert preflight.identity_of(asked) != before
