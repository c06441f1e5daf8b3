"""What lies between a mouth and a recogniser: level, noise, band limits, radio. Pure: float32
(samples,) in and out, 16 kHz.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

RATE_HZ = 16000


def coloured_noise(num_samples: int, rng: np.random.Generator, *, slope: float) -> np.ndarray:
    """Noise of unit power whose spectrum falls as f**-slope (0 white, 0.5 pink, 1 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** slope
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, num_samples)
    return (noise / max(noise.std(), 1e-9)).astype(np.float32)


def add_noise(samples: np.ndarray, noise: np.ndarray, *, snr_db: float) -> np.ndarray:
    """Add `noise` (same length) at a signal-to-noise ratio in dB."""
    power = max(float(np.square(samples).mean()), 1e-9)
    scale = np.sqrt(power / 10 ** (snr_db / 10) / max(float(np.square(noise).mean()), 1e-9))
    return samples + np.float32(scale) * noise


def shape_spectrum(
    samples: np.ndarray,
    *,
    low_hz: float = 0.0,
    high_hz: float = RATE_HZ / 2,
    tilt_db: tuple[float, ...] = (),
) -> np.ndarray:
    """Band-limit to low_hz..high_hz and apply gains in dB at points equally spaced from 0 Hz to 8
    kHz.
    """
    # In float32 and at a length that FFTs like: this runs on every utterance of every pass.
    length = scipy.fft.next_fast_len(len(samples), real=True)
    spectrum = scipy.fft.rfft(samples.astype(np.float32), length)
    frequency = np.linspace(0, RATE_HZ / 2, len(spectrum), dtype=np.float32)
    if tilt_db:
        spectrum *= np.interp(
            frequency, np.linspace(0, RATE_HZ / 2, len(tilt_db)), 10 ** (np.array(tilt_db) / 20)
        ).astype(np.float32)
    if low_hz > 0:
        spectrum *= 1 / (1 + np.exp(-(frequency - np.float32(low_hz)) / 25))
    if high_hz < RATE_HZ / 2:
        spectrum *= 1 / (1 + np.exp(np.minimum((frequency - np.float32(high_hz)) / 50, 60)))
    return scipy.fft.irfft(spectrum, length)[: len(samples)]


def radio(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """VHF voice radio: 300-3,400 Hz, overdriven and clipped, with band-passed hiss at 15 to 30 dB,
    at a random level.
    """
    voice = shape_spectrum(samples, low_hz=300, high_hz=3400)
    drive = rng.uniform(1.2, 2.0) / max(float(np.abs(voice).max()), 1e-6)
    voice = np.clip(voice * drive, -1, 1)
    hiss = shape_spectrum(
        coloured_noise(len(voice), rng, slope=rng.uniform(0, 0.4)), low_hz=300, high_hz=3400
    )
    noisy = shape_spectrum(
        add_noise(voice, hiss, snr_db=rng.uniform(15, 30)), low_hz=300, high_hz=3400
    )
    return (noisy / max(float(np.abs(noisy).max()), 1e-6) * rng.uniform(0.2, 0.9)).astype(
        np.float32
    )


def vary(
    samples: np.ndarray, rng: np.random.Generator, noise: np.ndarray, *, strength: float = 1.0
) -> np.ndarray:
    """Training variation of general speech: random spectrum (a third limited to 4 kHz), noise from
    a pool, level.

    strength 0..1 scales it: CTC leaves its blank plateau late under full variation. Nine in ten get
    noise: a synthesizer's digital silence would otherwise rule the features' normalisation. noise:
    (n,) with n greater than the utterance's length.
    """
    telephone = rng.random() < strength / 3
    samples = shape_spectrum(
        samples,
        low_hz=rng.uniform(60, 300) if telephone else 0.0,
        high_hz=rng.uniform(3300, 4000) if telephone else 8000,
        tilt_db=tuple(strength * rng.uniform(-8, 8, size=6)),
    )
    if rng.random() > 0.1 * strength:
        start = rng.integers(0, len(noise) - len(samples))
        samples = add_noise(
            samples, noise[start : start + len(samples)], snr_db=rng.uniform(18 - 12 * strength, 40)
        )
    return samples * np.float32(10 ** (rng.uniform(-20, 3) / 20))
