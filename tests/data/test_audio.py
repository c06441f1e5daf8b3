"""Audio in, 16-bit mono at 16 kHz out; every kind of damage has its word."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data import audio
from parakeet_ft.data.audio import (
    AudioError,
    decode,
    measure,
    probe,
    read_audio,
    resample,
    to_int16,
    to_mono,
)
from parakeet_ft.data.prepare import AudioStage, as_written


def tone(seconds=1.0, rate_hz=16000, hertz=440.0, amplitude=0.5):
    return (
        amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)
    ).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff"])
@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_formats_and_rates_come_out_as_the_same_tone(tmp_path, name, rate_hz):
    samples = tone(2.0, rate_hz)
    soundfile.write(tmp_path / name, np.stack([samples, samples], axis=1), rate_hz)
    found = read_audio(str(tmp_path / name))
    assert found.dtype == np.float32 and abs(len(found) - 32000) <= 0.06 * 16000
    middle = found[8000:24000]
    assert abs(np.argmax(np.abs(np.fft.rfft(middle))) * 16000 / len(middle) - 440) < 2
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.02


@pytest.mark.parametrize("suffix", ["m4a", "webm", "mp4"])
def test_formats_of_ffmpeg_are_read_whole_and_in_part(tmp_path, suffix):
    av = pytest.importorskip("av")
    path = str(tmp_path / f"a.{suffix}")
    samples = np.concatenate([tone(2.0, 48000, 300.0), tone(2.0, 48000, 1200.0)])
    with av.open(path, "w") as container:
        stream = container.add_stream(
            "libopus" if suffix == "webm" else "aac", rate=48000, layout="mono"
        )
        for start in range(0, len(samples), 960):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[None, start : start + 960]),
                format="fltp",
                layout="mono",
            )
            frame.rate, frame.pts = 48000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert abs(probe(path).duration - 4.0) < 0.1 and probe(path).channels == 1
    assert abs(len(read_audio(path)) / 16000 - 4.0) < 0.1
    part = read_audio(path, offset=2.5, duration=1.0)
    assert len(part) == 16000 and abs(np.argmax(np.abs(np.fft.rfft(part))) - 1200) < 5


def test_a_part_is_cut_at_its_offset(tmp_path):
    ramp = np.arange(32000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", ramp, 16000)
    part = read_audio(str(tmp_path / "a.wav"), offset=0.5, duration=0.25)
    assert np.array_equal((part * 32768).astype(int), ramp[8000:12000])


def test_channels_are_averaged_or_chosen():
    both = np.array([[0.2, 0.4], [-0.2, 0.0]], dtype=np.float32)
    assert np.allclose(to_mono(both), [0.3, -0.1]) and np.allclose(
        to_mono(both, channel=1), [0.4, 0.0]
    )
    with pytest.raises(AudioError, match="has 2"):
        to_mono(both, channel=2)


def damage(kind, folder):
    path = folder / "a.wav"
    soundfile.write(path, tone(4.0), 16000)
    if kind == "zero_bytes":
        path.write_bytes(b"")
    elif kind == "unreadable":
        path.write_text("<html>not found</html>")
    elif kind == "not_a_file":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
        path.symlink_to(folder / "nowhere")
    elif kind == "not_finite":
        samples = tone(1.0)
        samples[100] = np.nan
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:60000])
    elif kind == "damaged":
        path = folder / "a.flac"
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000)
        path.write_bytes(path.read_bytes()[:40000])
    elif kind == "no_samples":
        soundfile.write(path, np.zeros(0), 16000)
    return str(path)


@pytest.mark.parametrize(
    "kind",
    [
        "zero_bytes",
        "unreadable",
        "not_a_file",
        "missing",
        "not_finite",
        "truncated",
        "damaged",
        "no_samples",
    ],
)
def test_damage_has_its_word(tmp_path, kind):
    with pytest.raises(AudioError) as error:
        decode(damage(kind, tmp_path))
    assert error.value.reason == kind


def test_a_wav_whose_writer_did_not_know_its_length_is_whole(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert len(decode(str(tmp_path / "a.wav"))[0]) == 16000


def test_a_truncated_mp3_has_its_word(tmp_path):
    soundfile.write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000)
    (tmp_path / "a.mp3").write_bytes((tmp_path / "a.mp3").read_bytes()[:8000])
    with pytest.raises(AudioError) as error:
        decode(str(tmp_path / "a.mp3"))
    assert error.value.reason == "truncated"


def test_a_header_with_no_channels_is_unreadable(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[22:24] = b"\0\0"
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(AudioError) as error:
        decode(str(tmp_path / "a.wav"))
    assert error.value.reason == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_has_its_word(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    (tmp_path / "a.wav").chmod(0)
    with pytest.raises(AudioError) as error:
        decode(str(tmp_path / "a.wav"))
    assert error.value.reason == "no_permission"


def test_an_offset_after_the_end_has_its_word(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    with pytest.raises(AudioError) as error:
        decode(str(tmp_path / "a.wav"), offset=2.0)
    assert error.value.reason == "beyond_end"


def test_levels_are_those_of_the_formulas():
    samples = tone(1.0, amplitude=0.5)
    found = measure(samples[:, None], rate_hz=16000, mono16=to_int16(samples), mono16_rate_hz=16000)
    assert (
        abs(found.level_dbfs - 20 * np.log10(0.5 / np.sqrt(2))) < 0.02
        and abs(found.peak_dbfs - 20 * np.log10(0.5)) < 0.02
    )
    assert found.clipped_share == 0 and found.duration == 1.0


def test_clipped_samples_are_counted_before_resampling():
    samples = np.clip(tone(1.0, amplitude=2.0), -1, 1)
    found = measure(samples[:, None], rate_hz=16000, mono16=to_int16(samples), mono16_rate_hz=16000)
    assert found.clipped_share == pytest.approx(2 / 3, abs=0.01)


def test_the_hash_is_of_the_samples_and_not_of_the_file(tmp_path):
    samples = to_int16(tone())
    hashes = set()
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / name, samples, 16000)
        found, rate_hz = decode(str(tmp_path / name))
        hashes.add(
            measure(
                found, rate_hz=rate_hz, mono16=to_int16(to_mono(found)), mono16_rate_hz=rate_hz
            ).samples_hash
        )
    assert len(hashes) == 1


def test_sixteen_bits_survive_the_round_trip(tmp_path):
    samples = np.array([-32768, -1, 0, 1, 32767] * 1000, dtype=np.int16)
    audio.write_flac(samples, tmp_path / "d" / "a.flac", rate_hz=16000)
    found, _ = decode(str(tmp_path / "d" / "a.flac"))
    assert np.array_equal(to_int16(to_mono(found)), samples) and [
        p.name for p in (tmp_path / "d").iterdir()
    ] == ["a.flac"]


def test_resampling_agrees_with_scipy():
    signal = pytest.importorskip("scipy.signal")
    samples = tone(1.0, 48000)
    assert (
        np.abs(
            resample(samples, from_hz=48000, to_hz=16000)[500:-500]
            - signal.resample_poly(samples, 1, 3)[500:-500]
        ).max()
        < 2e-3
    )


@pytest.mark.parametrize(
    ("name", "rate_hz"), [("a.wav", 16000), ("a.flac", 44100), ("a.mp3", 8000)]
)
def test_streaming_gives_what_reading_gives(tmp_path, name, rate_hz):
    samples = tone(3.3, rate_hz) + 0.01 * np.random.default_rng(0).standard_normal(
        int(3.3 * rate_hz)
    )
    soundfile.write(tmp_path / name, np.stack([samples, samples * 0.5], axis=1), rate_hz)
    whole = read_audio(str(tmp_path / name))
    blocks = list(audio.stream_audio(str(tmp_path / name), block_seconds=0.5))
    streamed = np.concatenate(blocks)
    assert len(blocks) > 5 and abs(len(streamed) - len(whole)) <= 2
    assert np.abs(streamed[:-100] - whole[: len(streamed)][:-100]).max() < 1e-4


def test_streaming_a_recording_that_was_cut_gives_what_is_there_and_then_says_so(tmp_path):
    """soundfile's own blocks fill up with memory that nobody wrote."""
    path, whole = tmp_path / "cut.mp3", io.BytesIO()
    tone = np.sin(np.arange(20 * 16000, dtype=np.float32) / 9)
    soundfile.write(whole, tone, 16000, format="MP3")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 6 // 10])
    found = []
    with pytest.raises(AudioError, match=r"announces 20.00 s and ends after 1\d.\d\d s"):
        for block in audio.stream_audio(str(path), rate_hz=16000, block_seconds=7):
            found.append(block)
    there = sum(map(len, found)) / 16000
    assert 11 < there < 13 and max(np.abs(block).max() for block in found) < 1.1


def test_streaming_reads_formats_of_ffmpeg(tmp_path):
    av = pytest.importorskip("av")
    path = str(tmp_path / "a.m4a")
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 80000, 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(tone(6.0)[None, start : start + 1024]),
                format="fltp",
                layout="mono",
            )
            frame.rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.array_equal(np.concatenate(list(audio.stream_audio(path))), read_audio(path))


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAVEX", "PCM_16"),
        ("WAV", "ULAW"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("CAF", "PCM_16"),
        ("VOC", "PCM_16"),
        ("NIST", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("OGG", "VORBIS"),
    ],
)
def test_half_a_file_is_told_in_every_format_and_a_whole_one_is_read(tmp_path, container, subtype):
    path = tmp_path / "a"
    samples = 0.1 * np.random.default_rng(0).standard_normal(64000)
    soundfile.write(path, samples, 16000, format=container, subtype=subtype)
    assert len(decode(str(path))[0]) == 64000
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.8):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(AudioError) as caught:
            decode(str(path))
        assert caught.value.reason in ("truncated", "damaged", "unreadable", "no_samples")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("stretch", [{}, {"duration": 1.25}, {"offset": 0.7, "duration": 1.0}])
def test_opus_is_what_libsndfile_decodes(tmp_path, channels, stretch):
    path = tmp_path / "a.opus"
    noise = 0.1 * np.random.default_rng(0).standard_normal((96000, channels))
    soundfile.write(path, noise, 48000, format="OGG", subtype="OPUS")
    frames = {key: round(48000 * value) for key, value in stretch.items()}
    theirs, _ = soundfile.read(
        path,
        start=frames.get("offset", 0),
        frames=frames.get("duration", -1),
        dtype="float32",
        always_2d=True,
    )
    ours, rate_hz = decode(str(path), **stretch)
    assert rate_hz == 48000 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 0.01 / 32768


@pytest.mark.parametrize("kind", ["16 kHz", "no FFmpeg", "three channels"])
def test_opus_that_ffmpeg_shall_not_decode_is_libsndfiles_to_the_bit(tmp_path, monkeypatch, kind):
    path, rate_hz = tmp_path / "a.opus", 16000 if kind == "16 kHz" else 48000
    channels = 3 if kind == "three channels" else 1
    if kind == "no FFmpeg":
        monkeypatch.setitem(sys.modules, "av", None)
    noise = 0.1 * np.random.default_rng(0).standard_normal((rate_hz, channels))
    soundfile.write(path, noise, rate_hz, format="OGG", subtype="OPUS")
    theirs, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert np.array_equal(decode(str(path))[0], theirs)


@pytest.mark.parametrize("suffix", ["m4a", "webm", "mkv"])
def test_half_a_file_of_ffmpegs_formats_is_told(tmp_path, suffix):
    av = pytest.importorskip("av")
    path = tmp_path / f"a.{suffix}"
    options = {"movflags": "faststart"} if suffix == "m4a" else {}
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libopus" if suffix == "webm" else "aac", rate=48000)
        noise = 0.1 * np.random.default_rng(0).standard_normal((1, 48000 * 4)).astype("float32")
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(
            format=stream.format,
            layout=stream.layout,
            rate=48000,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for piece in [*resampler.resample(frame), None]:
            for packet in stream.encode(piece):
                out.mux(packet)
    assert abs(len(decode(str(path))[0]) / 48000 - 4) < 0.05
    assert len(decode(str(path), offset=1.0, duration=0.5)[0]) == 24000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError) as caught:
        decode(str(path))
    assert caught.value.reason in ("truncated", "unreadable") and "Errno" not in str(caught.value)
    if suffix == "m4a":  # the others end early without an error
        with pytest.raises(AudioError, match="to the end: Invalid data found"):
            list(audio.stream_audio(str(path)))


def test_a_header_of_impossible_values_is_unreadable(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    content, path = (tmp_path / "a.wav").read_bytes(), str(tmp_path / "b.wav")
    for tag in (0, 0xFFFF):
        for bits in (0, 8, 16, 255):
            header = bytearray(content)
            header[20:22], header[34:36] = tag.to_bytes(2, "little"), bits.to_bytes(2, "little")
            Path(path).write_bytes(header)
            for read in (probe, decode, lambda path: list(audio.stream_audio(path))):
                with pytest.raises(AudioError):
                    read(path)


@pytest.mark.parametrize(
    ("offset", "duration", "reason"),
    [
        (float("inf"), None, "bad_times"),
        (float("nan"), None, "bad_times"),
        (-1.0, None, "bad_times"),
        (0.0, float("nan"), "bad_times"),
        (0.0, -2.0, "bad_times"),
        (0.0, float("inf"), "bad_times"),
        (1e308, None, "beyond_end"),
        (1e308, 1e308, "beyond_end"),
    ],
)
def test_times_that_no_recording_has_are_a_reason(tmp_path, offset, duration, reason):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    with pytest.raises(AudioError) as caught:
        decode(str(tmp_path / "a.wav"), offset=offset, duration=duration)
    assert caught.value.reason == reason
    assert len(decode(str(tmp_path / "a.wav"), duration=1e308)[0]) == 16000


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    os.rename(tmp_path / "a.wav", path)
    assert len(decode(path)[0]) == 16000 and probe(path).duration == 1.0
    assert not (tmp_path / "a.wav").exists()


def test_a_file_called_raw_is_read_by_its_content(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    os.rename(tmp_path / "a.wav", tmp_path / "a.raw")
    assert len(decode(str(tmp_path / "a.raw"))[0]) == 16000


def test_a_header_that_contradicts_itself_is_unreadable(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16000), 16000)
    header = bytearray((tmp_path / "a.wav").read_bytes())
    header[34:36] = (64).to_bytes(2, "little")  # FFmpeg would read four samples as one
    (tmp_path / "a.wav").write_bytes(header)
    with pytest.raises(AudioError) as caught:
        decode(str(tmp_path / "a.wav"))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44100, 2), (16000, 2)])
def test_a_recording_is_read_as_data_preparation_would_have_stored_it(tmp_path, rate_hz, channels):
    samples = 0.2 * np.random.default_rng(0).standard_normal((3 * rate_hz, channels))
    path = str(tmp_path / "a.wav")
    soundfile.write(path, samples, rate_hz)
    stored = as_written(decode(path)[0], rate_hz, 16000, AudioStage())
    soundfile.write(tmp_path / "stored.flac", stored, 16000)
    expected = soundfile.read(tmp_path / "stored.flac", dtype="float32")[0]
    assert np.array_equal(read_audio(path), expected)
    streamed = np.concatenate(list(audio.stream_audio(path, block_seconds=1)))
    assert len(streamed) == len(expected)
    assert np.abs(streamed - expected).max() <= 1 / 32768
