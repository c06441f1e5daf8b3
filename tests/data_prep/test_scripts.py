"""The scripts as a user runs them: every help, exit codes, files, messages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    p for p in (ROOT / "data_prep").glob("[!_]*.py") if not p.name.startswith("synthesize")
)


def call(script, *arguments, check=None):
    done = subprocess.run(
        [sys.executable, str(ROOT / "data_prep" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def write_audio(path, seconds=1.0, seed=0, rate_hz=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate_hz)), rate_hz
    )
    return path


@pytest.fixture
def table(tmp_path):
    lines = ["path,text,speaker"]
    for i in range(12):
        write_audio(tmp_path / "in" / f"{i}.wav", seed=i)
        lines.append(f"{i}.wav,sentence number {i},s{i % 4}")
    (tmp_path / "in" / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "in" / "t.csv"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("script", [p.name for p in SCRIPTS])
def test_every_script_has_a_short_help_with_its_command(script):
    done = call(script, "--help", check=0)
    assert f"python data_prep/{script}" in done.stdout


def test_a_table_becomes_manifests_a_report_and_a_summary(table, tmp_path):
    done = call("from_table.py", table, "--out", tmp_path / "out", "--jobs", 1, check=0)
    assert "train" in done.stdout and "No speaker's hash fell into" in done.stdout
    counts = {
        split: len(lines(tmp_path / "out" / f"{split}.jsonl")) for split in ("train", "dev", "test")
    }
    assert counts == {"train": 6, "dev": 3, "test": 3}
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        "data:audio/mpeg;base64," in page
        and "http" not in page.replace("http-equiv", "")
        and page.count("<svg") == 3
    )


def test_too_many_dropped_is_exit_code_1_and_names_the_share(table, tmp_path):
    for i in range(3):
        (table.parent / f"{i}.wav").write_bytes(b"")
    done = call("from_table.py", table, "--out", tmp_path / "out", "--jobs", 1, check=1)
    assert "25.0 % of the utterances were dropped" in done.stderr and "zero_bytes" in done.stdout
    assert {line["reason"] for line in lines(tmp_path / "out" / "dropped.jsonl")} == {"zero_bytes"}
    call(
        "from_table.py",
        table,
        "--out",
        tmp_path / "out",
        "--jobs",
        1,
        "--max-dropped",
        0.3,
        check=0,
    )


def test_recordings_without_any_text_say_where_texts_are_expected(tmp_path):
    write_audio(tmp_path / "in" / "a.wav")
    done = call("from_folder.py", tmp_path / "in", "--out", tmp_path / "out", "--jobs", 1, check=1)
    assert "dropped were 1 empty_text" in done.stderr
    assert "a.txt for a.wav" in done.stderr and "transcribe.py" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "No table at nowhere.csv"),
        (["TABLE", "--text-column", "words"], "has no column 'words'"),
        (["TABLE", "--test-speakers", "bob"], "No utterance of bob; the data has s0, s1, s2, s3"),
        (
            ["TABLE", "--test-speakers", "bob", "--split-by", "sentence"],
            "No utterance of bob; the data has s0, s1, s2, s3",
        ),
        (["TABLE", "--dev-share", "0.6", "--test-share", "0.6"], "sum is below 1"),
        (
            [
                "TABLE",
                "--split-by",
                "speaker",
                "--speaker-column",
                "text",
                "--tokenizer",
                "no.nemo",
            ],
            "no.nemo",
        ),
    ],
)
def test_bad_input_is_exit_code_2_with_what_was_found(table, tmp_path, arguments, message):
    done = call(
        "from_table.py",
        *[str(table) if a == "TABLE" else a for a in arguments],
        "--out",
        tmp_path / "out",
        "--jobs",
        1,
        check=2,
    )
    assert message in done.stderr and done.stderr.startswith("error: ")


def test_the_tokenizer_of_a_checkpoint_drops_what_it_cannot_write(table, tmp_path, tiny_nemo):
    text = table.read_text().replace("sentence number 0,", "Ωmega,").replace("number", "is")
    table.write_text("".join(c for c in text.replace("sentence is ", "it is ")))
    done = call(
        "from_table.py",
        table,
        "--out",
        tmp_path / "out",
        "--jobs",
        1,
        "--tokenizer",
        tiny_nemo("ctc"),
        "--max-dropped",
        1,
    )
    dropped = {line["text"]: line["reason"] for line in lines(tmp_path / "out" / "dropped.jsonl")}
    assert dropped["Ωmega"] == "unknown_chars" and done.returncode in (0, 1)


def test_check_passes_good_manifests_and_writes_nothing_beside_its_report(table, tmp_path):
    call("from_table.py", table, "--out", tmp_path / "out", "--jobs", 1, check=0)
    manifests = [tmp_path / "out" / f"{split}.jsonl" for split in ("train", "dev", "test")]
    before = [m.read_bytes() for m in manifests]
    call("check.py", *manifests, "--out", tmp_path / "check", "--jobs", 1, check=0)
    assert (
        sorted(p.name for p in (tmp_path / "check").iterdir()) == [".ledger.sqlite", "report.html"]
        and [m.read_bytes() for m in manifests] == before
    )


@pytest.mark.parametrize("quick", [False, True])
def test_check_finds_what_is_wrong_and_says_so_by_exit_code(table, tmp_path, quick):
    good = [
        {"audio_filepath": f"{i}.wav", "duration": 1.0, "text": f"sentence number {i}"}
        for i in range(12)
    ]
    bad = [
        {"audio_filepath": "gone.wav", "duration": 1.0, "text": "x y z"},
        {"audio_filepath": "3.wav", "duration": 1.0, "text": ""},
        {"audio_filepath": "4.wav", "duration": 9.0, "text": "longer than its file"},
    ]
    train, test = table.parent / "my_train.json", table.parent / "my_test.json"
    train.write_text("".join(json.dumps(line) + "\n" for line in good + bad) + "{broken\n")
    test.write_text(json.dumps(good[5]) + "\n")
    done = call(
        "check.py",
        train,
        test,
        "--out",
        tmp_path / "check",
        "--jobs",
        1,
        *(["--quick"] if quick else []),
        check=1,
    )
    for reason in ("missing", "empty_text", "bad_row"):
        assert f"dropped: {reason}" in done.stdout
    assert ("1 of 13 sampled durations are wrong" if quick else "wrong_duration") in done.stdout
    assert ("1 utterances of" if quick else "duplicate_audio") in done.stdout
    assert call("check.py", tmp_path / "none.json", check=2).stderr.startswith(
        "error: No manifest at"
    )


def test_check_writes_what_is_left_with_real_durations(table, tmp_path):
    (table.parent / "train.json").write_text(
        "".join(
            json.dumps(
                {"audio_filepath": f"{i}.wav", "duration": 1.1, "text": f"sentence number {i}"}
            )
            + "\n"
            for i in range(5)
        )
    )
    call(
        "check.py",
        table.parent / "train.json",
        "--out",
        tmp_path / "check",
        "--jobs",
        1,
        "--write",
        check=0,
    )
    found = lines(tmp_path / "check" / "train.jsonl")
    assert [line["duration"] for line in found] == [1.0] * 5 and found[0]["audio_filepath"] == str(
        table.parent / "0.wav"
    )


def test_split_keeps_every_line_and_its_fields(table, tmp_path):
    (table.parent / "all.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "audio_filepath": f"{i}.wav",
                    "duration": 1.0,
                    "text": f"number {i}",
                    "speaker": f"s{i % 6}",
                    "k": i,
                }
            )
            + "\n"
            for i in range(12)
        )
    )
    call(
        "split.py",
        table.parent / "all.jsonl",
        "--out",
        tmp_path / "out",
        "--test-speakers",
        "s1,s2",
        check=0,
    )
    found = {
        split: lines(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "dev", "test")
    }
    assert {line["speaker"] for line in found["test"]} == {"s1", "s2"} and sorted(
        line["k"] for part in found.values() for line in part
    ) == list(range(12))
    assert not {line["speaker"] for line in found["train"]} & {
        line["speaker"] for line in found["dev"]
    }


def test_shards_and_non_speech_from_the_command_line(table, tmp_path):
    call(
        "non_speech.py", "--hours", 0.005, "--max-seconds", 3, "--out", tmp_path / "noise", check=0
    )
    done = call(
        "shard.py",
        tmp_path / "noise" / "train.jsonl",
        "--out",
        tmp_path / "shards",
        "--hours",
        0.002,
        "--jobs",
        1,
        check=0,
    )
    assert "3 shards" in done.stdout and (tmp_path / "shards" / "audio_2.tar").is_file()
    assert "No manifest" in call("shard.py", "none.jsonl", "--out", tmp_path / "x", check=2).stderr


def demo_speech(folder, count=6, gap_seconds=1.0):
    """A recording of some of the demo's sentences with pauses -> [(begin, end, text)] in
    seconds.
    """
    from parakeet_ft.data.audio import read_audio
    from parakeet_ft.data.manifest import read_manifest

    folder.mkdir(parents=True)
    parts, places, at = [np.zeros(16000, dtype=np.float32)], [], 1.0
    for utterance in read_manifest(ROOT / "parakeet_ft" / "demo" / "guard.jsonl")[:count]:
        samples = read_audio(utterance.audio_filepath)
        places.append((at, at + len(samples) / 16000, utterance.text))
        parts += [samples, np.zeros(int(gap_seconds * 16000), dtype=np.float32)]
        at += len(samples) / 16000 + gap_seconds
    soundfile.write(folder / "talk.flac", np.concatenate(parts), 16000)
    (folder / "talk.txt").write_text("\n".join(text for *_, text in places) + "\n")
    return places


def test_recordings_without_transcript_are_cut_where_somebody_speaks(tmp_path):
    pytest.importorskip("silero_vad")
    places = demo_speech(tmp_path / "talks")
    call(
        "segment.py",
        tmp_path / "talks",
        "--no-transcript",
        "--out",
        tmp_path / "out",
        "--jobs",
        1,
        "--dev-share",
        0,
        "--test-share",
        0,
        check=0,
    )
    found = lines(tmp_path / "out" / "train.jsonl")
    rows = json.loads(next((tmp_path / "out" / "segments").iterdir()).read_text())["rows"]
    assert len(found) == len(rows) >= len(places) and {line["text"] for line in found} == {""}
    middles = [(row["begin"] + row["end"]) / 2 for row in rows]
    assert all(any(begin < middle < end for middle in middles) for begin, end, _ in places)
    assert all(
        any(begin - 0.3 < middle < end + 0.3 for begin, end, _ in places) for middle in middles
    )


def test_recordings_with_transcript_are_aligned_once_and_bad_fits_dropped(tmp_path, tiny_nemo):
    demo_speech(tmp_path / "talks")
    arguments = (
        "segment.py",
        tmp_path / "talks",
        "--model",
        tiny_nemo("ctc"),
        "--out",
        tmp_path / "out",
        "--jobs",
        1,
        "--min-score",
        -100,
        "--max-dropped",
        1,
    )
    call(*arguments)
    segments = next((tmp_path / "out" / "segments").iterdir())
    rows = json.loads(segments.read_text())["rows"]
    assert (
        " ".join(row["text"] for row in rows).split()
        == (tmp_path / "talks" / "talk.txt").read_text().split()
    )
    before = segments.stat().st_mtime_ns
    done = call(*arguments[:-4], "--min-score", -0.001, "--max-dropped", 1)
    assert segments.stat().st_mtime_ns == before and "low_alignment_score" in done.stdout
    assert (
        "--model CHECKPOINT"
        in call("segment.py", tmp_path / "talks", "--out", tmp_path / "o", check=2).stderr
    )
