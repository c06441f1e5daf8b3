"""Audio files through libsndfile, and what it does not say of those that were cut off."""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

import numpy as np

from parakeet_ft.data.audio_file import AudioError, InMemory, KaldiPipe, check_file, open_bytes, run

if TYPE_CHECKING:
    import soundfile

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


def open_audio(source: str | InMemory | KaldiPipe) -> soundfile.SoundFile | None:
    """The audio as libsndfile sees it, or None if only PyAV may know the format.

    Raises AudioError for what no decoder can help.
    """
    import soundfile

    if isinstance(source, KaldiPipe):
        try:
            return soundfile.SoundFile(run(source))
        except soundfile.LibsndfileError as error:
            raise AudioError("unreadable", f"Cannot read what {source} writes: {error}") from None
    check_file(source)
    try:
        file = soundfile.SoundFile(
            _plain_name(source) if isinstance(source, str) else open_bytes(source)
        )
    # TypeError: soundfile 0.14 takes a file called x.raw for headerless samples.
    except (soundfile.LibsndfileError, OSError, TypeError):
        return None
    if file.frames >= UNKNOWN_FRAMES:
        file.close()
        return None
    return file


def _plain_name(path: str) -> str | bytes:
    """The absolute path: libsndfile takes "-" for the standard input."""
    path = os.path.abspath(path)
    return path if os.name == "nt" else os.fsencode(path)


def read(
    file: soundfile.SoundFile, name: object, *, offset: float, duration: float | None
) -> tuple[np.ndarray, int]:
    """Samples (samples, channels) of a stretch, and how many there should be. Raises AudioError."""
    import soundfile

    rate_hz = file.samplerate
    start = _frames(offset, rate_hz)
    if start and start >= file.frames:
        raise AudioError(
            "beyond_end",
            f"{name} lasts {file.frames / rate_hz:.2f} s, the utterance begins at {offset:.2f} s.",
        )
    expected = announced_frames(file) - start
    if duration is not None:
        expected = min(expected, _frames(duration, rate_hz))
    try:
        if start:
            file.seek(start)
        return file.read(expected, dtype="float32", always_2d=True), expected
    except (soundfile.LibsndfileError, OSError, MemoryError, ValueError) as error:
        raise damaged(name, error) from None


def damaged(name: object, error: Exception) -> AudioError:
    """The error to raise for data that libsndfile cannot decode."""
    return AudioError(
        "damaged", f"{name} has a header, but its data cannot be decoded to the end: {error}"
    )


def _frames(seconds: float, rate_hz: int) -> int:
    """Seconds as a number of frames."""
    return round(min(seconds * rate_hz, UNKNOWN_FRAMES))


def announced_frames(file: soundfile.SoundFile) -> int:
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


def _nist_frames(file: soundfile.SoundFile) -> int:
    """sample_count of a SPHERE header, which libsndfile 1.2 does not compare with the data."""
    if isinstance(file.name, str | bytes):
        with open(file.name, "rb") as header:
            start = header.read(4096)
    elif isinstance(file.name, io.BytesIO):
        start = bytes(file.name.getbuffer()[:4096])
    else:
        return file.frames
    found = re.search(rb"^sample_count -i (\d{1,12})\s", start, re.MULTILINE)
    return max(file.frames, int(found[1])) if found else file.frames
