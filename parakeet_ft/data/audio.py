"""Audio files: probe, decode, measure, resample, write. libsndfile reads them, PyAV what it does
not (m4a, mp4, webm).

A path is a file name, whatever it looks like. Only a KaldiPipe is given to a shell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import math
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parakeet_ft.errors import REFUSED, UserError

if TYPE_CHECKING:
    import av
    import soundfile

# A sample at or above this share of full scale is taken as clipped: converters that clip write
# 32767 or a little below.
CLIPPED_AT = 0.999
# Decoders of lossy formats announce a length that padding makes wrong by some frames; a file that
# ends earlier than this was cut off.
TRUNCATED_SECONDS = 0.5
TRUNCATED_SHARE = 0.02
# A length no recording has: what libsndfile 1.2 gives where the header says nothing.
UNKNOWN_FRAMES = 2**62
# Where libsndfile's log holds "SIZE (should be LESS)" for audio that was cut off, by format.
CUT_SIZES = {
    "WAV": r"^data : ",
    "WAVEX": r"^data : ",
    "AIFF": r"^ SSND : ",
    "AU": r"Data Size +: ",
    "W64": r"^riff : ",
    "RF64": r"Riff size : ",
}
# Containers of FFmpeg whose header holds the true length; others estimate it from the bit rate.
HONEST_LENGTH = ("mov,", "matroska,")


class AudioError(UserError):
    """Audio that cannot be used; `reason` is the short word that reports count."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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


@dataclasses.dataclass(frozen=True)
class KaldiPipe:
    """A command that writes audio to its standard output. Made by one reader alone, that of
    wav.scp, and only with --allow-pipes; nothing that is stored or parsed elsewhere becomes one.
    """

    command: str

    def __str__(self) -> str:
        return f"{self.command} |"


# Names under which the standard input and other open files appear as files.
DEVICE_FOLDERS = ("/dev/", "/proc/")


def _run(pipe: KaldiPipe) -> io.BytesIO:
    """What the command writes. Raises AudioError."""
    from parakeet_ft.data.parallel import die_with_parent

    done = subprocess.run(
        pipe.command,
        shell=True,
        capture_output=True,
        check=False,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    if done.returncode or not done.stdout:
        error = done.stderr.decode(errors="replace").strip().splitlines()
        raise AudioError(
            "pipe_failed",
            f"The command {pipe.command!r} gave no audio: "
            f"exit code {done.returncode}, {' '.join(error[-1:])}",
        )
    return io.BytesIO(done.stdout)


def _open(source: str | KaldiPipe) -> soundfile.SoundFile | None:
    """The audio as libsndfile sees it, or None if only PyAV may know the format.

    Raises AudioError for what no decoder can help.
    """
    import soundfile

    if isinstance(source, KaldiPipe):
        try:
            return soundfile.SoundFile(_run(source))
        except soundfile.LibsndfileError as error:
            raise AudioError("unreadable", f"Cannot read what {source} writes: {error}") from None
    _check_file(source)
    try:
        file = soundfile.SoundFile(_plain_name(source))
    # TypeError: soundfile 0.14 takes a file called x.raw for headerless samples.
    except (soundfile.LibsndfileError, OSError, TypeError):
        return None
    if file.frames >= UNKNOWN_FRAMES:
        file.close()
        return None
    return file


@contextlib.contextmanager
def _decoding(path: str | KaldiPipe) -> Iterator[None]:
    """Any exception of the decoders becomes an AudioError. Any, since damaged headers bring out the
    oddest ones (AttributeError: 'AudioStream' object has no attribute 'rate', PyAV 18)."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or error
        raise AudioError("unreadable", f"Cannot decode {path}: {why}") from None


def _check_stretch(path: str | KaldiPipe, offset: float, duration: float | None) -> None:
    """Raise AudioError unless both are seconds that a recording can have."""
    if not (0 <= offset < math.inf) or not (duration is None or 0 <= duration < math.inf):
        raise AudioError(
            "bad_times",
            f"{path}: offset {offset} s, duration {duration} s; expected "
            "numbers of seconds, 0 or more.",
        )


def _plain_name(path: str) -> str | bytes:
    """The absolute path: libsndfile takes "-" for the standard input."""
    path = os.path.abspath(path)
    return path if os.name == "nt" else os.fsencode(path)


def _check_file(path: str) -> None:
    """Raise AudioError if there is no readable file at `path`."""
    if not os.path.lexists(path):
        raise AudioError("missing", f"No audio at {path}.")
    elif not os.path.exists(path):
        raise AudioError(
            "missing",
            f"No audio at {path}: the link points at {os.readlink(path)}, which does not exist.",
        )
    elif not os.path.isfile(path) or os.path.abspath(path).startswith(DEVICE_FOLDERS):
        raise AudioError("not_a_file", f"{path} is no file; expected audio.")
    elif not os.access(path, os.R_OK):
        raise AudioError("no_permission", f"No permission to read {path}.")
    elif os.path.getsize(path) == 0:
        raise AudioError("zero_bytes", f"{path} has zero bytes.")


def probe(path: str) -> AudioInfo:
    """Length, rate and channels from the file's header. Raises AudioError."""
    file = _open(path)
    if file is not None:
        with file:
            return AudioInfo(
                duration=file.frames / file.samplerate,
                rate_hz=file.samplerate,
                channels=file.channels,
            )
    with _open_av(path) as container:
        stream = container.streams.audio[0]
        return AudioInfo(
            duration=_announced_seconds(container), rate_hz=stream.rate, channels=stream.channels
        )


def decode(
    path: str | KaldiPipe, *, offset: float = 0.0, duration: float | None = None
) -> tuple[np.ndarray, int]:
    """Decode `duration` seconds (None: to the end) from `offset` -> (float32 samples (samples,
    channels), rate in Hz).

    Raises AudioError: missing, not_a_file, no_permission, zero_bytes, unreadable, damaged,
    truncated, no_samples, beyond_end, not_finite, pipe_failed, bad_times.
    """
    import soundfile

    _check_stretch(path, offset, duration)
    file = _open(path)
    if file is None:
        samples, rate_hz, expected = _decode_av(str(path), offset=offset, duration=duration)
    else:
        with file:
            rate_hz = file.samplerate
            start = round(min(offset * rate_hz, UNKNOWN_FRAMES))
            if start and start >= file.frames:
                raise AudioError(
                    "beyond_end",
                    f"{path} lasts {file.frames / rate_hz:.2f} s, the utterance begins at "
                    f"{offset:.2f} s.",
                )
            expected = _announced_frames(file) - start
            if duration is not None:
                expected = min(expected, round(min(duration * rate_hz, UNKNOWN_FRAMES)))
            try:
                if start:
                    file.seek(start)
                samples = file.read(expected, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, OSError, MemoryError, ValueError) as error:
                raise AudioError(
                    "damaged",
                    f"{path} has a header, but its data cannot be decoded to the end: {error}",
                ) from None
    if not len(samples):
        raise AudioError("no_samples", f"{path} holds no samples.")
    if expected is not None and expected - len(samples) > max(
        TRUNCATED_SECONDS * rate_hz, TRUNCATED_SHARE * expected
    ):
        raise AudioError(
            "truncated",
            f"{path} announces {expected / rate_hz:.2f} s and ends after "
            f"{len(samples) / rate_hz:.2f} s.",
        )
    short = duration is not None and len(samples) < (duration - TRUNCATED_SECONDS) * rate_hz
    if isinstance(path, str) and (duration is None or short) and _breaks_off(path):
        raise AudioError(
            "truncated",
            f"{path} was cut off: its data breaks off after "
            f"{offset + len(samples) / rate_hz:.2f} s.",
        )
    if not np.isfinite(samples.sum(dtype=np.float64)):
        raise AudioError("not_finite", f"{path} has samples that are NaN or infinite.")
    return samples, rate_hz


def _contradicts_itself(start: bytes) -> bool:
    """Whether a plain WAV that libsndfile refused has blocks that do not hold its channels: FFmpeg
    reads 16-bit samples as 64-bit ones if the header says so in one of two places."""
    if not (start.startswith(b"RIFF") and start[8:16] == b"WAVEfmt " and len(start) >= 36):
        return False
    kind, channels, _, _, block, bits = struct.unpack_from("<HHIIHH", start, 20)
    return kind in (1, 3) and block != channels * ((bits + 7) // 8)


def _nist_frames(file: soundfile.SoundFile) -> int:
    """sample_count of a SPHERE header, which libsndfile 1.2 does not compare with the data."""
    if not isinstance(file.name, str | bytes):
        return file.frames
    with open(file.name, "rb") as header:
        found = re.search(rb"^sample_count -i (\d{1,12})\s", header.read(4096), re.MULTILINE)
    return max(file.frames, int(found[1])) if found else file.frames


def _breaks_off(path: str) -> bool:
    """Whether a file of a format whose length libsndfile and FFmpeg do not check (Ogg, CAF, VOC)
    ends in the middle of a page, chunk or block."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(4096)
        if start.startswith(b"OggS"):
            file.seek(max(0, size - 2 * 65307))  # two pages of the greatest size
            return _breaks_off_in_page(file.read())
    if start.startswith(b"caff"):
        at = start.find(b"data", 8)
        length = int.from_bytes(start[at + 4 : at + 12], "big", signed=True)
        return at > 0 and length > 0 and at + 12 + length > size
    if start.startswith(b"Creative Voice File\x1a"):
        at = int.from_bytes(start[20:22], "little")  # of the first block: kind, 3 bytes of length
        if start[at : at + 1] == b"\x08":  # which may say more of the next one
            at += 8
        return at + 4 + int.from_bytes(start[at + 1 : at + 4], "little") > size
    return False


def _breaks_off_in_page(tail: bytes) -> bool:
    """Whether the last Ogg page (RFC 3533) is not whole."""
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return True
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    return len(tail) < at + 27 + tail[at + 26] + sum(segments)


def _announced_frames(file: soundfile.SoundFile) -> int:
    """Frames that the header announces. For a file that was cut off, libsndfile gives what is left
    and says so only in its log.

    A size of 2 GB or more is what programs write that do not know the length yet, and says nothing.
    """
    if file.format == "NIST":
        return _nist_frames(file)
    pattern = CUT_SIZES.get(file.format)
    if pattern is None:
        return file.frames
    found = re.search(pattern + r"(\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if found is None or int(found[1]) >= 0x7FFFFF00 or not int(found[2]):
        return file.frames
    return max(file.frames, file.frames * int(found[1]) // int(found[2]))


class _Bytes:
    """A file's bytes for FFmpeg, without its name: names choose protocols and formats."""

    name = ""

    def __init__(self, file: io.BufferedReader) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open_nothing_else(url: str, flags: int, options: dict) -> None:
    raise PermissionError(f"it refers to {url}, and only the file itself is read")


def _ffmpeg(path: str):
    """The module av. Raises AudioError if PyAV is what is missing to read `path`."""
    try:
        import av
    except ImportError:
        raise AudioError(
            "unreadable",
            f"libsndfile cannot read {path}; `pip install av` adds FFmpeg's "
            "formats (m4a, mp4, webm).",
        ) from None
    return av


@contextlib.contextmanager
def _open_av(path: str) -> Iterator[av.container.InputContainer]:
    """A container with an audio stream. Raises AudioError.

    FFmpeg gets bytes and no name, and may open nothing by itself: no protocol (http:, concat:,
    subfile:), and no file that a playlist names.
    """
    av = _ffmpeg(path)
    with _decoding(path), open(path, "rb") as file:
        if _contradicts_itself(file.read(64)):
            raise AudioError(
                "unreadable", f"{path}: the sizes in its WAV header contradict each other."
            )
        file.seek(0)
        try:
            container = av.open(
                _Bytes(file),
                metadata_errors="ignore",
                io_open=_open_nothing_else,
                container_options={"protocol_whitelist": "none"},
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise AudioError(
                "unreadable", f"Neither libsndfile nor FFmpeg can read {path}: {why}"
            ) from None
        with container:
            if not container.streams.audio:
                raise AudioError("no_samples", f"{path} has no audio stream.")
            yield container


def _announced_seconds(container: av.container.InputContainer) -> float:
    """The length that a header gives; 0 if it gives none."""
    stream = container.streams.audio[0]
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, (container.duration or 0) / 1e6)  # in microseconds, FFmpeg's AV_TIME_BASE


def _decode_av(
    path: str, *, offset: float, duration: float | None
) -> tuple[np.ndarray, int, int | None]:
    """decode() through FFmpeg: seeks to the key frame before `offset`, then cuts by the frames' own
    times. Also gives the samples that the header announces, None if that cannot be relied on."""
    av = _ffmpeg(path)
    pieces: list[np.ndarray] = []
    begin: float | None = None
    rate_hz, announced = 0, 0.0
    try:
        with _open_av(path) as container:
            stream = container.streams.audio[0]
            rate_hz = stream.rate
            # With video beside it, the audio may be shorter than its container.
            honest = container.format.name.startswith(HONEST_LENGTH) and len(container.streams) == 1
            announced = _announced_seconds(container) if honest else 0.0
            if announced and offset >= announced:
                raise AudioError(
                    "beyond_end",
                    f"{path} lasts {announced:.2f} s, the utterance begins at {offset:.2f} s.",
                )
            # No layout given: FFmpeg keeps the file's channels.
            resampler = av.AudioResampler(format="fltp", rate=rate_hz)
            if offset:
                seek_to = int(max(0.0, offset - 0.5) / (stream.time_base or 1))
                container.seek(seek_to, stream=stream)
            for frame in container.decode(stream):
                time = frame.time or 0.0
                begin = time if begin is None else begin
                for out in resampler.resample(frame):
                    pieces.append(out.to_ndarray())
                if duration is not None and time > offset + duration + 0.5:
                    break
    except (av.error.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise AudioError("unreadable", f"Cannot decode {path}: {why}") from None
    if not pieces:
        raise AudioError("no_samples", f"{path} holds no samples.")
    samples = np.concatenate(pieces, axis=1).T
    skip = max(0, round((offset - (begin or 0.0)) * rate_hz)) if offset else 0
    if skip >= len(samples):
        raise AudioError(
            "beyond_end", f"{path} ends before {offset:.2f} s, where the utterance begins."
        )
    stop = None if duration is None else skip + round(min(duration * rate_hz, UNKNOWN_FRAMES))
    expected = None
    if announced:
        seconds = announced - offset if duration is None else min(duration, announced - offset)
        expected = round(seconds * rate_hz)
    return samples[skip:stop], rate_hz, expected


def to_mono(samples: np.ndarray, *, channel: int | None = None) -> np.ndarray:
    """(samples, channels) -> (samples,): one channel, counted from 0, or the mean of all."""
    if channel is not None:
        if not 0 <= channel < samples.shape[1]:
            raise AudioError(
                "no_such_channel",
                f"Channel {channel} was asked for, the file has {samples.shape[1]}, counted from "
                f"0.",
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
    path: str, *, offset: float = 0.0, duration: float | None = None, rate_hz: int = 16000
) -> np.ndarray:
    """Read `duration` seconds (None: to the end) from `offset` as float32 mono (samples,) at
    rate_hz; channels are averaged.

    Raises UserError naming the file if it cannot be read.
    """
    samples, file_rate_hz = decode(path, offset=offset, duration=duration)
    return np.ascontiguousarray(
        resample(to_mono(samples), from_hz=file_rate_hz, to_hz=rate_hz), dtype=np.float32
    )


def stream_audio(
    path: str, *, rate_hz: int = 16000, block_seconds: float = 30.0
) -> Iterator[np.ndarray]:
    """Yield a whole recording as float32 mono blocks (samples,) at rate_hz; memory holds one block,
    however long it is. Raises AudioError.
    """
    import soundfile
    import soxr

    file = _open(path)
    if file is None:
        blocks, file_hz = _stream_av(path)
    else:
        file_hz = file.samplerate
        blocks = file.blocks(
            blocksize=int(block_seconds * file_hz), dtype="float32", always_2d=True
        )
    resampler = (
        None if file_hz == rate_hz else soxr.ResampleStream(file_hz, rate_hz, 1, dtype="float32")
    )
    try:
        for block in blocks:
            mono = to_mono(block)
            yield (
                mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono))
            )
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(
            "damaged", f"{path} has a header, but its data cannot be decoded to the end: {error}"
        ) from None
    finally:
        if file is not None:
            file.close()


def _stream_av(path: str) -> tuple[Iterator[np.ndarray], int]:
    """stream_audio's blocks (samples, channels) through FFmpeg, a second or so each, and their
    rate.
    """
    av = _ffmpeg(path)
    with _open_av(path) as container:
        rate_hz = container.streams.audio[0].rate

    def blocks() -> Iterator[np.ndarray]:
        resampler, pieces = av.AudioResampler(format="fltp", rate=rate_hz), []
        with _open_av(path) as container:
            try:
                for frame in container.decode(container.streams.audio[0]):
                    pieces += [out.to_ndarray() for out in resampler.resample(frame)]
                    if len(pieces) >= 50:
                        yield np.concatenate(pieces, axis=1).T
                        pieces = []
            except (av.error.FFmpegError, ValueError) as error:
                raise AudioError("damaged", f"Cannot decode {path} to the end: {error}") from None
        if pieces:
            yield np.concatenate(pieces, axis=1).T

    return blocks(), rate_hz


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in -1..1 as 16-bit integers; what is beyond full scale is clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def measure(
    samples: np.ndarray, *, rate_hz: int, mono16: np.ndarray, mono16_rate_hz: int
) -> Measured:
    """Levels, clipping and hash. `samples` (samples, channels) as decoded, `mono16` the 16-bit mono
    that is written.
    """
    peak = float(max(samples.max(), -samples.min()))
    clipped = (
        float(np.count_nonzero(np.abs(samples) >= CLIPPED_AT)) / samples.size
        if peak >= CLIPPED_AT
        else 0.0
    )
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
    return round(float(20 * np.log10(max(amplitude, 1e-6))), 2)


def write_flac(samples: np.ndarray, path: Path, *, rate_hz: int) -> None:
    """Write 16-bit mono FLAC whole or not at all. No fsync: hundreds of thousands of small files
    would wait for the disk.

    Raises UserError if the disk is full or closed to writing.
    """
    import soundfile

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Not by libsndfile, which says "System error." of whatever happens.
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, rate_hz, format="FLAC", subtype="PCM_16")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        why = REFUSED.get(error.errno or 0, error.strerror or str(error))
        raise UserError(
            f"Cannot write {path}: {why}. The same command goes on once that is mended."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
