"""Ogg Opus from its beginning by FFmpeg's decoder, which takes half of libsndfile's time for the
same samples: within a hundredth of a 16-bit step, measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from parakeet_ft.data import ffmpeg
from parakeet_ft.data.audio_file import AudioError, InMemory, KaldiPipe

if TYPE_CHECKING:
    import soundfile

# What FFmpeg decodes Opus at; libsndfile does so where the file says that it was recorded so.
RATE_HZ = 48_000


def read(
    file: soundfile.SoundFile, path: str | KaldiPipe | InMemory, *, duration: float | None
) -> tuple[np.ndarray, int] | None:
    """Samples (samples, channels) of `duration` seconds (None: all), and how many there should be.

    None for what libsndfile shall read itself: any other format or rate, more than two channels,
    whose order the two may see otherwise, and Opus of which FFmpeg finds another number of samples.
    """
    if file.subtype != "OPUS" or file.samplerate != RATE_HZ or file.channels > 2:
        return None
    if isinstance(path, KaldiPipe):
        return None
    expected = file.frames
    if duration is not None:
        expected = min(expected, round(duration * RATE_HZ))
    try:
        samples, rate_hz, _ = ffmpeg.read(path, offset=0.0, duration=duration)
    except AudioError:
        return None
    fits = rate_hz == RATE_HZ and samples.shape == (expected, file.channels)
    return (samples, expected) if fits else None
