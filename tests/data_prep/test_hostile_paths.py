"""Paths that look like commands, protocols or devices, through every source, recipe and flag that
takes a path: each is a file name, or is refused in words."""

import csv
import json
import os
import runpy
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft import preflight
from parakeet_ft.batches import augmentation
from parakeet_ft.data import audio, storage
from parakeet_ft.data.audio import AudioError
from parakeet_ft.data.audit import quick_check
from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.errors import UserError
from parakeet_ft.run import composition
from parakeet_ft.transcription.recordings import Recording, collect_recordings

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    # for a shell
    "x;touch MARK;cat good.opus|",
    "x; touch MARK; cat good.opus |",
    "touch MARK|",
    "touch MARK|\t",
    "touch MARK | ",
    "|touch MARK",
    "| touch MARK",
    "`touch MARK`",
    "`touch MARK`.wav",
    "$(touch MARK)",
    "$(touch MARK).wav",
    "touch${IFS}MARK|",
    "x;touch${IFS}MARK;|",
    "x && touch MARK",
    "x || touch MARK",
    "x & touch MARK &",
    "x\ntouch MARK\n",
    "x\ntouch MARK|",
    "x\r\ntouch MARK |",
    "> MARK",
    "good.opus > MARK |",
    "< good.opus tee MARK |",
    "'; touch MARK; '",
    '"; touch MARK; "',
    "good.opus|touch MARK",
    "sox|touch MARK|",
    "~/x.wav",
    "$HOME/x.wav",
    "*.opus",
    "-",
    "--help",
    "-o MARK",
    "@good.opus",
    "%(touch MARK)s",
    # for FFmpeg and for libraries that fetch
    "fd:",
    "fd:0",
    "pipe:",
    "pipe:0",
    "file:good.opus",
    "file:///etc/hostname",
    "concat:good.opus|good.opus",
    "concatf:list.txt",
    "subfile,,start,0,end,0,,:good.opus",
    "crypto:good.opus",
    "data:audio/wav;base64,UklGRg==",
    "cache:good.opus",
    "async:good.opus",
    "lavfi:sine",
    "tee:MARK",
    "md5:MARK",
    "unix:MARK",
    "http://127.0.0.1:PORT/a.wav",
    "https://127.0.0.1:PORT/a.wav",
    "tcp://127.0.0.1:PORT",
    "ftp://127.0.0.1:PORT/a.wav",
    "rtmp://127.0.0.1:PORT/a",
    "rtsp://127.0.0.1:PORT/a",
    "tls://127.0.0.1:PORT",
    "gopher://127.0.0.1:PORT/a",
    "icecast://127.0.0.1:PORT/a",
    "s3://bucket/a.wav",
    "hf://datasets/a/b.wav",
    # no files
    "/dev/stdin",
    "/dev/fd/0",
    "/proc/self/fd/0",
    "/dev/zero",
    "/dev/null",
    "a\0b.wav",
    "good.opus\0|touch MARK|",
    ".",
    "..",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with good.opus. Afterwards: no command ran, nobody was called."""
    monkeypatch.chdir(tmp_path)
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write("good.opus", samples, 16000, format="OGG", subtype="OPUS")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setattr(sys.modules[__name__], "PORT", str(server.getsockname()[1]))
        yield tmp_path
        assert not list(tmp_path.rglob("MARK"))
        with pytest.raises(BlockingIOError):
            server.accept()


PORT = ""


def hostile() -> list[str]:
    return [path.replace("PORT", PORT) for path in HOSTILE]


def files_of_these_names(folder: Path, *, suffix: str = "") -> list[str]:
    """Real audio under every one of these names that a file can have."""
    made = []
    for name in hostile():
        path = os.path.normpath(name + suffix)
        if "\0" in path or path.startswith("/") or path in (".", ".."):
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(Path("good.opus").read_bytes())
        made.append(path)
    return made


def call(script: str, *arguments) -> int:
    before, sys.argv = sys.argv, [script, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "data_prep" / script), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


def rows(out: Path, name: str) -> list[dict]:
    path = out / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def csv_table(paths):
    with open("table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "text"])
        table.writerows([path, f"sentence number {i}"] for i, path in enumerate(paths))
    return "from_table.py", "table.csv"


def json_lines(paths, name="train.jsonl"):
    lines = [
        {"audio_filepath": path, "text": f"sentence number {i}", "duration": 1.0}
        for i, path in enumerate(paths)
    ]
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return name


def json_table(paths):
    return "from_table.py", json_lines(paths)


def parquet_table(paths):
    import pyarrow
    import pyarrow.parquet

    texts = [f"sentence number {i}" for i in range(len(paths))]
    pyarrow.parquet.write_table(pyarrow.table({"path": paths, "text": texts}), "table.parquet")
    return "from_table.py", "table.parquet"


def nemo(paths):
    return "nemo_manifest.py", json_lines(paths)


def checked(paths):
    return "check.py", json_lines(paths), "--write"


def cuts(paths, kind="file"):
    lines = []
    for i, path in enumerate(paths):
        recording = {"id": str(i), "sources": [{"type": kind, "channels": [0], "source": path}]}
        said = {"id": str(i), "start": 0.0, "duration": 1.0, "text": f"sentence number {i}"}
        lines.append(
            {
                "type": "MonoCut",
                "id": str(i),
                "start": 0.0,
                "duration": 1.0,
                "recording": recording,
                "supervisions": [said],
            }
        )
    Path("cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "lhotse_cuts.py", "cuts.jsonl"


def command_cuts(paths):
    return cuts(paths, kind="command")


def hugging_face(paths):
    datasets = pytest.importorskip("datasets")
    texts = [f"sentence number {i}" for i in range(len(paths))]
    datasets.Dataset.from_dict({"audio": paths, "text": texts}).save_to_disk("saved")
    return "hugging_face.py", "saved", "--audio-column", "audio"


SOURCES = [csv_table, json_table, parquet_table, nemo, checked, cuts, command_cuts, hugging_face]


@pytest.mark.parametrize("source", SOURCES)
def test_what_looks_like_a_command_is_a_file_that_does_not_exist(place, source):
    assert len(HOSTILE) >= 40
    script, *arguments = source(hostile())
    code = call(script, *arguments, "--out", "out", "--jobs", 1)
    found = rows(place / "out", "dropped")
    assert code == 1 and len(found) == len(HOSTILE) and not rows(place / "out", "train")
    allowed = {"missing", "not_a_file"} | ({"bad_row"} if source is command_cuts else set())
    assert {row["reason"] for row in found} <= allowed


@pytest.mark.parametrize("source", [s for s in SOURCES if s is not command_cuts])
def test_an_existing_file_of_such_a_name_is_read(place, source):
    names = files_of_these_names(place)
    script, *arguments = source(names)
    call(
        script,
        *arguments,
        "--out",
        "out",
        "--jobs",
        1,
        "--keep-duplicate-audio",
        "--max-dropped",
        1,
    )
    kept = [row for split in ("train", "dev", "test") for row in rows(place / "out", split)]
    assert rows(place / "out", "dropped") == []
    assert len(kept) == len(names) > 40


def test_kaldi_reads_commands_in_wav_scp_alone_and_only_when_allowed(place, capsys):
    Path("text").write_text("u1 hello there\nu2 good bye\n")
    Path("wav.scp").write_text("u1 good.opus\nu2 touch MARK; cat good.opus |\n")
    assert call("kaldi.py", ".", "--out", "out", "--jobs", 1) == 2
    assert "--allow-pipes" in capsys.readouterr().err and not Path("MARK").exists()
    arguments = [".", "--out", "out", "--jobs", 1, "--allow-pipes", "--keep-duplicate-audio"]
    assert call("kaldi.py", *arguments, "--in-place") == 2
    assert "leave out --in-place" in capsys.readouterr().err and not Path("MARK").exists()
    assert call("kaldi.py", *arguments) == 0 and Path("MARK").exists()
    Path("MARK").unlink()
    # What was written names files: read again, nothing runs.
    kept = [
        row["audio_filepath"]
        for split in ("train", "dev", "test")
        for row in rows(place / "out", split)
    ]
    assert len(kept) == 2 and all(path.endswith(".flac") for path in kept)


def test_a_command_that_was_dropped_is_text_in_dropped_jsonl(place):
    Path("text").write_text("u1 hello there\n")
    Path("wav.scp").write_text("u1 touch ran; false |\n")
    call("kaldi.py", ".", "--out", "out", "--jobs", 1, "--allow-pipes")
    (row,) = rows(place / "out", "dropped")
    assert row["audio_filepath"] == "touch ran; false |" and Path("ran").exists()
    Path("ran").unlink()
    with pytest.raises(AudioError, match="No audio at touch ran"):
        audio.decode(row["audio_filepath"])
    assert not Path("ran").exists()


@pytest.mark.parametrize("allow", [[], ["--allow-pipes"]])
def test_kaldi_segments_reach_no_shell(place, allow):
    names = [name for name in hostile() if len(name.split()) == 1 and name.split()[0] == name]
    Path("wav.scp").write_text("u0 good.opus\n")
    Path("text").write_text("".join(f"u{i} sentence number {i}\n" for i in range(len(names))))
    Path("segments").write_text("".join(f"u{i} {name} 0 1\n" for i, name in enumerate(names)))
    assert call("kaldi.py", ".", "--out", "out", "--jobs", 1, *allow) == 1
    assert [row["reason"] for row in rows(place / "out", "dropped")] == ["bad_row"] * len(names)


@pytest.mark.parametrize(
    "script", ["from_folder.py", "textgrid.py", "subtitles.py", "stm.py", "ctm.py"]
)
def test_recordings_of_such_names_are_read(place, script):
    folder = place / "talks"
    names = files_of_these_names(folder, suffix=".opus")
    header = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n1\n<exists>\n1\n'
    for i, name in enumerate(names):
        bare, text = folder / name.removesuffix(".opus"), f"sentence number {i}"
        for suffix, content in (
            (".txt", text),
            (".srt", f"1\n00:00:00,100 --> 00:00:00,900\n{text}\n"),
            (".TextGrid", f'{header}"IntervalTier"\n"t"\n0\n1\n1\n0\n1\n"{text}"\n'),
        ):
            Path(f"{bare}{suffix}").write_text(content)
    words = [name.removesuffix(".opus") for name in names]
    words = [word for word in words if word.split() == [word] and "/" not in word]
    Path("talks/all.stm").write_text(
        "".join(f"{w} 1 ann 0 0.9 number {i}\n" for i, w in enumerate(words))
    )
    Path("talks/all.ctm").write_text("".join(f"{w} 1 0 0.9 word{i}\n" for i, w in enumerate(words)))
    source = {"stm.py": "talks/all.stm", "ctm.py": "talks/all.ctm"}.get(script, "talks")
    call(script, source, "--out", "out", "--jobs", 1, "--keep-duplicate-audio", "--max-dropped", 1)
    kept = [row for split in ("train", "dev", "test") for row in rows(place / "out", split)]
    assert len(kept) >= (len(words) - 3 if source != "talks" else len(names) - 5) > 15


@pytest.mark.parametrize("script", ["common_voice.py", "librispeech.py", "ljspeech.py"])
def test_corpora_that_name_such_files_find_nothing_and_run_nothing(place, script):
    names = [name for name in hostile() if not set(name) & set("\n\r\t\0")]
    Path("train.tsv").write_text(
        "client_id\tpath\tsentence\n"
        + "".join(f"ann\t{name}\tsentence number {i}\n" for i, name in enumerate(names))
    )
    Path("metadata.csv").write_text("".join(f"{name}|text|sentence\n" for name in names))
    keys = [name.replace(" ", "_") for name in names]
    Path("ann.trans.txt").write_text("".join(f"{key} SENTENCE\n" for key in keys))
    extra = ["--tables", "train"] if script == "common_voice.py" else []
    assert call(script, ".", "--out", "out", "--jobs", 1, *extra) == 1
    assert len(rows(place / "out", "dropped")) == len(names)


def test_the_preflight_of_finetune_and_evaluate_names_them(place, capsys):
    for number, path in enumerate(hostile()):
        with pytest.raises(UserError, match="exist|cannot be read"):
            quick_check([Utterance(path, 1.0, "a b c")])
        assert not Path("MARK").exists(), (number, path)
    Path("absent").mkdir()
    bad = json_lines(hostile(), "absent/bad.jsonl")
    good = json_lines(files_of_these_names(place), "good.jsonl")
    absent = rf"names {len({os.path.normpath(p) for p in hostile()})} audio files that do not exist"
    from parakeet_ft.evaluation import request

    for overrides in (
        [f"data.train={bad}", f"data.validation={good}"],
        [f"data.train={good}", f"data.validation={bad}"],
        [f"data.train={good}", f"data.validation={good}", f"data.replay.manifest={bad}"],
        [f"data.train={good}", f"data.validation={good}", f"data.test={bad}"],
    ):
        with pytest.raises(UserError, match=absent):
            preflight.check_finetune(overrides)
    with pytest.raises(UserError, match=absent):
        request.read_request(composition.compose("evaluate", [f"manifests=[{bad}]"]))
    assert quick_check(read_manifest(good), sample=1000) == []


def test_transcription_takes_them_for_files(place):
    from parakeet_ft.transcription.long_audio import measure

    made = files_of_these_names(place)
    seconds = [measure(recording) for recording in collect_recordings([json_lines(made)])]
    assert len(seconds) == len(made) and min(seconds) > 0.9
    assert len(collect_recordings([f"./{name}" for name in made])) == len(made)
    for path in sorted(set(hostile()) - set(made) - {".", ".."}):
        # A URL on the command line is asked for; one in a manifest never is.
        if not os.path.isfile(path) and not storage.is_remote(path):
            with pytest.raises(UserError):
                collect_recordings([path])
        if not os.path.isfile(path) or path.startswith(("/dev", "/proc")):
            with pytest.raises(AudioError):
                measure(Recording(path, "name"))


def test_noise_is_read_from_files_alone(place):
    folder = place / "noise"
    names = files_of_these_names(folder)
    assert len(augmentation.read_noises(str(folder))) == len(names)
    rng = {"seconds": 0.5, "rate_hz": 16000, "position": 0.5}
    for noise in augmentation.read_noises(str(folder)):
        assert len(augmentation.cut_noise(noise, **rng)) == 8000
    for noise in augmentation.read_noises(json_lines(hostile())):
        if not os.path.isfile(noise.audio_filepath):
            with pytest.raises(AudioError):
                augmentation.cut_noise(noise, **rng)
    for path in hostile():
        # A URL in the settings is asked for; one in a manifest never is.
        if not os.path.isdir(path) and not storage.is_remote(path):
            with pytest.raises(UserError):
                augmentation.read_noises(path)


def test_shards_and_cut_noise_read_files_alone(place):
    from parakeet_ft.data.non_speech import cut_folder

    for number, path in enumerate(hostile()):
        with pytest.raises(UserError):
            write_shards(json_lines([path]), out=place / f"s{number}", executor=InlineExecutor)
    names = files_of_these_names(place / "noise", suffix=".opus")
    shown = list(cut_folder(place / "noise", place / "cut", hours=len(names) / 3600, max_seconds=1))
    assert len(shown) >= len(names) - 5
    for name in files_of_these_names(place / "named"):
        assert sum(map(len, audio.stream_audio(str(place / "named" / name)))) == 16000


def test_a_manifest_or_table_of_such_a_name_is_a_file_that_does_not_exist(place):
    from parakeet_ft.data.corpora.lhotse_cuts import read_lhotse_cuts
    from parakeet_ft.data.corpora.nemo_manifest import read_manifests
    from parakeet_ft.data.corpora.table import read_table

    for path in hostile():
        # data_prep/nemo_manifest.py asks for a URL that it is given.
        asks = [] if storage.is_remote(path) else [lambda p: read_manifests([p])]
        for read in (read_manifest, read_table, read_lhotse_cuts, *asks):
            with pytest.raises(UserError, match="No |is a folder|is a pipe"):
                list(read(path))


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:PORT/x.ts\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.opus\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile good.opus\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio PORT RTP/AVP 0\n",
    ],
)
def test_a_playlist_opens_neither_network_nor_other_files(place, content):
    for suffix in (".m3u8", ".ffconcat", ".sdp", ".wav", ".m4a"):
        Path(f"list{suffix}").write_text(content.replace("PORT", PORT))
        with pytest.raises(AudioError, match="can read"):
            audio.decode(f"list{suffix}")
