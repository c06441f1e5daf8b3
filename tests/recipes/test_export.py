"""recipes/export.py as a user starts it: what is written, what is not, and why."""

import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.export import parity
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
    assert capfd.readouterr().out.count("4 of 4 clips") >= 3


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


def test_a_format_that_cannot_hold_the_model_is_refused_and_the_others_are_written(
    monkeypatch, tmp_path, tiny_nemo, speech, capfd
):
    manifest = speech(count=2)
    assert (
        start(
            monkeypatch,
            tiny_nemo("rnnt"),
            "--to",
            "transformers,nemo",
            "--out",
            tmp_path / "out",
            "--check",
            manifest,
        )
        == 1
    )
    assert "CTC heads only" in capfd.readouterr().out and tree(tmp_path / "out") == {
        "export.log",
        "tiny_rnnt.nemo",
    }


def test_int8_is_judged_by_the_rise_of_its_wer(tmp_path):
    clips = parity.read_clips("2")
    texts = [clip.text for clip in clips]
    worse = [texts[0], "all wrong"]
    judged = {
        limit: parity.compare(
            "onnx-int8", lambda _: worse, clips, expected=texts, where=tmp_path, max_wer_rise=limit
        )
        for limit in (0.1, 0.9)
    }
    assert not judged[0.1].accepted and judged[0.9].accepted
    assert judged[0.1].model_wer == 0 < judged[0.1].wer == judged[0.1].disagreement


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tiny", "--to", "onnx,tflite"], "tflite"),
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
