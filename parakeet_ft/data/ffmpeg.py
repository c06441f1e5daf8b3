"""Audio files through FFmpeg (PyAV), for what libsndfile does not read: m4a, mp4, webm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from parakeet_ft.data.audio_file import AudioError, InMemory, contradicts_itself, open_bytes

if TYPE_CHECKING:
    import av

# Containers of FFmpeg whose header holds the true length; others estimate it from the bit rate.
HONEST_LENGTH = ("mov,", "matroska,")
# Decoding begins so many seconds before a stretch and ends so many after it: frames bear the time
# at which they begin.
MARGIN_SECONDS = 0.5
# Frames that are passed on together, a second or so.
STREAMED_FRAMES = 50


class _Bytes:
    """A file's bytes for FFmpeg, without its name: names choose protocols and formats."""

    name = ""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


def _open_nothing_else(url: str, flags: int, options: dict) -> None:
    raise PermissionError(f"it refers to {url}, and only the file itself is read")


def _ffmpeg(path: str | InMemory):
    """The module av. Raises AudioError if PyAV is what is missing to read `path`."""
    try:
        import av
    except ImportError:
        raise AudioError(
            "unreadable",
            f"libsndfile cannot read {path}; `pip install av` adds FFmpeg's formats (m4a, mp4, "
            "webm).",
        ) from None
    return av


def _why(error: Exception) -> object:
    """What went wrong, without the number and the file name that FFmpeg's errors add."""
    return getattr(error, "strerror", None) or error


@contextlib.contextmanager
def _decoding(path: str | InMemory) -> Iterator[None]:
    """Any exception of the decoders becomes an AudioError. Any, since damaged headers bring out the
    oddest ones (AttributeError: 'AudioStream' object has no attribute 'rate', PyAV 18)."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        raise AudioError("unreadable", f"Cannot decode {path}: {_why(error)}") from None


@contextlib.contextmanager
def open_audio(path: str | InMemory) -> Iterator[av.container.InputContainer]:
    """A container with an audio stream. Raises AudioError.

    FFmpeg gets bytes and no name, and may open nothing by itself: no protocol (http:, concat:,
    subfile:), and no file that a playlist names.
    """
    av = _ffmpeg(path)
    with _decoding(path), open_bytes(path) as file:
        if contradicts_itself(file.read(64)):
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
            raise AudioError(
                "unreadable", f"Neither libsndfile nor FFmpeg can read {path}: {_why(error)}"
            ) from None
        with container:
            if not container.streams.audio:
                raise AudioError("no_samples", f"{path} has no audio stream.")
            yield container


def announced_seconds(container: av.container.InputContainer) -> float:
    """The length that a header gives; 0 if it gives none."""
    stream = container.streams.audio[0]
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, (container.duration or 0) / 1e6)  # in microseconds, FFmpeg's AV_TIME_BASE


def _reliable_seconds(container: av.container.InputContainer) -> float:
    """The length that a header gives if it can be relied on, else 0. With video beside it, the
    audio may be shorter than its container.
    """
    if not container.format.name.startswith(HONEST_LENGTH) or len(container.streams) > 1:
        return 0.0
    return announced_seconds(container)


def read(
    path: str | InMemory, *, offset: float, duration: float | None
) -> tuple[np.ndarray, int, int | None]:
    """A stretch: samples (samples, channels), their rate, and how many the header announces, None
    if that cannot be relied on. Seeks to the key frame before `offset`, then cuts by the frames'
    own times. Raises AudioError.
    """
    av = _ffmpeg(path)
    try:
        with open_audio(path) as container:
            rate_hz = container.streams.audio[0].rate
            announced = _reliable_seconds(container)
            if announced and offset >= announced:
                raise AudioError(
                    "beyond_end",
                    f"{path} lasts {announced:.2f} s, the utterance begins at {offset:.2f} s.",
                )
            begin, pieces = _frames(container, offset=offset, duration=duration)
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError("unreadable", f"Cannot decode {path}: {_why(error)}") from None
    if not pieces:
        raise AudioError("no_samples", f"{path} holds no samples.")
    samples = np.concatenate(pieces, axis=1).T
    if offset:
        samples = samples[max(0, round((offset - begin) * rate_hz)) :]
    if not len(samples):
        raise AudioError(
            "beyond_end", f"{path} ends before {offset:.2f} s, where the utterance begins."
        )
    seconds = announced - offset
    if duration is not None:
        samples = samples[: round(min(duration * rate_hz, len(samples)))]
        seconds = min(duration, seconds)
    return samples, rate_hz, round(seconds * rate_hz) if announced else None


def _frames(
    container: av.container.InputContainer, *, offset: float, duration: float | None
) -> tuple[float, list[np.ndarray]]:
    """The time of the first frame and the samples (channels, samples) of all that a stretch
    needs.
    """
    import av

    stream = container.streams.audio[0]
    # No layout given: FFmpeg keeps the file's channels.
    resampler = av.AudioResampler(format="fltp", rate=stream.rate)
    if offset:
        seek_to = int(max(0.0, offset - MARGIN_SECONDS) / (stream.time_base or 1))
        container.seek(seek_to, stream=stream)
    begin: float | None = None
    pieces: list[np.ndarray] = []
    for frame in container.decode(stream):
        time = frame.time or 0.0
        begin = time if begin is None else begin
        pieces += [out.to_ndarray() for out in resampler.resample(frame)]
        if duration is not None and time > offset + duration + MARGIN_SECONDS:
            break
    return begin or 0.0, pieces


def rate_of(path: str | InMemory) -> int:
    """The rate of a file in Hz. Raises AudioError."""
    with open_audio(path) as container:
        return container.streams.audio[0].rate


def stream(path: str | InMemory, *, rate_hz: int) -> Iterator[np.ndarray]:
    """A whole recording as blocks (samples, channels), a second or so each. Raises AudioError."""
    av = _ffmpeg(path)
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)
    pieces: list[np.ndarray] = []
    with open_audio(path) as container:
        try:
            for frame in container.decode(container.streams.audio[0]):
                pieces += [out.to_ndarray() for out in resampler.resample(frame)]
                if len(pieces) >= STREAMED_FRAMES:
                    yield np.concatenate(pieces, axis=1).T
                    pieces = []
        except (av.error.FFmpegError, ValueError) as error:
            raise AudioError("damaged", f"Cannot decode {path} to the end: {_why(error)}") from None
    if pieces:
        yield np.concatenate(pieces, axis=1).T
