"""recipes/export.py as a user starts it: what is written, what is not, and why."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.export import formats, parity
from parakeet_ft.export.formats import check_formats
from parakeet_ft.export.onnx import onnx_kind
from parakeet_ft.files import workspace
from recipes import export

ROOT = Path(__file__).resolve().parents[2]


def start(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["recipes/export.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        export.main()
    return end.value.code or 0


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_each_format_of_a_ctc_model_is_checked_and_written(
    monkeypatch, tmp_path, tiny_nemo, speech, capfd
):
    assert (
        start(
            monkeypatch,
            tiny_nemo("ctc"),
            "--to",
            "nemo,onnx,onnx-int8,transformers",
            "--out",
            tmp_path,
            "--check",
            speech(count=4),
            "--max-wer-rise",
            0.5,
        )
        == 0
    )
    assert tree(tmp_path) == {
        "export.log",
        "exports.json",
        "tiny_ctc.nemo",
        *(f"onnx/{name}" for name in ("model.onnx", "vocab.txt", "config.json")),
        *(f"onnx-int8/{name}" for name in ("model.int8.onnx", "vocab.txt", "config.json")),
        *(
            f"transformers/{name}"
            for name in (
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "processor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
            )
        ),
    }
    assert capfd.readouterr().out.count("4 of 4 clips of manifest.jsonl transcribed") >= 3


def test_a_restored_nemo_transcribes_the_same_in_plain_nemo(
    monkeypatch, tmp_path, tiny_nemo, speech
):
    from nemo.collections.asr.models import ASRModel

    manifest = speech(count=2)
    assert (
        start(
            monkeypatch,
            tiny_nemo("hybrid"),
            "--to",
            "nemo",
            "--out",
            tmp_path,
            "--check",
            manifest,
            "--name",
            "tuned",
        )
        == 0
    )
    clips = read_manifest(manifest)
    model, _ = parity.greedy_model(str(tiny_nemo("hybrid")), head="auto")
    plain = ASRModel.restore_from(str(tmp_path / "tuned.nemo"), map_location="cpu").eval()
    theirs = [
        h.text for h in plain.transcribe([clip.audio_filepath for clip in clips], verbose=False)
    ]
    assert parity.transcribe_clips(model, clips) == theirs and all(theirs)


def test_an_export_with_another_text_is_not_written_and_the_one_before_stays(
    monkeypatch, tmp_path, tiny_nemo, speech, capfd
):
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "onnx" / "before").write_text("kept")
    write = parity.WRITERS["onnx"]

    def write_with_another_text(*where):
        recognize = write(*where)
        return lambda clips: ["other words", *recognize(clips)[1:]]

    monkeypatch.setitem(parity.WRITERS, "onnx", write_with_another_text)
    assert (
        start(
            monkeypatch,
            tiny_nemo("ctc"),
            "--to",
            "onnx",
            "--out",
            tmp_path / "out",
            "--check",
            speech(count=3),
        )
        == 1
    )
    assert (
        "2 of 3 clips" in (printed := capfd.readouterr().out)
        and "NOT WRITTEN" in printed
        and "other words" in printed
    )
    assert tree(tmp_path / "out") == {"export.log", "onnx/before"}


def test_an_export_that_crashes_leaves_nothing(monkeypatch, tmp_path, tiny_nemo, speech):
    def crash(source, folder, head):
        folder.mkdir()
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setitem(parity.WRITERS, "onnx", crash)
    clips = read_manifest(speech(count=1))
    with pytest.raises(OSError, match="disk full"):
        parity.export_checked(
            str(tiny_nemo("ctc")),
            "onnx",
            tmp_path,
            clips=clips,
            expected=[""],
            head="ctc",
            name="x",
        )
    assert not any(tmp_path.iterdir())


def test_every_format_takes_the_head_of_a_hybrid_that_it_can_hold(
    monkeypatch, tmp_path, tiny_nemo, speech, capfd
):
    every = "nemo,onnx,onnx-int8,transformers"
    arguments = ("--out", tmp_path, "--check", speech(count=2), "--max-wer-rise", 1)
    assert start(monkeypatch, tiny_nemo("hybrid"), "--to", every, *arguments) == 0
    heads = [line.split(" by the ")[1].split(" head")[0] for line in shown(capfd)]
    assert heads == ["transducer", "transducer", "transducer", "CTC"]
    assert start(monkeypatch, tiny_nemo("hybrid"), "--to", every, "--head", "ctc", *arguments) == 0
    assert all("by the CTC head" in line for line in shown(capfd))
    assert (tmp_path / "onnx" / "model.onnx").is_file(), "the CTC head is one network"


def test_bundled_clips_are_not_taken_for_ones_own():
    assert parity.clips_named("12") == "clips of the bundled demo"
    assert parity.clips_named("some/test.jsonl") == "clips of test.jsonl"


def shown(capfd) -> list[str]:
    return [line for line in capfd.readouterr().out.splitlines() if "transcribed alike" in line]


def test_exported_files_have_the_mode_of_any_new_file(monkeypatch, tmp_path, tiny_nemo, speech):
    before = os.umask(0o027)
    try:
        arguments = ("--to", "nemo,transformers", "--out", tmp_path, "--check", speech(count=1))
        assert start(monkeypatch, tiny_nemo("ctc"), *arguments) == 0
    finally:
        os.umask(before)
    files = [tmp_path / "tiny_ctc.nemo", *(tmp_path / "transformers").iterdir()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
        path.name: "0o640" for path in files
    }
    assert (tmp_path / "transformers").stat().st_mode & 0o777 == 0o750


def test_what_a_killed_export_left_is_gone_after_the_next_one(
    monkeypatch, tmp_path, tiny_nemo, speech
):
    code = (
        "import os, sys; from pathlib import Path; from parakeet_ft.files import workspace\n"
        "with workspace(Path(sys.argv[1])) as own:\n"
        "    (own / 'half.nemo').touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT)
    (left,) = (tmp_path / "out").iterdir()
    assert (left / "half.nemo").is_file()
    with workspace(tmp_path / "out") as alive:
        (alive / "growing.nemo").touch()
        arguments = ("--to", "nemo", "--out", tmp_path / "out", "--check", speech(count=1))
        assert start(monkeypatch, tiny_nemo("ctc"), *arguments) == 0
        assert not left.exists() and (alive / "growing.nemo").is_file()
    assert tree(tmp_path / "out") == {"export.log", "exports.json", "tiny_ctc.nemo"}


@pytest.mark.parametrize("target", ["nemo", "onnx", "transformers"])
def test_a_disk_that_takes_no_more_is_told_in_words_and_nothing_is_half_written(
    target, monkeypatch, tmp_path, tiny_nemo, speech, capfd, largest_file_once_restored
):
    model, clips, out = tiny_nemo("ctc"), speech(count=1), tmp_path / "out"
    largest_file_once_restored(100_000)
    assert start(monkeypatch, model, "--to", target, "--out", out, "--check", clips) == 2
    told = capfd.readouterr().err
    assert f"error: {out}" in told and "Traceback" not in told
    assert "may not be that large" in told or "could not be written whole" in told
    assert [path.name for path in out.iterdir()] == ["export.log"]


def test_a_full_disk_where_nemo_unpacks_a_model_is_told_as_such(tmp_path, tiny_nemo, largest_file):
    model = str(tiny_nemo("ctc"))
    largest_file(100_000)
    with pytest.raises(UserError, match=tempfile.gettempdir()):
        parity.greedy_model(model, head="ctc")


def test_a_full_disk_inside_a_librarys_error_is_told_in_words(monkeypatch, tmp_path):
    def full(source, folder, head):
        folder.mkdir()
        raise ValueError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setitem(parity.WRITERS, "onnx", full)
    with pytest.raises(UserError, match=f"{tmp_path}/onnx: the disk is full"):
        parity.export_checked("x", "onnx", tmp_path, clips=[], expected=[], head="ctc", name="x")
    assert not any(tmp_path.iterdir())


def test_a_place_that_takes_no_files_is_told_before_anything_is_restored(tmp_path, on_a_disk):
    arguments = ("recipes/export.py", "tiny", "--to", "nemo", "--out", tmp_path / "disk" / "out")
    done = on_a_disk("ro", tmp_path / "disk", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "the file system is read-only" in done.stderr


def test_int8_is_judged_by_the_rise_of_its_wer(tmp_path):
    clips = parity.read_clips("2")
    texts = [clip.text for clip in clips]
    worse = [texts[0], "all wrong"]
    judged = {
        limit: parity.compare(
            "onnx-int8",
            lambda _: worse,
            clips,
            expected=texts,
            head="ctc",
            where=tmp_path,
            max_wer_rise=limit,
        )
        for limit in (0.1, 0.9)
    }
    assert not judged[0.1].accepted and judged[0.9].accepted
    assert judged[0.1].model_wer == 0 < judged[0.1].wer == judged[0.1].disagreement


@pytest.mark.parametrize(
    "family, target, head, words",
    [
        ("rnnt", "transformers", "auto", "CTC heads only.*Leave transformers out"),
        ("tdt", "onnx", "ctc", "only a transducer head"),
        ("hybrid", "transformers", "transducer", "Give --head ctc"),
    ],
)
def test_a_format_that_cannot_hold_the_model_or_its_head_is_refused_with_what_to_give(
    family, target, head, words, tiny_nemo
):
    with pytest.raises(UserError, match=words):
        check_formats(tiny_nemo(family), ["nemo", target], head=head)


def test_onnx_without_its_packages_is_refused_with_what_to_install(monkeypatch, tiny_nemo):
    monkeypatch.setattr(formats, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r"needs no-such-package.*parakeet-ft\[export\]"):
        check_formats(tiny_nemo("ctc"), ["onnx-int8"], head="auto")


def test_values_that_a_configuration_names_elsewhere_are_found():
    config = {
        "durations": [0, 1, 2, 4],
        "rate": 16000,
        "preprocessor": {"features": 80, "sample_rate": "${rate}", "window_size": 0.025}
        | {"window_stride": 0.01, "normalize": "per_feature"},
        "joint": {"num_extra_outputs": 4},
        "loss": {"tdt_kwargs": {"durations": "${durations}"}},
    }
    with pytest.raises(UserError, match=r"\[0, 1, 2, 4\]. Leave onnx and onnx-int8 out"):
        onnx_kind(formats.resolved(config), head="transducer")
    assert formats.resolved({"a": "${gone}"}) == {"a": "${gone}"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tiny", "--to", "onnx,tflite"], "tflite"),
        (["tiny_tdt_ctc", "--to", "nemo,transformers", "--head", "transducer"], "Give --head ctc"),
        (["tiny", "--to", "nemo", "--head", "transducer"], "has only a ctc head"),
        (["nowhere.nemo", "--to", "onnx"], "No model at nowhere.nemo"),
        (["tiny", "--to", "onnx", "--check", "0"], "--check 0"),
        (["tiny", "--to", "onnx", "--check", "nowhere.jsonl"], "No manifest"),
    ],
)
def test_mistakes_are_told_before_torch_is_imported(arguments, message, tmp_path):
    code = (
        f"import sys, runpy; sys.argv = ['export.py', *{arguments!r}, '--out', "
        f"{str(tmp_path / 'out')!r}]\n"
        "try: runpy.run_path('recipes/export.py', run_name='__main__')\nfinally: print('torch' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (
        (done.returncode, done.stdout.strip()) == (2, "False")
        and message in done.stderr
        and not (tmp_path / "out").exists()
    )
