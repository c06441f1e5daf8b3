"""Audio: probe, decode, measure, resample, write. libsndfile reads files, FFmpeg those that it does
not know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parakeet_ft.data import ffmpeg, libsndfile, members, opus
from parakeet_ft.data.audio_file import (
    AudioError,
    InMemory,
    KaldiPipe,
    Member,
    breaks_off,
    check_stretch,
)
from parakeet_ft.errors import REFUSED, UserError

if TYPE_CHECKING:
    import soundfile

    from parakeet_ft.data.manifest import Utterance

# A sample at or above this share of full scale is taken as clipped: converters that clip write
# 32767 or a little below.
CLIPPED_AT = 0.999
# Decoders of lossy formats announce a length that padding makes wrong by some frames; a file that
# ends earlier than this was cut off.
TRUNCATED_SECONDS = 0.5
TRUNCATED_SHARE = 0.02


# What audio is read from.
Source = str | KaldiPipe | Member | InMemory


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What a file's header announces; `duration` in seconds."""

    duration: float
    rate_hz: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """What decoding a stretch of audio showed. `reason` is None if it can be used, else a word;
    `detail` tells more.

    Levels are in dB below full scale, of all channels together for the peak and of the mono mix for
    the level (RMS). `clipped_share` is a fraction of the samples. `samples_hash` is over the mono
    16-bit samples as written, so a copy under another name has the same one.
    """

    reason: str | None = None
    detail: str = ""
    duration: float = 0.0
    rate_hz: int = 0
    channels: int = 0
    level_dbfs: float = -120.0
    peak_dbfs: float = -120.0
    clipped_share: float = 0.0
    samples_hash: str = ""


def hold(utterance: Utterance) -> str | InMemory:
    """Where an utterance's audio is read from, with the bytes of a member in memory, so that
    several looks at it read them once. Raises AudioError.
    """
    held = held_in_memory(utterance.member or utterance.audio_filepath)
    assert not isinstance(held, KaldiPipe)
    return held


def hold_members(utterances: Sequence[Utterance]) -> list[InMemory | None]:
    """The bytes of all that lie in shards or elsewhere, read together; None for single files.
    Raises AudioError.
    """
    wanted = [u.member for u in utterances if u.member is not None]
    found = iter(members.read(wanted))
    return [None if u.member is None else next(found) for u in utterances]


def held_in_memory(source: Source) -> str | KaldiPipe | InMemory:
    """The source, with the bytes of a member in memory. Raises AudioError."""
    return members.read([source])[0] if isinstance(source, Member) else source


def probe(source: str | Member | InMemory) -> AudioInfo:
    """Length, rate and channels from the file's header. Raises AudioError."""
    path = held_in_memory(source)
    assert not isinstance(path, KaldiPipe)
    file = libsndfile.open_audio(path)
    if file is not None:
        with file:
            return AudioInfo(
                duration=file.frames / file.samplerate,
                rate_hz=file.samplerate,
                channels=file.channels,
            )
    with ffmpeg.open_audio(path) as container:
        stream = container.streams.audio[0]
        return AudioInfo(
            duration=ffmpeg.announced_seconds(container),
            rate_hz=stream.rate,
            channels=stream.channels,
        )


def decode(
    source: Source,
    *,
    offset: float = 0.0,
    duration: float | None = None,
) -> tuple[np.ndarray, int]:
    """Decode `duration` seconds (None: to the end) from `offset` -> (float32 samples (samples,
    channels), rate in Hz).

    Raises AudioError: missing, not_a_file, no_permission, zero_bytes, unreadable, damaged,
    truncated, no_samples, beyond_end, not_finite, pipe_failed, bad_times.
    """
    check_stretch(source, offset, duration)
    path = held_in_memory(source)
    file = libsndfile.open_audio(path)
    expected: int | None
    whole_numbers = False
    if file is None:
        assert not isinstance(path, KaldiPipe)  # which libsndfile reads, or nobody
        samples, rate_hz, expected = ffmpeg.read(path, offset=offset, duration=duration)
    else:
        with file:
            rate_hz = file.samplerate
            whole_numbers = file.subtype.startswith("PCM_")
            quick = None if offset else opus.read(file, path, duration=duration)
            samples, expected = quick or libsndfile.read(
                file, path, offset=offset, duration=duration
            )
    if not len(samples):
        raise AudioError("no_samples", f"{path} holds no samples.")
    if expected is not None:
        _check_whole(path, len(samples), expected, rate_hz=rate_hz)
    reaches_end = duration is None or len(samples) < (duration - TRUNCATED_SECONDS) * rate_hz
    if not isinstance(path, KaldiPipe) and reaches_end and breaks_off(path):
        raise AudioError(
            "truncated",
            f"{path} was cut off: its data breaks off after {offset + len(samples) / rate_hz:.2f} "
            "s.",
        )
    # A twentieth of the time of decoding FLAC.
    if not whole_numbers and not np.isfinite(samples.sum(dtype=np.float64)):
        raise AudioError("not_finite", f"{path} has samples that are NaN or infinite.")
    return samples, rate_hz


def _check_whole(path: object, found: int, expected: int, *, rate_hz: int) -> None:
    """Raise AudioError if by far fewer samples were found than the header announces."""
    if expected - found > max(TRUNCATED_SECONDS * rate_hz, TRUNCATED_SHARE * expected):
        raise AudioError(
            "truncated",
            f"{path} announces {expected / rate_hz:.2f} s and ends after {found / rate_hz:.2f} s.",
        )


def to_mono(samples: np.ndarray, *, channel: int | None = None) -> np.ndarray:
    """(samples, channels) -> (samples,): one channel, counted from 0, or the mean of all."""
    if channel is not None:
        if not 0 <= channel < samples.shape[1]:
            raise AudioError(
                "no_such_channel",
                f"Channel {channel} was asked for, the file has {samples.shape[1]}, "
                "counted from 0.",
            )
        return samples[:, channel]
    # Adding columns is some 5 times as fast as mean(axis=1) over two columns.
    mono = samples[:, 0]
    for other in range(1, samples.shape[1]):
        mono = mono + samples[:, other]
    return mono / samples.shape[1] if samples.shape[1] > 1 else mono


def resample(samples: np.ndarray, *, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample (samples,) with soxr's high quality."""
    if from_hz == to_hz:
        return samples
    import soxr

    return soxr.resample(samples, from_hz, to_hz)


def read_audio(
    source: Source,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    rate_hz: int = 16000,
) -> np.ndarray:
    """Read `duration` seconds (None: to the end) from `offset` as float32 mono (samples,) at
    rate_hz; channels are averaged. What that changes is as data preparation would have stored it.

    Raises UserError naming the file if it cannot be read.
    """
    samples, file_rate_hz = decode(source, offset=offset, duration=duration)
    mono = resample(to_mono(samples), from_hz=file_rate_hz, to_hz=rate_hz)
    if file_rate_hz != rate_hz or samples.shape[1] > 1:
        mono = as_stored(mono)
    return np.ascontiguousarray(mono, dtype=np.float32)


def source_of(utterance: Utterance) -> Source:
    """Where an utterance's audio is read from."""
    return utterance.pipe or utterance.member or utterance.audio_filepath


def read_utterance(
    utterance: Utterance, *, rate_hz: int = 16000, held: InMemory | None = None
) -> np.ndarray:
    """The stretch of an utterance, as `read_audio`; `held` are the bytes of its file where they
    were fetched before. Raises AudioError.
    """
    return read_audio(
        held or source_of(utterance),
        offset=utterance.offset,
        duration=utterance.duration,
        rate_hz=rate_hz,
    )


def stream_audio(
    source: str | Member, *, rate_hz: int = 16000, block_seconds: float = 30.0
) -> Iterator[np.ndarray]:
    """Yield a whole recording as float32 mono blocks (samples,) at rate_hz; memory holds one block,
    however long it is. Raises AudioError.
    """
    import soundfile

    path = held_in_memory(source)
    assert not isinstance(path, KaldiPipe)
    file = libsndfile.open_audio(path)
    if file is None:
        file_hz = ffmpeg.rate_of(path)
        yield from _resampled(ffmpeg.stream(path, rate_hz=file_hz), file_hz, rate_hz)
        return
    with file:
        block_frames = int(block_seconds * file.samplerate)
        try:
            yield from _resampled(_blocks(file, path, block_frames), file.samplerate, rate_hz)
        except (soundfile.LibsndfileError, OSError) as error:
            raise libsndfile.damaged(path, error) from None


def _blocks(file: soundfile.SoundFile, path: object, frames: int) -> Iterator[np.ndarray]:
    """Blocks (samples, channels) to where the file really ends; SoundFile.blocks would go on with
    what was in memory. Raises AudioError if that is by far before its header says.
    """
    found, announced = 0, libsndfile.announced_frames(file)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        found += len(block)
        yield block
    if announced < libsndfile.UNKNOWN_FRAMES:
        _check_whole(path, found, announced, rate_hz=file.samplerate)


def _resampled(blocks: Iterator[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Blocks (samples, channels) as mono blocks (samples,) at another rate."""
    if from_hz == to_hz:
        for block in blocks:
            yield as_stored(to_mono(block)) if block.shape[1] > 1 else to_mono(block)
        return
    import soxr

    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
    for block in blocks:
        yield as_stored(resampler.resample_chunk(np.ascontiguousarray(to_mono(block))))
    yield as_stored(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in -1..1 as 16-bit integers; what is beyond full scale is clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def as_stored(samples: np.ndarray) -> np.ndarray:
    """Float samples rounded to 16 bits, as the files of data preparation hold them: the noise of
    the rounding is all that resampled audio has above its old bandwidth, and a model hears it.
    """
    return to_int16(samples).astype(np.float32) / 32768.0


def measure(
    samples: np.ndarray, *, rate_hz: int, mono16: np.ndarray, mono16_rate_hz: int
) -> Measured:
    """Levels, clipping and hash. `samples` (samples, channels) as decoded, `mono16` the 16-bit mono
    that is written.
    """
    peak = float(max(samples.max(), -samples.min()))
    clipped = 0.0
    if peak >= CLIPPED_AT:
        clipped = float(np.count_nonzero(np.abs(samples) >= CLIPPED_AT)) / samples.size
    # In blocks, float32 stays exact enough for a level; einsum and not dot, which would start BLAS
    # threads in every worker.
    blocks = (mono16[i : i + 65536].astype(np.float32) for i in range(0, len(mono16), 65536))
    power = sum(float(np.einsum("i,i->", block, block)) for block in blocks)
    level = (power / max(1, len(mono16))) ** 0.5 / 32768.0
    return Measured(
        duration=len(mono16) / mono16_rate_hz,
        rate_hz=rate_hz,
        channels=samples.shape[1],
        level_dbfs=_decibels(level),
        peak_dbfs=_decibels(peak),
        clipped_share=round(clipped, 6),
        samples_hash=hashlib.blake2b(mono16.tobytes(), digest_size=8).hexdigest(),
    )


def _decibels(amplitude: float) -> float:
    """An amplitude (1: full scale) in dB, -120 for silence."""
    return round(float(20 * np.log10(max(amplitude, 1e-6))), 2)


def flac(samples: np.ndarray, *, rate_hz: int) -> bytes:
    """16-bit mono samples as the bytes of a FLAC file."""
    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()


def write_flac(samples: np.ndarray, path: Path, *, rate_hz: int) -> None:
    """Write 16-bit mono FLAC whole or not at all. No fsync: hundreds of thousands of small files
    would wait for the disk.

    Raises UserError if the disk is full or closed to writing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Not by libsndfile, which says "System error." of whatever happens.
        encoded = flac(samples, rate_hz=rate_hz)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded)
        os.replace(temporary, path)
    except OSError as error:
        why = REFUSED.get(error.errno or 0, error.strerror or str(error))
        raise UserError(
            f"Cannot write {path}: {why}. The same command goes on once that is mended."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
