"""recipes/transcribe.py as a user starts it: exact files, order, resuming, errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import soundfile

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.files import DEMO
from parakeet_ft.transcription import decode as decode_module
from parakeet_ft.transcription import long_audio
from recipes import transcribe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four files that can be read, one that cannot, one silent, one without samples."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, utterance in enumerate(read_manifest(DEMO / "guard.jsonl")[:4]):
        soundfile.write(folder / f"speech{number}.wav", read_audio(utterance.audio_filepath), 16000)
    (folder / "broken.mp3").write_bytes(b"no audio in here" * 100)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    (folder / "empty.wav").touch()
    return folder


def start(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["recipes/transcribe.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        transcribe.main()
    return end.value.code or 0


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()]


def test_all_that_can_be_read_is_written_and_what_cannot_is_named(
    folder, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "out"
    assert start(monkeypatch, "tiny", folder, "--out", out, "--format", "txt,srt,vtt,ctm,json") == 1
    printed = capfd.readouterr()
    assert (
        "1 could not be transcribed" in printed.err
        and "broken" in printed.err
        and "RTFx" in printed.out
        and "2 without a word: empty, silent\n" in printed.out
    )
    names = ["empty", "silent", "speech0", "speech1", "speech2", "speech3"]
    made = {".lock", "progress.jsonl", "transcribe.log", "transcripts.jsonl"} | {
        f"{name}.{kind}" for name in names for kind in ("txt", "srt", "vtt", "ctm", "json")
    }
    assert {path.name for path in out.iterdir()} == made
    assert [Path(row["audio_filepath"]).stem for row in rows(out)] == names
    for row in rows(out):
        name = Path(row["audio_filepath"]).stem
        assert (out / f"{name}.txt").read_text() == row["pred_text"] + "\n"
        events, words = (
            pysubs2.load(str(out / f"{name}.srt"), format_="srt"),
            json.loads((out / f"{name}.json").read_text())["words"],
        )
        assert [e.text for e in events] == [
            e.text for e in pysubs2.load(str(out / f"{name}.vtt"), format_="vtt")
        ]
        assert (
            " ".join(e.text.replace("\\N", " ") for e in events).split()
            == row["pred_text"].split()
            == [w["word"] for w in words]
        )
        assert all(0 <= w["start"] <= w["end"] <= row["duration"] + 1e-3 for w in words)
        ctm = [line.split() for line in (out / f"{name}.ctm").read_text().splitlines()]
        assert all(
            float(begin) + float(seconds) <= row["duration"] + 2e-3
            for _, _, begin, seconds, _ in ctm
        ) and len(ctm) == len(words)
    assert [row["pred_text"] == "" for row in rows(out)] == [True, True, False, False, False, False]


def test_of_many_recordings_without_a_word_the_first_are_named(tmp_path, monkeypatch, capfd):
    for number in range(8):
        soundfile.write(tmp_path / f"s{number}.wav", np.zeros(1600), 16000)
    assert start(monkeypatch, "tiny", tmp_path, "--out", tmp_path / "out") == 0
    assert "8 without a word: s0, s1, s2, s3, s4 and 3 more\n" in capfd.readouterr().out


def test_a_gpu_that_is_asked_for_and_not_there_is_told(folder, tmp_path, monkeypatch, capfd):
    arguments = ("tiny", folder / "speech0.wav", "--out", tmp_path, "--device", "cuda:0")
    assert start(monkeypatch, *arguments) == 2
    assert "--device cuda:0, but torch sees no GPU here" in capfd.readouterr().err


def test_a_killed_run_goes_on_without_doing_anything_twice(folder, tmp_path, monkeypatch):
    files = [folder / f"speech{number}.wav" for number in (2, 0, 3, 1)]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(monkeypatch, "tiny", *files, "--out", whole, "--format", "txt,json") == 0

    decode, heard = decode_module.decode, []

    def killed(model, audio, lengths, **told):
        if len(heard) == 2:
            raise KeyboardInterrupt
        heard.append(len(lengths))
        return decode(model, audio, lengths, **told)

    monkeypatch.setattr(decode_module, "decode", killed)
    arguments = ("tiny", *files, "--out", out, "--format", "txt,json", "--batch-seconds", 0.1)
    assert start(monkeypatch, *arguments) == 130
    with (out / "progress.jsonl").open("a") as torn:
        torn.write('{"key": "torn by the ki')
    assert sorted(path.suffix for path in out.glob("speech*")) == [".json", ".json", ".txt", ".txt"]
    monkeypatch.setattr(
        decode_module,
        "decode",
        lambda *inputs, **told: heard.append(1) or decode(*inputs, **told),
    )
    assert start(monkeypatch, *arguments) == 0 and heard == [1, 1, 1, 1]
    for path in [*whole.glob("speech*"), whole / "transcripts.jsonl"]:
        assert (out / path.name).read_bytes() == path.read_bytes()
    monkeypatch.setattr(long_audio, "transcribe_recordings", None)
    assert start(monkeypatch, *arguments) == 0, "a finished run loads no model"


def test_another_model_does_not_mix_its_transcripts_in(
    folder, tmp_path, monkeypatch, tiny_nemo, capfd
):
    assert start(monkeypatch, "tiny", folder / "silent.wav", "--out", tmp_path) == 0
    assert start(monkeypatch, tiny_nemo("ctc"), folder / "silent.wav", "--out", tmp_path) == 2
    assert "another model" in capfd.readouterr().err


def test_a_manifest_comes_back_with_its_fields_and_texts_in_its_order(
    folder, tmp_path, monkeypatch
):
    lines = [
        {
            "audio_filepath": str(folder / f"speech{number}.wav"),
            "duration": 1.5,
            "offset": offset,
            "speaker": f"s{number}",
        }
        for number, offset in ((3, 0.5), (1, 0.0), (3, 0.0))
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        start(
            monkeypatch,
            "tiny_tdt_ctc",
            tmp_path / "m.jsonl",
            "--out",
            tmp_path / "out",
            "--head",
            "ctc",
        )
        == 0
    )
    found = rows(tmp_path / "out")
    assert [(row["speaker"], row.get("offset", 0.0), row["duration"]) for row in found] == [
        ("s3", 0.5, 1.5),
        ("s1", 0.0, 1.5),
        ("s3", 0.0, 1.5),
    ]
    assert found[0]["pred_text"] != found[2]["pred_text"]


def test_a_long_recording_is_cut_and_comes_back_in_one_piece(tmp_path, monkeypatch):
    audio = [read_audio(u.audio_filepath) for u in read_manifest(DEMO / "guard.jsonl")[:10]]
    samples = np.concatenate(
        [part for sample in audio for part in (sample, np.zeros(8000, dtype=np.float32))]
    )
    monkeypatch.setattr(long_audio, "SHORT_SECONDS", 10.0)
    monkeypatch.setattr(long_audio, "CHUNK_SECONDS", 10.0)
    soundfile.write(tmp_path / "long.flac", samples, 16000)
    assert (
        start(
            monkeypatch,
            "tiny",
            tmp_path / "long.flac",
            "--out",
            tmp_path / "out",
            "--format",
            "txt,json",
            "--long-audio",
            "chunked",
        )
        == 0
    )
    plan = next(
        row
        for row in map(json.loads, (tmp_path / "out" / "progress.jsonl").read_text().splitlines())
        if "parts" in row
    )
    written = json.loads((tmp_path / "out" / "long.json").read_text())
    begins = [word["start"] for word in written["words"]]
    assert (
        len(plan["parts"]) >= 3
        and begins == sorted(begins)
        and 0.7 * written["duration"] < begins[-1] < written["duration"]
    )
    assert (
        written["duration"] == pytest.approx(len(samples) / 16000, abs=0.01)
        and written["text"] + "\n" == (tmp_path / "out" / "long.txt").read_text()
    )


def test_a_disk_that_takes_no_more_is_told_in_words_and_what_is_written_is_whole(
    folder, tmp_path, monkeypatch, capfd, largest_file_once_restored
):
    files = [folder / f"speech{number}.wav" for number in range(4)]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(monkeypatch, "tiny", *files, "--out", whole, "--format", "json") == 0
    capfd.readouterr()
    largest_file_once_restored((whole / "progress.jsonl").stat().st_size - 100)
    arguments = ("tiny", *files, "--out", out, "--format", "json", "--batch-seconds", 0.1)
    assert start(monkeypatch, *arguments) == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and f"error: {out}" in told and "may not be that large" in told
    assert [path.name for path in out.glob(".*")] in ([], [".lock"]) and not (
        out / "transcripts.jsonl"
    ).exists()
    for path in (written := list(out.glob("speech*"))):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    assert written


def test_a_place_that_takes_no_files_is_told_before_anything_is_restored(
    folder, tmp_path, on_a_disk
):
    arguments = ("tiny", folder / "silent.wav", "--out", tmp_path / "disk" / "out")
    done = on_a_disk("ro", tmp_path / "disk", "recipes/transcribe.py", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Read-only" in done.stderr and "another --out" in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tiny", "nowhere.wav"], "Nothing at nowhere.wav"),
        (["nowhere.nemo", "README.md"], "No model at nowhere.nemo"),
        (["tiny", "README.md", "--format", "txt,docx"], "docx"),
        (["tiny", "README.md", "--batch-seconds", "0"], "above 0"),
        (["tiny", "README.md", "--device", "gpu"], "expected cpu, cuda or cuda:1"),
    ],
)
def test_mistakes_are_told_before_torch_is_imported(arguments, message, tmp_path):
    code = (
        f"import sys, runpy; sys.argv = ['transcribe.py', *{arguments!r}, '--out', "
        f"{str(tmp_path / 'out')!r}]\n"
        "try: runpy.run_path('recipes/transcribe.py', run_name='__main__')\nfinally: print('torch' "
        "in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (
        (done.returncode, done.stdout.strip()) == (2, "False")
        and message in done.stderr
        and not (tmp_path / "out").exists()
    )
