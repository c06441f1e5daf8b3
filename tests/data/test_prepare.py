"""The whole pipeline: golden manifests, faults with a reason each, resuming, processes and Dask
give the same bytes.
"""

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.corpora.table import read_table
from parakeet_ft.data.filters import Limits
from parakeet_ft.data.leaks import find_leaks
from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.data.parallel import InlineExecutor, map_chunks, open_executor
from parakeet_ft.data.prepare import AudioStage, Stages, prepare
from parakeet_ft.data.splits import SplitRules
from parakeet_ft.data.text import TextRules
from parakeet_ft.errors import UserError

GOLDEN = [
    '{"audio_filepath": "audio/c0/1-c064d1ee616e.flac", "duration": 0.6, "text": "bravo alpha", '
    '"speaker": "speaker1"}',
    '{"audio_filepath": "audio/7f/2-7fac1c3b82f0.flac", "duration": 0.6, "text": "charlie alpha", '
    '"speaker": "speaker2"}',
]
WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliett",
]


def make_corpus(root: Path, count: int = 40, speakers: int = 8, seconds: float = 0.6) -> Path:
    """A table of `count` noisy tones, each different, with different texts."""
    rng = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    lines = ["path,text,speaker"]
    for i in range(count):
        rate_hz = (8000, 16000, 44100)[i % 3]
        samples = 0.2 * np.sin(
            np.arange(int(seconds * rate_hz)) * (0.02 + 0.001 * i)
        ) + 0.01 * rng.standard_normal(int(seconds * rate_hz))
        soundfile.write(
            root / "audio" / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}",
            np.stack([samples] * (1 + i % 2), axis=1),
            rate_hz,
        )
        lines.append(
            f"audio/{i}.{('wav', 'flac', 'ogg')[i % 3]},{WORDS[i % 10]} "
            f"{WORDS[i // 10 % 10]},speaker{i % speakers}"
        )
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def run(
    table: Path,
    out: Path,
    executor=lambda: InlineExecutor(),
    stages: Stages | None = None,
    **options,
):
    summary, ledger = prepare(
        lambda: read_table(table),
        root=table.parent,
        out=out,
        stages=stages or Stages(),
        executor=executor,
        **options,
    )
    leaks = find_leaks(ledger)
    ledger.close()
    return summary, leaks


def contents(out: Path) -> dict[str, str]:
    """Hash of every file that a run leaves, apart from the ledger."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and ".ledger" not in p.name
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def expected(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    run(corpus, out)
    return contents(out)


def test_a_table_becomes_these_manifests(corpus, tmp_path):
    summary, leaks = run(corpus, tmp_path)
    assert (summary.num_kept, summary.num_dropped) == (40, 0)
    assert dict(summary.count) == {"train": 30, "test": 5, "dev": 5} and leaks.speakers == {
        k: [] for k in leaks.speakers
    }
    assert (tmp_path / "train.jsonl").read_text().splitlines()[:2] == GOLDEN
    for split in ("train", "dev", "test"):
        for utterance in read_manifest(tmp_path / f"{split}.jsonl"):
            info = soundfile.info(utterance.audio_filepath)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16") and abs(
                info.duration - utterance.duration
            ) < 1e-3


def test_the_same_corpus_elsewhere_gives_the_same_bytes(corpus, expected, tmp_path):
    again = make_corpus(tmp_path / "elsewhere")
    run(again, tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_a_second_run_decodes_nothing(corpus, expected, tmp_path, monkeypatch):
    from parakeet_ft.data import audio

    run(corpus, tmp_path)
    monkeypatch.setattr(audio, "decode", lambda *a, **k: pytest.fail("decoded again"))
    run(corpus, tmp_path, stages=Stages(text=TextRules(case="lower")))
    assert contents(tmp_path) == expected


def test_a_changed_file_is_done_again_and_adding_rows_moves_nothing(corpus, tmp_path):
    table = make_corpus(tmp_path / "c")
    run(table, tmp_path / "out")
    before = {
        split: (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()
        for split in ("train", "dev", "test")
    }
    soundfile.write(
        tmp_path / "c" / "audio" / "0.wav",
        0.1 * np.random.default_rng(5).standard_normal(16000),
        16000,
    )
    soundfile.write(
        tmp_path / "c" / "audio" / "new.wav",
        0.1 * np.random.default_rng(6).standard_normal(16000),
        16000,
    )
    with open(table, "a") as lines:
        lines.write("audio/new.wav,zulu,speaker77\n")
    run(table, tmp_path / "out")
    after = {
        split: (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()
        for split in ("train", "dev", "test")
    }
    changed = [line for split in before for line in before[split] if line not in after[split]]
    assert (
        len(changed) == 1
        and '"0.6' not in changed[0].replace('"duration": 0.6', "")
        and sum(map(len, after.values())) == 41
    )


def test_in_place_refers_to_the_originals(corpus, tmp_path):
    run(corpus, tmp_path, stages=Stages(audio=AudioStage(convert=False)))
    assert not (tmp_path / "audio").exists()
    assert {
        u.audio_filepath
        for s in ("train", "dev", "test")
        for u in read_manifest(tmp_path / f"{s}.jsonl")
    } == {str(p) for p in (corpus.parent / "audio").iterdir()}


def test_a_longer_limit_decodes_what_was_too_long(corpus, tmp_path):
    def stages(limit):
        return Stages(audio=AudioStage(max_duration=limit), limits=Limits(max_duration=limit))

    summary, _ = run(corpus, tmp_path, stages=stages(0.5))
    assert summary.dropped["too_long"][0] == 40 and summary.hours_dropped * 3600 == pytest.approx(
        24.0, abs=0.5
    )
    assert run(corpus, tmp_path, stages=stages(2.0))[0].num_kept == 40


def damage(root: Path) -> tuple[Path, dict[str, int]]:
    """200 rows of damaged files and texts among 40 good ones -> (table, {reason: count})."""
    table = make_corpus(root)
    rows, expected = [], {}
    audio, rng = root / "audio", np.random.default_rng(3)

    def row(reason, path, text="some words"):
        rows.append(
            f'{path},"{text}",ann'.encode()
            if isinstance(text, str)
            else path.encode() + b"," + text + b",ann"
        )
        expected[reason] = expected.get(reason, 0) + 1

    for i in range(10):
        noise = 0.1 * rng.standard_normal(32000)
        for reason in (
            "truncated",
            "damaged",
            "zero_bytes",
            "unreadable",
            "not_finite",
            "no_samples",
            "silent",
            "clipped",
            "not_utf8",
            "too_many_chars",
            "empty_text",
            "too_short",
            "too_long",
            "header",
        ):
            path = audio / f"{reason}{i}.{'flac' if reason == 'damaged' else 'wav'}"
            samples = {
                "no_samples": noise[:0],
                "silent": noise * 1e-6,
                "clipped": noise * 100,
                "too_short": noise[:800],
                "too_long": np.tile(noise, 16),
            }.get(reason, noise)
            if reason == "not_finite":
                samples = np.where(np.arange(32000) == 7, np.nan if i % 2 else np.inf, noise)
            soundfile.write(
                path, samples, 16000, subtype="FLOAT" if reason == "not_finite" else "PCM_16"
            )
            data = bytearray(path.read_bytes())
            if reason in ("truncated", "damaged"):
                data = data[: len(data) // 3]
            elif reason == "zero_bytes":
                data = bytearray()
            elif reason == "unreadable":
                data = bytearray(b"this is an HTML page and no audio")
            elif reason == "header":
                data[22:24] = b"\0\0"
            path.write_bytes(data)
            text = {"not_utf8": b"caf\xe9", "too_many_chars": "word " * 40, "empty_text": "  "}.get(
                reason, f"some words {i}"
            )
            row("unreadable" if reason == "header" else reason, f"audio/{path.name}", text)
        (audio / f"folder{i}.wav").mkdir()
        row("not_a_file", f"audio/folder{i}.wav")
        (audio / f"link{i}.wav").symlink_to("nowhere")
        row("missing", f"audio/link{i}.wav")
        row("missing", f"audio/none{i}.wav")
        row("duplicate_audio", "audio/0.wav", 'a ""b""\nc')
        row("bad_row", "")
        rows.append(b"audio/1.flac,too,many,cells")
        expected["bad_row"] += 1
    table.write_bytes(table.read_bytes() + b"\n".join(rows) + b"\n")
    return table, expected


def test_two_hundred_faults_have_their_reasons_and_the_rest_is_kept(tmp_path):
    table, expected = damage(tmp_path / "c")
    assert sum(expected.values()) == 200
    summary, _ = run(table, tmp_path / "out")
    assert {reason: int(count) for reason, (count, _) in summary.dropped.items()} == expected
    assert (
        summary.num_kept == 40
        and len((tmp_path / "out" / "dropped.jsonl").read_text().splitlines()) == 200
    )


def test_texts_beyond_the_limit_and_held_out_texts_are_dropped(corpus, tmp_path):
    table = make_corpus(tmp_path / "c", count=30)
    table.write_text(
        "path,text,speaker\n"
        + "".join(
            f"{line.split(',')[0]},Same words!,{line.split(',')[2]}\n"
            for line in table.read_text().splitlines()[1:]
        )
    )
    summary, leaks = run(table, tmp_path / "out", stages=Stages(limits=Limits(max_same_text=12)))
    assert summary.dropped["duplicate_text"][0] == 18
    assert leaks.text["test", "train"] == summary.count["test"]
    summary, leaks = run(table, tmp_path / "out", stages=Stages(sentence_disjoint=True))
    assert summary.count["train"] == 0 and summary.dropped["text_in_held_out"][0] > 0


def test_an_empty_source_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("path,text\n")
    with pytest.raises(UserError, match="no utterance"):
        run(tmp_path / "t.csv", tmp_path / "out")


def test_without_speakers_the_splits_share_no_sentence(tmp_path):
    lines = [
        Utterance(audio_filepath=str(make), duration=0, text=f"sentence {i // 2} of many")
        for i, make in enumerate(
            sorted((make_corpus(tmp_path / "c", count=260, seconds=0.4).parent / "audio").iterdir())
        )
    ]
    stages = Stages(
        limits=Limits(max_chars_per_second=None, ctc_subsampling=None),
        splits=SplitRules(dev_share=0.2, test_share=0.2),
    )
    summary, ledger = prepare(
        lambda: lines, root=tmp_path, out=tmp_path / "out", stages=stages, executor=InlineExecutor
    )
    leaks = find_leaks(ledger)
    ledger.close()
    assert (
        set(leaks.text.values()) == {0}
        and min(summary.count[s] for s in ("train", "dev", "test")) > 20
    )
    assert "No speaker is known, so dev and test can hold voices" in summary.notes[0]


def test_named_speakers_are_held_out_whatever_the_others_are_split_by(corpus, tmp_path):
    rules = SplitRules(dev_share=0.3, test_share=0.3, test_groups=("s1",))
    given = {"root": tmp_path, "out": tmp_path / "out", "executor": InlineExecutor}

    def named(word):  # a sentence that is written as the name
        for i, u in enumerate(read_table(corpus)):
            yield dataclasses.replace(u, text=u.text if i else "s1", speaker=f"s{i % 3}", **word)

    stages = Stages(limits=Limits(max_chars_per_second=None), splits=rules, split_by="sentence")
    summary, ledger = prepare(lambda: named({}), stages=stages, **given)
    ledger.close()
    assert summary.speakers["test"] == {"s1"}
    assert summary.speakers["train"] == summary.speakers["dev"] == {"s0", "s2"}
    assert "s1 as named, all others by sentence" in summary.notes[0]
    for split_by in ("given", "auto"):
        stages = Stages(splits=rules, split_by=split_by)
        own = given | {"out": tmp_path / split_by}
        with pytest.raises(UserError, match="do not go with the splits that the data has"):
            prepare(lambda: named({"extra": {"split": "train"}}), stages=stages, **own)


@pytest.mark.parametrize(
    ("dev", "test", "told"), [(0.0, 0.0, None), (0.2, 0.0, "dev"), (0.0, 0.2, "test")]
)
def test_notes_speak_of_splits_that_there_are(corpus, tmp_path, dev, test, told):
    def without_speakers():
        return (dataclasses.replace(u, speaker=None) for u in read_table(corpus))

    stages = Stages(splits=SplitRules(dev_share=dev, test_share=test))
    given = {"root": tmp_path, "out": tmp_path / "out", "executor": InlineExecutor}
    summary, ledger = prepare(without_speakers, stages=stages, **given)
    ledger.close()
    assert set(summary.count) <= {"train", told}
    assert bool(summary.notes) == bool(told)
    if told:
        assert f"so {told} can hold voices that train holds too" in summary.notes[0]


def test_processes_give_the_same_bytes(corpus, expected, tmp_path):
    with open_executor(jobs=2) as executor:
        run(corpus, tmp_path, executor=executor)
    assert contents(tmp_path) == expected


def suicidal(items):
    if "poison" in items:
        os.kill(os.getpid(), signal.SIGKILL)
    return [item.upper() for item in items]


def test_a_file_that_kills_its_worker_is_found_and_the_rest_done():
    chunks = [["a", "b"], ["c", "poison", "d"], ["e"], ["f", "g"]]
    with open_executor(jobs=2) as executor:
        found = dict(
            pair
            for chunk, results in map_chunks(
                suicidal, chunks, executor=executor, window=4, crashed=lambda item: "crashed"
            )
            for pair in zip(chunk, results, strict=True)
        )
    assert found == {
        "a": "A",
        "b": "B",
        "c": "C",
        "poison": "crashed",
        "d": "D",
        "e": "E",
        "f": "F",
        "g": "G",
    }


SCRIPT = Path(__file__).resolve().parents[2] / "data_prep" / "from_table.py"


def test_kills_at_random_moments_change_nothing(corpus, expected, tmp_path):
    rng, command = (
        random.Random(4),
        [sys.executable, str(SCRIPT), str(corpus), "--out", str(tmp_path), "--jobs", "1"],
    )
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    assert {k: v for k, v in contents(tmp_path).items() if k != "report.html"} == expected
    report = (tmp_path / "report.html").read_bytes()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert {k: v for k, v in contents(tmp_path).items() if k != "report.html"} == expected
    assert (tmp_path / "report.html").read_bytes() == report


def test_a_dask_cluster_that_loses_a_worker_gives_the_same_bytes(corpus, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"distributed.worker.daemon": False, "distributed.admin.tick.limit": "60s"}
    import dask

    local = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        dask.config.set(options),
        distributed.LocalCluster(**local) as cluster,
        open_executor(jobs=2, scheduler=cluster.scheduler_address) as executor,
    ):
        victim = next(iter(cluster.workers.values()))
        killed = []

        def kill_once(count, seconds):
            if not killed:
                killed.append(os.kill(victim.process.process.pid, signal.SIGKILL))

        run(corpus, tmp_path, executor=executor, window=2, on_progress=kill_once)
    assert killed and contents(tmp_path) == expected


def test_an_unreachable_scheduler_is_named():
    pytest.importorskip("distributed")
    with (
        pytest.raises(UserError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        open_executor(jobs=1, scheduler="tcp://127.0.0.1:9"),
    ):
        pass


def test_two_runs_in_one_folder_do_not_mix(corpus, tmp_path):
    _, ledger = prepare(
        lambda: read_table(corpus),
        root=corpus.parent,
        out=tmp_path,
        stages=Stages(),
        executor=InlineExecutor,
    )
    with pytest.raises(UserError, match="another run"):
        run(corpus, tmp_path)
    ledger.close()


def test_stages_are_part_of_what_the_ledger_knows(corpus, tmp_path):
    run(corpus, tmp_path)
    summary, _ = run(
        corpus, tmp_path, stages=dataclasses.replace(Stages(), audio=AudioStage(channel=1))
    )
    assert summary.dropped["no_such_channel"][0] == 20


def test_a_reason_may_quote_what_is_not_utf8(tmp_path):
    from parakeet_ft.data.ledger import Ledger
    from parakeet_ft.data.manifest import Utterance

    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.add_row(
        0,
        Utterance("a.wav", 1.0, "\udcfc"),
        key="k",
        group="",
        text_key="\udcfc",
        split="",
        samples_hash="",
        reason="bad_row",
        detail="line 1: \udcfc",
    )
    (row,) = ledger.rows()
    assert row.utterance.text == "\udcfc" and row.detail == r"line 1: \udcfc"
    ledger.close()
