"""The model card says what was measured and nothing of the machine; nothing leaves it without
--push.
"""

import html
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from markdown_it import MarkdownIt

from parakeet_ft.data.manifest import manifest_hash, read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.model.checkpoints import CHECKPOINTS, resolve
from parakeet_ft.publishing.hub import Folder, places, prepare, push
from parakeet_ft.publishing.model_card import (
    base_model_of,
    data_facts,
    licence_of,
    private_paths,
    public_command,
)
from recipes import publish


@pytest.fixture
def run_dir(tmp_path):
    """What a finished run leaves, as far as a card needs it; the weights are the bundled
    model's.
    """
    folder = tmp_path / "demo" / "2026"
    folder.mkdir(parents=True)
    (folder / "best.nemo").write_bytes((DEMO / "tiny.nemo").read_bytes())
    manifest = DEMO / "dev.jsonl"

    def score(rate):
        return {
            "wer": rate,
            "wer_normalized": rate / 2,
            "cer": rate / 4,
            "words": 644,
            "normalizer": "somebody's 1.0",
        }

    report = {
        "name": "demo",
        "command": f"python recipes/finetune.py data.train={tmp_path}/secret/train.jsonl "
        f"optim.lr=1e-4 model=nvidia/parakeet-ctc-0.6b",
        "verdict": "Domain WER fell from 60.0 % to 20.0 % (better).",
        "warnings": ["The test set has one speaker."],
        "notes": ["At step 3: the guard's WER rose"],
        "selection": "Chosen: step 3.",
        "steps": 9,
        "commit": "abc",
        "baseline": {"domain": score(0.6), "guard": score(0.1)},
        "tuned": {"domain": score(0.2), "guard": score(0.12)},
        "comparison": {
            role: {"verdict": "better", "low": -0.5, "high": -0.3, "speakers": 1}
            for role in ("domain", "guard")
        },
    }
    run = {
        "config": {
            "model": {"source": "nvidia/parakeet-ctc-0.6b"},
            "evaluation": {"language": "en"},
        },
        "effective": {
            "model": {
                "rate_hz": 16000,
                "class": "EncDecCTCModelBPE",
                "num_weights": 3_100_000,
                "vocab_size": 256,
            }
        },
        "versions": {"nemo_toolkit": "3.0.0", "torch": "2"},
        "manifests": {
            "train": {"path": str(manifest), "sha256": manifest_hash(manifest)},
            "test": {"path": f"{tmp_path}/secret/gone.jsonl", "sha256": "0" * 64},
        },
    }
    for name, content in (("report.json", report), ("run.json", run)):
        (folder / name).write_text(json.dumps(content))
    return folder


def change(run_dir, name, **changes):
    path = run_dir / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def prepared(run_dir, **more):
    """The folder, the bytes of its files, and the warnings."""
    model, _ = prepare(
        run_dir,
        repo="me/parakeet-mine",
        **({"licence": None, "base_model": None, "language": None} | more),
    )
    return model.path, model.files, model.warnings


def test_the_front_matter_holds_the_measured_rates_as_the_hub_reads_them(run_dir):
    folder, _, _ = prepared(run_dir)
    card = ModelCard.load(folder / "README.md")
    found = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("demo: domain test set", "WER"): 20.0,
        ("demo: domain test set", "WER, normalised"): 10.0,
        ("demo: domain test set", "CER"): 5.0,
        ("demo: guard test set", "WER"): 12.0,
        ("demo: guard test set", "WER, normalised"): 6.0,
        ("demo: guard test set", "CER"): 3.0,
    }
    assert (
        card.data.license,
        card.data.base_model,
        card.data.language,
        card.data.library_name,
    ) == ("cc-by-4.0", "nvidia/parakeet-ctc-0.6b", "en", "nemo")
    plain = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert (
        plain["model-index"][0]["name"] == "parakeet-mine"
        and plain["base_model_relation"] == "finetune"
    )


def test_the_card_tells_data_use_and_notes_in_whole_tables(run_dir):
    text = (prepared(run_dir)[0] / "README.md").read_text()
    assert (
        'from_pretrained("me/parakeet-mine")' in text
        and "-50.0 to -30.0: better (for this one speaker" in text
    )
    dev = read_manifest(DEMO / "dev.jsonl")
    hours, voices = sum(u.duration for u in dev) / 3600, len({u.speaker for u in dev})
    assert (
        f"| training | {len(dev)} | {hours:.2f} | {voices} | "
        f"`{manifest_hash(DEMO / 'dev.jsonl')}` |\n"
        f"| test | not known | not known | not known | `{'0' * 64}` |" in text
    )
    assert "| domain | 644 | 60.0 % | **20.0 %** |" in text.replace("|\n|---", "")


def test_the_card_has_a_row_for_every_guard(run_dir):
    report = json.loads((run_dir / "report.json").read_text())
    for part in ("baseline", "tuned", "comparison"):
        report[part]["kids"] = report[part]["guard"]
    (run_dir / "report.json").write_text(json.dumps(report))
    run = json.loads((run_dir / "run.json").read_text())
    gone = {"path": "gone.jsonl", "sha256": "1" * 64}
    named = {"guards.kids.validation": gone, "guards.kids.replay": gone}
    change(run_dir, "run.json", manifests=run["manifests"] | named)
    text = (prepared(run_dir)[0] / "README.md").read_text()
    assert "| guard kids | 644 | 10.0 % | **12.0 %** |" in text
    assert "| guard kids, validation | not known" in text
    assert "| guard kids, replay (speech like it mixed in) | not known" in text
    names = {
        r.dataset_name for r in ModelCard.load(run_dir / "publish/README.md").data.eval_results
    }
    assert "demo: guard kids test set" in names


def test_the_card_begins_with_its_warnings_and_tells_limits_and_how_to_install(run_dir):
    text = (prepared(run_dir)[0] / "README.md").read_text()
    top, rest = text.split("## Use")
    assert "**The test set has one speaker.**" in top and "rose" not in text
    assert 'pip install "nemo_toolkit[asr]==3.0.0"' in rest
    limits = rest.split("## Limits")[1].split("## Data")[0]
    assert "Tested on 644 words of one speaker" in limits
    assert all(word in limits for word in ("accents", "channels", "noise", "language"))
    assert "forgotten" not in limits, "there is a guard"


def test_hostile_names_and_words_are_shown_as_they_are(run_dir):
    hostile = "<script>alert(1)</script> `x` | [a](javascript:b) *c*\n# d"
    change(
        run_dir,
        "report.json",
        verdict=hostile,
        selection=hostile,
        warnings=[hostile],
        command=f"python recipes/finetune.py name='{hostile}'",
    )
    text = (prepared(run_dir)[0] / "README.md").read_text().split("---\n", 2)[2]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in page and "<a " not in page and "<em>c" not in page
    assert "<h1>d" not in page and page.count("<h1>") == 1
    assert (
        html.unescape(page).count("<script>alert(1)</script> `x` | [a](javascript:b) *c* # d") >= 3
    )


def test_a_place_inside_the_model_is_told_with_its_key_and_the_cure(run_dir):
    (warning,) = prepared(run_dir)[2]
    assert "tokenizer.dir=/tmp/" in warning and "model.cfg.tokenizer.dir = ''" in warning
    assert places({"a": [{"b": "/home/me/x"}, "no/path"], "c": 1}) == {"a[0].b": "/home/me/x"}


def test_no_path_of_the_machine_is_in_what_is_uploaded(run_dir, tmp_path):
    folder, files, _ = prepared(run_dir)
    text = (folder / "README.md").read_text()
    assert (
        str(tmp_path) not in text
        and "secret" not in text
        and str(DEMO) not in text
        and private_paths(text) == []
    )
    assert "data.train=... optim.lr=1e-4 model=nvidia/parakeet-ctc-0.6b" in text
    assert (
        set(files) == {"README.md", "parakeet-mine.nemo"}
        and files["parakeet-mine.nemo"] == (run_dir / "best.nemo").stat().st_size
    )
    change(run_dir, "report.json", warnings=["see /home/me/secret.txt"])
    with pytest.raises(UserError, match="/home/me/secret.txt"):
        prepared(run_dir)


def test_commands_lose_their_paths_and_keep_their_settings():
    assert public_command(
        "python /opt/x/recipes/finetune.py model=a/b.nemo data.train=x.jsonl "
        "'evaluation.interpolation=[0.5]'"
    ) == ("python finetune.py model=... data.train=... 'evaluation.interpolation=[0.5]'")
    assert private_paths("https://example.org/home/x 1/2 a/data/b and '/mnt/x y'") == ["/mnt/x"]


def test_a_licence_is_never_invented():
    with pytest.raises(UserError, match="--licence cc-by-4.0"):
        licence_of("mine/model.nemo", None)
    assert (
        licence_of("mine/model.nemo", "mit") == "mit"
        and licence_of("nvidia/parakeet-tdt-0.6b-v3", None) == "cc-by-4.0"
    )
    assert base_model_of("mine/model.nemo", None) is None and base_model_of("tiny", None) is None
    assert base_model_of("x.nemo", "nvidia/parakeet-ctc-0.6b") == "nvidia/parakeet-ctc-0.6b"
    with pytest.raises(UserError, match="hub id"):
        base_model_of("x.nemo", "no id")


def test_every_named_checkpoint_has_a_licence_by_name_and_by_hub_id():
    for name in CHECKPOINTS:
        assert licence_of(name, None) == licence_of(resolve(name), None)
    assert base_model_of("x.nemo", "parakeet_ctc_0.6b") == "nvidia/parakeet-ctc-0.6b"


def test_hours_are_of_the_very_manifest_or_not_known(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a", "duration": 1800, "text": "x"}\n' * 2)
    known = {"train": {"path": str(path), "sha256": manifest_hash(path)}}
    assert data_facts(known)[0] == {
        "role": "training",
        "sha256": known["train"]["sha256"],
        "utterances": 2,
        "hours": 1.0,
        "speakers": None,
    }
    path.write_text('{"audio_filepath": "a", "duration": 1800, "text": "y"}\n')
    assert data_facts(known)[0]["hours"] is None


def judged(**changes):
    """A candidate of a report."""
    known = {"gain": 0.5, "gain_low": 0.4, "gain_high": 0.6, "loss": 0.01, "refused": False}
    known |= {"loss_low": -0.01, "loss_high": 0.03, "worst_guard": "guard"}
    return {"weights": "x", "description": "a <b>", "judgement": known | changes}


def test_the_picture_of_the_choice_is_a_file_that_stands_alone(run_dir):
    change(run_dir, "report.json", candidates=[judged(), judged(refused=True)])
    folder, files, _ = prepared(run_dir)
    assert "](frontier.svg)" in (folder / "README.md").read_text() and "frontier.svg" in files
    picture = ElementTree.parse(folder / "frontier.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    kinds = [group.get("class") for group in picture.iter("{http://www.w3.org/2000/svg}g")]
    assert kinds == ["candidate refused", "candidate chosen"]
    change(run_dir, "report.json", candidates=[judged(gain="much")])
    with pytest.raises(UserError, match="candidates.judgement.gain is str"):
        prepared(run_dir)


def test_a_widget_plays_the_recordings_that_are_given_and_no_other(run_dir):
    (utterance, *_) = read_manifest(DEMO / "guard.jsonl")
    recording = Path(utterance.audio_filepath)
    folder, files, _ = prepared(run_dir, examples=[recording])
    (shown,) = ModelCard.load(folder / "README.md").data.to_dict()["widget"]
    name = f"examples/{recording.name}"
    assert shown["src"] == f"https://huggingface.co/me/parakeet-mine/resolve/main/{name}"
    assert (folder / name).read_bytes() == recording.read_bytes() and name in files
    assert "widget" not in (prepared(run_dir)[0] / "README.md").read_text()
    with pytest.raises(UserError, match="--example"):
        prepared(run_dir, examples=[DEMO / "tiny.nemo"])


def test_a_space_is_written_beside_and_named_in_the_card(run_dir, calls, capsys):
    command = [str(run_dir), "--repo", "me/parakeet-mine", "--space", "me/demo"]
    publish.main(command)
    assert calls == [] and "Would upload to the Space me/demo" in capsys.readouterr().out
    assert "(https://huggingface.co/spaces/me/demo)" in (run_dir / "publish/README.md").read_text()
    assert (run_dir / "space" / "app.py").is_file()
    publish.main([*command, "--push"])
    assert [given["repo_id"] for _, given in calls] == ["me/parakeet-mine"] * 2 + ["me/demo"] * 2
    with pytest.raises(UserError, match="--space"):
        prepared(run_dir, space="no name")


class Calls(list):
    def record(self, name, returned=None):
        return lambda api, **arguments: self.append((name, arguments)) or returned


@pytest.fixture
def calls(monkeypatch):
    found = Calls()
    monkeypatch.setattr(
        HfApi, "create_repo", found.record("create_repo", "https://hub/me/parakeet-mine")
    )
    monkeypatch.setattr(HfApi, "upload_folder", found.record("upload_folder"))
    return found


def test_nothing_is_uploaded_without_push(run_dir, calls, capsys):
    publish.main([str(run_dir), "--repo", "me/parakeet-mine"])
    shown = capsys.readouterr().out
    assert (
        calls == []
        and "Would upload" in shown
        and "parakeet-mine.nemo" in shown
        and "Nothing was uploaded" in shown
    )
    assert {p.name for p in (run_dir / "publish").iterdir()} == {
        "README.md",
        "parakeet-mine.nemo",
        "files.json",
    }


@pytest.mark.parametrize("public", [True, False])
def test_push_makes_the_repository_and_uploads_card_and_model_only(public, run_dir, calls, capsys):
    publish.main(
        [str(run_dir), "--repo", "me/parakeet-mine", "--push", *(["--public"] if public else [])]
    )
    (first, made), (second, sent) = calls
    assert (first, second) == ("create_repo", "upload_folder")
    assert made == {
        "repo_id": "me/parakeet-mine",
        "repo_type": "model",
        "private": not public,
        "exist_ok": True,
        "space_sdk": None,
    }
    assert sent["repo_id"] == "me/parakeet-mine" and sent["folder_path"] == str(run_dir / "publish")
    assert (
        sorted(sent["allow_patterns"]) == ["README.md", "parakeet-mine.nemo"]
        and "https://hub/me/parakeet-mine" in capsys.readouterr().out
    )


def test_a_refusal_of_the_hub_is_told_in_words(run_dir, monkeypatch):
    def refuse(api, **arguments):
        raise OSError("403 Forbidden: you may not write here\nRequest ID: 1")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(
        UserError, match=r"was not published \(OSError: 403 Forbidden: you may not write here\)"
    ):
        push(Folder(run_dir, {}), repo="me/x", public=False)


@pytest.mark.parametrize(
    ("missing", "words"), [("report.json", "No report.json"), ("best.nemo", "No best.nemo")]
)
def test_an_unfinished_run_is_refused(missing, words, run_dir):
    (run_dir / missing).unlink()
    with pytest.raises(UserError, match=words):
        prepared(run_dir)


def test_a_name_that_is_no_repository_and_an_unknown_language_are_refused(run_dir):
    with pytest.raises(UserError, match="organisation/name"):
        prepare(run_dir, repo="mine", licence=None, base_model=None, language=None)
    change(run_dir, "run.json", config={"model": {"source": "tiny"}})
    with pytest.raises(UserError, match="--language"):
        prepared(run_dir)


def test_digits_that_the_normaliser_joins_are_published_with_one_wer(run_dir):
    digits = {
        "wer": 0.2,
        "wer_normalized": 0.65,
        "cer": 0.1,
        "words": 494,
        "words_normalized": 100,
        "normalizer": "x",
    }
    change(run_dir, "report.json", baseline={"domain": digits}, tuned={"domain": digits})
    prepared(run_dir)
    card = (run_dir / "publish" / "README.md").read_text()
    assert (
        card.count("type: wer") == 1 and "65.0" not in card and "joined 494 words into 100" in card
    )
