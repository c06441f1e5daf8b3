"""Corpora become one: every utterance once, under a path that leads to it, and what two of them
share is told or refused.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.data.merge import merge
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.settings.manifests import weighted

ROOT = Path(__file__).resolve().parents[2]


def call(script, *arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "data_prep" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def corpus(folder, **splits):
    """A folder with audio/ and a manifest for each split; utterances are (text, speaker)."""
    (folder / "audio").mkdir(parents=True)
    for split, utterances in splits.items():
        lines = []
        for number, (text, speaker) in enumerate(utterances):
            path = f"audio/{split}{number}.flac"
            seed = len(text) + 100 * number
            samples = 0.1 * np.random.default_rng(seed).standard_normal(16000 + 160 * number)
            soundfile.write(folder / path, samples, 16000)
            lines.append(
                {"audio_filepath": path, "duration": len(samples) / 16000, "text": text}
                | {"speaker": speaker, "take": number}
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text)
    return folder


@pytest.fixture
def two(tmp_path):
    """Two corpora with nothing in common."""
    a = corpus(tmp_path / "a", train=[("one", "ann"), ("two", "ann")], test=[("three", "bob")])
    b = corpus(tmp_path / "b", train=[("four", "cy")], dev=[("five", "di")])
    return a, b


def test_all_utterances_are_there_with_paths_that_lead_to_their_audio(two, tmp_path):
    a, b = two
    done = call("merge.py", a, b, "--out", tmp_path / "all")
    assert done.returncode == 0, done.stderr
    for split, texts in (("train", ["one", "two", "four"]), ("dev", ["five"]), ("test", ["three"])):
        found = read_manifest(tmp_path / "all" / f"{split}.jsonl")
        assert [u.text for u in found] == texts
        for u in found:
            assert soundfile.info(u.audio_filepath).duration == u.duration and "take" in u.extra
    assert "copies" not in done.stdout and "shared" not in done.stdout
    inputs = json.loads((tmp_path / "all" / "merge.json").read_text())["inputs"]
    assert [i["utterances"] for i in inputs] == [{"train": 2, "test": 1}, {"train": 1, "dev": 1}]


def test_names_that_look_like_markup_are_shown_as_they_are(two, tmp_path):
    done = call("merge.py", *two, "--out", tmp_path / "m[/b]x")
    assert done.returncode == 0 and "[/b]x" in "".join(done.stdout.split()), done.stderr


def test_shards_stay_where_they_are_and_the_shown_command_reads_all(two, tmp_path):
    a, b = two
    write_shards(b / "train.jsonl", out=tmp_path / "s" / "train", executor=InlineExecutor)
    done = call("merge.py", a, tmp_path / "s", f"dev={b}/dev.jsonl", "--out", tmp_path / "all")
    assert done.returncode == 0, done.stderr
    command = done.stdout.strip().splitlines()[-1].partition("finetune.py ")[2]
    config = composition.compose("finetune", composition.expand_shorthand(shlex.split(command)))
    names = {key: weighted(config["data"][key]) for key in ("train", "validation", "test")}
    assert [u.text for u in Corpus.open(names["train"])] == ["one", "two", "four"]
    assert [u.text for u in Corpus.open(names["validation"])] == ["five"]
    again = merge([str(tmp_path / "all")], out=tmp_path / "again")
    assert again.count == {(0, "train"): 3, (0, "dev"): 1, (0, "test"): 1}
    assert again.data["train"][1] == str(tmp_path / "s" / "train")


ODD = (
    "a b",
    "c,d",
    "e[f]",
    "g=h",
    "i{j}",
    "k'l",
    'm"n',
    "o;p$q",
    "r\\s",
    "t\\'u",
    "v#w",
    "ü",
    "x\\",
)


@pytest.mark.parametrize("name", ODD)
def test_the_shown_command_names_any_path_as_it_is(two, tmp_path, name):
    """Read by the shell's rules and by Hydra's own parser."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sys.path.insert(0, str(ROOT / "data_prep"))
    from merge import settings_of

    sys.path.pop(0)
    names = [f"/{name}/train.jsonl", f"/x/{name}"]
    shown = " ".join(settings_of({"train": names, "dev": names[1:]}))
    train, dev = OverridesParser.create().parse_overrides(shlex.split(shown))
    assert (train.key_or_group, dev.key_or_group) == ("data.train", "data.validation")
    assert [str(one) for one in train.value()] == names and str(dev.value()) == names[1]


def test_what_a_run_needs_and_no_input_has_is_said(two, tmp_path):
    a, _ = two
    done = call("merge.py", a, "--out", tmp_path / "all")
    assert "note: no input has data.validation, which a run needs" in done.stdout
    done = call("merge.py", *two, "--out", tmp_path / "all")
    assert done.returncode == 0 and "note:" not in done.stdout


@pytest.mark.parametrize("out", ["s", "s/train", "merged"])
def test_a_folder_that_is_read_is_not_written_to(two, tmp_path, out):
    write_shards(two[1] / "train.jsonl", out=tmp_path / "s" / "train", executor=InlineExecutor)
    merge([str(tmp_path / "s")], out=tmp_path / "merged")
    before = sorted(tmp_path.rglob("*"))
    inputs = [str(tmp_path / out), str(two[0])]
    inputs[0] = f"train={inputs[0]}" if out == "s/train" else inputs[0]
    with pytest.raises(UserError, match="is, or holds, what is to be read"):
        merge(inputs, out=tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({"train": [("THREE!", None)]}, "test of A shares with train of B the text of 1 utt"),
        ({"train": [("six", "bob")]}, "test of A shares with train of B 1 speakers (bob)"),
        ({"dev": [("one", None)]}, "dev of B shares with train of A the text of 1 utterances"),
    ],
)
def test_what_is_scored_in_one_and_trained_on_in_another_is_refused(two, tmp_path, theirs, told):
    a, b = two[0], corpus(tmp_path / "other", **theirs)
    told = told.replace("A", str(a)).replace("B", str(b))
    done = call("merge.py", a, b, "--out", tmp_path / "all")
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
    assert not list((tmp_path / "all").glob("*"))
    done = call("merge.py", a, b, "--out", tmp_path / "all", "--allow-overlap")
    assert done.returncode == 0 and f"shared: {told}" in done.stdout
    assert json.loads((tmp_path / "all" / "merge.json").read_text())["overlap"]


def test_a_word_that_others_say_too_is_no_overlap(two, tmp_path):
    long = "a text that is long enough to be known again"
    b = corpus(tmp_path / "other", train=[("three", "eve")])
    assert not merge([str(two[0]), str(b)], out=tmp_path / "all").overlap
    a = corpus(tmp_path / "long", test=[(long, "bob")])
    b = corpus(tmp_path / "copy", train=[(long, "eve")])
    with pytest.raises(UserError, match="shares with train of .* the text of 1 utterances"):
        merge([str(a), str(b)], out=tmp_path / "both")


def test_what_two_corpora_train_on_alike_is_no_reason_to_refuse(two, tmp_path):
    b = corpus(tmp_path / "other", train=[("ONE", "ann")])
    found = merge([str(two[0]), str(b)], out=tmp_path / "all")
    assert not found.overlap and len(read_manifest(tmp_path / "all" / "train.jsonl")) == 3


def test_copies_are_known_by_their_samples_where_scripts_measured_them(tmp_path):
    """The same recordings under other names, formats and texts, in files and in shards."""
    rng = np.random.default_rng(1)
    for name, kind in (("x", "wav"), ("y", "flac")):
        (tmp_path / name).mkdir()
        rows = ["path,text,speaker"]
        for number in range(6):
            samples = (
                rng.standard_normal(16000) if number > 3 else np.sin(np.arange(16000) * number)
            )
            whole = (3000 * samples).astype(np.int16)
            soundfile.write(tmp_path / name / f"{name}{number}.{kind}", whole, 16000)
            rows.append(f"{name}{number}.{kind},{name} says number {number},{name}{number}")
        (tmp_path / name / "t.csv").write_text("\n".join(rows) + "\n")
    for name, flags in (("x", []), ("y", ["--shards", "1"])):
        table = tmp_path / name / "t.csv"
        options = ["--dev-share", 0, "--test-share", 0, "--max-dropped", 1, "--jobs", 1, *flags]
        done = call("from_table.py", table, "--out", tmp_path / f"{name}_out", *options)
        assert done.returncode == 0, done.stderr
    x, y = str(tmp_path / "x_out"), str(tmp_path / "y_out")
    found = merge([x, y], out=tmp_path / "all")
    # Number 0 is silence, which is dropped.
    assert found.copies == [f"3 utterances of {y} have the samples of one in {x}"]


def test_copies_without_measurements_are_known_by_text_speaker_and_length(two, tmp_path):
    copy = corpus(tmp_path / "copy", train=[("one", "ann")])
    found = merge([str(two[0]), str(copy)], out=tmp_path / "all")
    assert found.copies == [
        f"1 utterances of {copy} have text, speaker and length of one in {two[0]}"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "nowhere"], "No manifest at nowhere"),
        (["A", "A"], "is named twice"),
        (["A/audio"], "folder without shards"),
        (["A/clips.jsonl"], "Expected train, dev or test before it, as in train="),
        (["A/broken/train.jsonl"], "train.jsonl line 1 is not JSON"),
        (["A/empty/train.jsonl"], "holds no utterance: leave it out"),
        (["A", "--out", "A"], "give another --out"),
        (["A", "--out", "B"], "give another --out"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(two, tmp_path, arguments, message):
    a, b = two
    (a / "clips.jsonl").write_text((a / "train.jsonl").read_text())
    for name, text in (("broken", "{\n"), ("empty", "")):
        (a / name).mkdir()
        (a / name / "train.jsonl").write_text(text)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")}
    given = [w.replace("A", str(a), 1) if w[0] == "A" else w for w in arguments]
    given = [str(b) if w == "B" else w for w in given]
    given += [] if "--out" in given else ["--out", str(tmp_path / "all")]
    done = call("merge.py", *given)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")} == before


def test_a_merge_that_is_made_again_leaves_nothing_of_the_first(two, tmp_path):
    merge([str(two[0]), str(two[1])], out=tmp_path / "all")
    merge([str(two[1])], out=tmp_path / "all")
    assert not (tmp_path / "all" / "test.jsonl").exists()
    assert [u.text for u in read_manifest(tmp_path / "all" / "train.jsonl")] == ["four"]
    (tmp_path / "all" / "merge.json").write_text('{"data": 1}')
    with pytest.raises(UserError, match=r"is not as merge\.py writes it"):
        merge([str(tmp_path / "all")], out=tmp_path / "more")
