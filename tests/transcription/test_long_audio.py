"""Transcription against NeMo's own transcribe(); how long recordings are cut."""

import dataclasses
import difflib

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.audio import AudioError
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.model.attention import attention
from parakeet_ft.scoring.wer import score
from parakeet_ft.transcription import long_audio
from parakeet_ft.transcription.decode import transcribe_segments
from parakeet_ft.transcription.decoding import set_decoding
from parakeet_ft.transcription.long_audio import (
    choose_way,
    measure,
    pack,
    plan,
    transcribe_files,
    way_lines,
    way_taken,
)
from parakeet_ft.transcription.recordings import Recording
from parakeet_ft.transcription.segments import Segment

HEADS = [
    ("ctc", "ctc"),
    ("rnnt", "transducer"),
    ("tdt", "transducer"),
    ("hybrid", "transducer"),
    ("hybrid", "ctc"),
    ("hybrid_rnnt", "ctc"),
]


@pytest.fixture(scope="module")
def bundled():
    from parakeet_ft.model.restore import restore

    return restore("tiny").eval()


@pytest.fixture(scope="module")
def paths():
    return [u.audio_filepath for u in read_manifest(DEMO / "guard.jsonl")[:5]]


@pytest.mark.parametrize("family, head", HEADS)
def test_texts_and_words_are_those_of_nemos_transcribe_and_their_times_are_in_order(
    family, head, tiny_model, speech
):
    model, found = (
        tiny_model(family).eval(),
        [u.audio_filepath for u in read_manifest(speech(count=5))],
    )
    assert set_decoding(model, head=head, words=True)["head"] == head
    ours = transcribe_files(model, found, batch_seconds=3.0)
    theirs = model.transcribe(found, batch_size=1, timestamps=True, verbose=False)
    assert [t.text for t in ours] == [h.text for h in theirs] and any(t.text for t in ours)
    for mine, his in zip(ours, theirs, strict=True):
        words = [w for w in his.timestamp["word"] if w["word"].strip()]
        assert [w.text for w in mine.words] == [w["word"].strip() for w in words]
        times = [time for w in mine.words for time in (w.begin, w.end)]
        assert times == sorted(times) and all(0 <= time <= mine.duration for time in times)
    set_decoding(model, head=head, words=False)
    assert [t.text for t in transcribe_files(model, found)] == [t.text for t in ours]


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_first_words_begin_and_last_words_end_where_the_samples_say(head, tmp_path):
    """Clips with silence put around them: the borders are counted in samples and owe nothing to the
    model.

    0.12 s, a frame and a half, on average: a faint breath or a release is speech to one threshold
    and none to the other. NeMo's own times are off by more than that: the first begin by 0.4 s, as
    CTC counts from 0 and TDT writes at the end of the word.
    """
    from parakeet_ft.data.audio import read_audio
    from parakeet_ft.model.restore import restore

    model = restore("tiny_tdt_ctc").eval()
    set_decoding(model, head=head, words=True)
    rng, known, files = np.random.default_rng(0), [], []
    for number, utterance in enumerate(read_manifest(DEMO / "guard.jsonl")[:12]):
        speech = read_audio(utterance.audio_filepath)
        loud = np.flatnonzero(np.abs(speech) > 0.1 * np.abs(speech).max())
        before = 4000 + 1600 * (number % 5)
        samples = np.pad(speech[loud[0] : loud[-1]], (before, 12000)) + 1e-4 * rng.standard_normal(
            before + loud[-1] - loud[0] + 12000
        )
        files.append(str(tmp_path / f"{number}.wav"))
        soundfile.write(files[-1], samples.astype(np.float32), 16000, subtype="FLOAT")
        known.append((before / 16000, (before + loud[-1] - loud[0]) / 16000))
    found = [t.words for t in transcribe_files(model, files)]
    errors = np.array(
        [
            (words[0].begin - begin, words[-1].end - end)
            for words, (begin, end) in zip(found, known, strict=True)
        ]
    )
    assert np.abs(errors).mean(axis=0).max() < 0.12, errors
    lengths = [word.end - word.begin for words in found for word in words]
    assert np.median(lengths) > 0.15, "words of English last some 0.3 s, not one frame"


def test_a_head_that_the_model_has_not_is_refused(tiny_model):
    with pytest.raises(UserError, match="only a ctc head"):
        set_decoding(tiny_model("ctc"), head="transducer")


def test_real_text_of_the_bundled_model_is_that_of_nemo_in_the_order_given(bundled, paths):
    set_decoding(bundled)
    ours = [t.text for t in transcribe_files(bundled, paths, batch_seconds=8)]
    assert ours == [h.text for h in bundled.transcribe(paths, verbose=False)] and all(
        len(text.split()) > 2 for text in ours
    )
    bundled.eval()
    assert [t.text for t in transcribe_files(bundled, paths[::-1])] == ours[::-1]


def test_stereo_of_44100_hz_is_heard_as_mono_of_16000_hz_is(bundled, paths, tmp_path):
    import soxr

    from parakeet_ft.data.audio import read_audio

    mono = read_audio(paths[0])
    wide = soxr.resample(mono, 16000, 44100)
    soundfile.write(
        tmp_path / "wide.wav", np.stack([1.5 * wide, 0.5 * wide], axis=1), 44100, subtype="FLOAT"
    )
    soundfile.write(tmp_path / "mono.wav", mono, 16000, subtype="FLOAT")
    first, second = transcribe_files(
        bundled, [str(tmp_path / "wide.wav"), str(tmp_path / "mono.wav")]
    )
    # Resampled twice: a letter of a weak model may fall either way.
    assert difflib.SequenceMatcher(None, first.text, second.text).ratio() > 0.9


def test_silent_and_empty_files_have_no_words_and_leave_their_neighbours_alone(
    bundled, paths, tmp_path
):
    set_decoding(bundled, words=True)
    (tmp_path / "zero.wav").touch()
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(
        tmp_path / "silent.flac",
        np.random.default_rng(0).integers(-1, 2, 48000).astype(np.int16),
        16000,
    )
    soundfile.write(tmp_path / "click.wav", np.full(10, 0.1), 16000)
    found = transcribe_files(
        bundled,
        [str(tmp_path / name) for name in ("zero.wav", "none.wav", "silent.flac", "click.wav")]
        + paths[:1],
    )
    assert (
        [t.text for t in found[:3]] == ["", "", ""]
        and found[2].duration == 3.0
        and not any(t.words for t in found[:3])
    )
    assert found[4] == transcribe_files(bundled, paths[:1])[0]


def test_a_damaged_file_is_an_error_of_its_own_and_the_others_of_its_batch_are_done(
    bundled, paths, tmp_path
):
    (tmp_path / "bad.wav").write_bytes(b"RIFF no wave at all" * 50)
    segments = [
        Segment(path, 0.0, 3.0, True) for path in (paths[0], str(tmp_path / "bad.wav"), paths[1])
    ]
    found = dict(result for results in transcribe_segments(bundled, segments) for result in results)
    assert isinstance(found[1], AudioError) and "bad.wav" in str(found[1])
    assert [found[0].text, found[2].text] == [t.text for t in transcribe_files(bundled, paths[:2])]
    with pytest.raises(AudioError):
        measure(Recording(str(tmp_path / "bad.wav"), "bad"))


def test_a_command_in_a_manifest_is_never_run(tmp_path):
    with pytest.raises(AudioError, match="command"):
        measure(Recording(f"touch {tmp_path / 'ran'} |", "a"))
    assert not (tmp_path / "ran").exists()


def test_a_stretch_of_a_file_is_transcribed_as_if_it_were_a_file(bundled, paths, tmp_path):
    from parakeet_ft.data.audio import read_audio

    first, second = read_audio(paths[0]), read_audio(paths[1])
    soundfile.write(tmp_path / "both.wav", np.concatenate([first, second]), 16000, subtype="FLOAT")
    cut = [
        Segment(str(tmp_path / "both.wav"), 0.0, len(first) / 16000, False),
        Segment(str(tmp_path / "both.wav"), len(first) / 16000, len(second) / 16000, False),
    ]
    found = dict(result for results in transcribe_segments(bundled, cut) for result in results)
    assert [found[0].text, found[1].text] == [t.text for t in transcribe_files(bundled, paths[:2])]


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """(path, transcript) of 40 s of different speakers with pauses."""
    from parakeet_ft.data.audio import read_audio

    rng, parts, texts = np.random.default_rng(0), [], []
    for utterance in read_manifest(DEMO / "replay.jsonl"):
        parts += [
            read_audio(utterance.audio_filepath),
            1e-3 * rng.standard_normal(8000).astype(np.float32),
        ]
        texts.append(utterance.text)
        if sum(map(len, parts)) > 40 * 16000:
            break
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, np.concatenate(parts), 16000)
    return str(path), " ".join(texts)


def test_a_long_recording_has_much_the_same_words_whichever_way_it_goes(
    bundled, long_recording, monkeypatch
):
    monkeypatch.setattr(long_audio, "SHORT_SECONDS", 30.0)
    path, reference = long_recording
    recording, own = Recording(path, "long"), attention(bundled)
    set_decoding(bundled, words=True)
    found = {}
    for way in ("full", "local", "chunked"):
        segments = plan(bundled, recording, measure(recording), long_audio=way, chunk_seconds=15.0)
        assert (len(segments) > 2) == (way == "chunked") and [p.attention for p in segments] == [
            ("local" if way == "local" else None)
        ] * len(segments)
        done = dict(
            result for results in transcribe_segments(bundled, segments) for result in results
        )
        found[way] = " ".join(done[index].text for index in range(len(segments)))
        assert attention(bundled) == own
    rates = {way: score([reference], [text]).wer for way, text in found.items()}
    assert all(rates[way] < rates["full"] + 0.1 for way in rates), rates


def test_chunks_hold_all_speech_once_and_never_more_than_the_limit():
    spans = [(1.0, 4.0), (4.5, 9.0), (9.2, 12.0), (40.0, 41.0), (41.1, 60.0)]
    chunks = pack(spans, max_seconds=20.0, padding=0.4, first=0.0, last=60.1)
    assert chunks == [
        (pytest.approx(0.6), pytest.approx(12.4)),
        (pytest.approx(39.6), pytest.approx(41.05)),
        (pytest.approx(41.05), pytest.approx(60.1)),
    ]
    assert all(any(low <= begin and end <= high for low, high in chunks) for begin, end in spans)
    assert pack([], max_seconds=20.0, padding=0.4, first=0.0, last=5.0) == []


@pytest.mark.parametrize(
    "seconds, free, way",
    [(59.0, 0.0, "short"), (61.0, 1e9, "local"), (7200.0, 1e9, "chunked"), (7200.0, 1e12, "local")],
)
def test_a_recording_that_does_not_fit_in_memory_is_cut(seconds, free, way):
    assert (
        choose_way(
            seconds, requested="auto", free_bytes=free, needed_bytes=lambda kind: 1e6 * seconds
        )
        == way
    )


def test_memory_of_full_attention_grows_with_the_square_and_of_local_attention_with_the_length(
    tiny_model,
):
    model = tiny_model("ctc")
    need = {
        (kind, seconds): long_audio.needed_bytes(model, seconds, kind=kind)
        for kind in ("full", "local")
        for seconds in (3600, 7200)
    }
    assert (
        need["local", 7200] == pytest.approx(2 * need["local", 3600])
        and 3.5 < need["full", 7200] / need["full", 3600] <= 4
    )


def test_batches_are_sorted_read_ahead_and_all_come(tiny_model, speech):
    segments = [
        Segment(u.audio_filepath, 0.0, u.duration, True) for u in read_manifest(speech(count=8))
    ]
    batches = [
        [index for index, _ in results]
        for results in transcribe_segments(tiny_model("ctc"), segments, batch_seconds=3.0)
    ]
    assert (
        sorted(index for batch in batches for index in batch) == list(range(8)) and len(batches) > 2
    )
    longest = [max(segments[index].seconds for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_the_way_of_long_recordings_is_told_once_or_for_each_where_they_differ():
    whole = Segment("a.wav", 0.0, 90.0, True)
    local = way_taken([dataclasses.replace(whole, attention="local")])
    cut = way_taken([Segment("b.wav", 30.0 * i, 28.0, False) for i in range(3)])
    assert local == "in one piece, with local attention" and "3 chunks" in cut
    assert "checkpoint's" in way_taken([whole])
    assert way_lines({"a": local, "b": local}) == [
        "all 2 long recordings go in one piece, with local attention"
    ]
    assert way_lines({"a": local, "b": cut}) == [f"a: {local}", f"b: {cut}"]
