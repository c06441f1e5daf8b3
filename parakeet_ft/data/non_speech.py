"""Noise, music and silence as utterances with empty text, so that a tuned model goes on writing
nothing where nothing is said.

Parakeet was trained so by its makers; tuning on speech alone unlearns it. A few percent of the
training hours are meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from parakeet_ft.data import audio
from parakeet_ft.data.corpora.folder import existing_folder, walk_audio
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError

KINDS = ("silence", "white", "pink", "hum", "babble", "tones", "clicks")


def synthesize(kind: str, *, seconds: float, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 samples of one kind of non-speech, at a random level of -50 to -15 dBFS RMS (silence:
    -90 to -65).

    hum: mains frequency with harmonics; babble: noise with the spectrum and the syllable rate of a
    crowd, no word in it; tones: chords of decaying partials, a plain sort of music; clicks: sparse
    impulses through a resonance.
    """
    count = int(seconds * rate_hz)
    time = np.arange(count) / rate_hz
    if kind in ("silence", "white"):
        samples = rng.standard_normal(count)
    elif kind == "pink":
        samples = _coloured(count, rng, slope=0.5)
    elif kind == "hum":
        base = rng.choice([50.0, 60.0])
        samples = sum(
            rng.uniform(0.1, 1.0) / n * np.sin(2 * np.pi * base * n * time + rng.uniform(0, 6.3))
            for n in range(1, 9)
        )
        samples = samples + 0.05 * _coloured(count, rng, slope=0.5)
    elif kind == "babble":
        envelope = 0.3 + np.abs(
            np.interp(
                time,
                np.arange(0, seconds + 0.25, 0.12),
                rng.standard_normal(int((seconds + 0.25) / 0.12) + 1),
            )
        )
        samples = (
            _coloured(count, rng, slope=1.0, band_hz=(150.0, 3500.0), rate_hz=rate_hz)
            * envelope[:count]
        )
    elif kind == "tones":
        samples = np.zeros(count)
        for start in np.arange(0.0, seconds, rng.uniform(0.25, 0.8)):
            after = np.clip(time - start, 0, None)
            for semitone in rng.choice(24, size=3, replace=False):
                samples += (
                    (time >= start)
                    * np.exp(-3 * after)
                    * np.sin(2 * np.pi * 110.0 * 2 ** (semitone / 12) * after)
                )
    elif kind == "clicks":
        impulses = (rng.random(count) < rng.uniform(1, 8) / rate_hz) * rng.standard_normal(count)
        ring = np.exp(-np.arange(800) / 80) * np.sin(np.arange(800) * rng.uniform(0.2, 1.5))
        samples = np.convolve(impulses, ring)[:count] + 1e-4 * rng.standard_normal(count)
    else:
        raise UserError(f"The kind of non-speech is {kind!r}, expected one of {', '.join(KINDS)}.")
    level_dbfs = rng.uniform(-90, -65) if kind == "silence" else rng.uniform(-50, -15)
    samples = samples * 10 ** (level_dbfs / 20) / max(float(np.sqrt(np.mean(samples**2))), 1e-9)
    return np.clip(samples, -1, 1).astype(np.float32)


def _coloured(
    count: int,
    rng: np.random.Generator,
    *,
    slope: float,
    band_hz: tuple[float, float] | None = None,
    rate_hz: int = 16000,
) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power of `slope`, in a band or not."""
    frequencies = np.fft.rfftfreq(count, 1 / rate_hz)
    spectrum = np.fft.rfft(rng.standard_normal(count)) / np.maximum(frequencies, 20.0) ** slope
    if band_hz is not None:
        spectrum[(frequencies < band_hz[0]) | (frequencies > band_hz[1])] = 0
    return np.fft.irfft(spectrum, count)


def make_synthetic(
    out: Path,
    *,
    hours: float,
    min_seconds: float = 1.0,
    max_seconds: float = 15.0,
    seed: int = 0,
    rate_hz: int = 16000,
) -> Iterator[Utterance]:
    """Write FLAC to OUT/audio and yield the utterances, paths relative to `out`; the same seed
    gives the same bytes.
    """
    seconds = 0.0
    number = 0
    while seconds < hours * 3600:
        rng = np.random.default_rng([seed, number])
        kind = KINDS[number % len(KINDS)]
        samples = synthesize(
            kind,
            seconds=round(float(rng.uniform(min_seconds, max_seconds)), 2),
            rate_hz=rate_hz,
            rng=rng,
        )
        path = Path("audio") / f"{kind}-{number:05d}.flac"
        audio.write_flac(audio.to_int16(samples), out / path, rate_hz=rate_hz)
        yield _utterance(path, len(samples) / rate_hz, kind)
        seconds += len(samples) / rate_hz
        number += 1


def cut_folder(
    folder: str | Path,
    out: Path,
    *,
    hours: float,
    min_seconds: float = 1.0,
    max_seconds: float = 15.0,
    seed: int = 0,
    rate_hz: int = 16000,
) -> Iterator[Utterance]:
    """Cut a user's noise and music at random into FLAC under OUT/audio, and yield the utterances,
    until `hours` are full.

    Files are taken in turn, each cut elsewhere the next time. The folder must hold no speech:
    nothing here can tell. Raises UserError if it holds no audio that can be read and lasts
    `min_seconds`.
    """
    root = existing_folder(folder)
    lengths = ((path, _seconds_of(path)) for path in walk_audio(root))
    usable = [(path, length) for path, length in lengths if length >= min_seconds]
    if not usable:
        raise UserError(f"{root} holds no audio of {min_seconds:g} s or more that can be read.")
    seconds = 0.0
    number = 0
    while seconds < hours * 3600:
        rng = np.random.default_rng([seed, number])
        path, length = usable[number % len(usable)]
        part = min(length, float(rng.uniform(min_seconds, max_seconds)))
        samples = audio.read_audio(
            str(path), offset=float(rng.uniform(0, length - part)), duration=part, rate_hz=rate_hz
        )
        target = Path("audio") / f"{path.stem[:40]}-{number:05d}.flac"
        audio.write_flac(audio.to_int16(samples), out / target, rate_hz=rate_hz)
        yield _utterance(target, len(samples) / rate_hz, "recorded")
        seconds += len(samples) / rate_hz
        number += 1


def _seconds_of(path: Path) -> float:
    """The length of a file; -1 if it cannot be read."""
    try:
        return audio.probe(str(path)).duration
    except audio.AudioError:
        return -1.0


def _utterance(path: Path, seconds: float, kind: str) -> Utterance:
    """A stretch of something else than speech."""
    return Utterance(
        audio_filepath=str(path),
        duration=seconds,
        text="",
        extra={"non_speech": True, "kind": kind},
    )
