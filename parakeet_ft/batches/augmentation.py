"""Audio changed as it is read: speed, noise, telephone. Each utterance by a draw of its own, from
seed, pass and number, so that neither the number of ranks nor a resume changes what it sounds like.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parakeet_ft.data import layouts, sources
from parakeet_ft.data.audio import AudioError, probe, read_audio, source_of
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.settings.manifests import WeightedManifest

TELEPHONE_HZ = 8000


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to an utterance. speeds: one of these factors, 1.1 being faster and shorter.
    noises are mixed in with noise_probability at a level drawn from noise_snr_db (lowest, highest),
    below that of the speech; with codec_probability the result is as over a telephone.
    """

    seed: int
    speeds: tuple[float, ...]
    noises: Sequence[Utterance]
    noise_snr_db: tuple[float, float]
    noise_probability: float
    codec_probability: float

    def speed_of(self, number: int, index: int) -> float:
        """The factor for an utterance in a pass."""
        return float(self._speeds(number, np.array([index]))[0])

    def speeds_of(self, number: int, count: int) -> np.ndarray:
        """The factors (count) of all utterances in a pass."""
        return self._speeds(number, np.arange(count))

    def _speeds(self, number: int, indices: np.ndarray) -> np.ndarray:
        key = random.Random(f"speed {self.seed} {number}").getrandbits(64)
        return np.array(self.speeds)[scattered(indices, key) % len(self.speeds)]

    def apply(self, samples: np.ndarray, *, rate_hz: int, number: int, index: int) -> np.ndarray:
        """samples (T) of utterance `index` as pass `number` plays them, (T / speed), float32.
        Raises UserError if a noise cannot be read.
        """
        rng = random.Random(f"sound {self.seed} {number} {index}")
        samples = change_speed(samples, self.speed_of(number, index), rate_hz=rate_hz)
        if self.noises and rng.random() < self.noise_probability:
            noise = cut_noise(
                rng.choice(self.noises),
                seconds=len(samples) / rate_hz,
                rate_hz=rate_hz,
                position=rng.random(),
            )
            samples = mix(samples, noise, snr_db=rng.uniform(*self.noise_snr_db), rate_hz=rate_hz)
        if rng.random() < self.codec_probability:
            samples = telephone(samples, rate_hz=rate_hz)
        return samples

    def facts(self) -> dict[str, Any]:
        """What this object does, for run.json and the console."""
        return {
            "speeds": list(self.speeds),
            "noises": len(self.noises),
            "noise_hours": round(sum(u.duration for u in self.noises) / 3600, 4),
            "noise_probability": self.noise_probability if self.noises else 0.0,
            "noise_snr_db": list(self.noise_snr_db),
            "codec_probability": self.codec_probability,
        }


def scattered(indices: np.ndarray, key: int) -> np.ndarray:
    """A random 64-bit number for each index (N), the same for it alone and among millions
    (SplitMix64: Steele, Lea and Flood 2014).
    """
    z = np.uint64(key) + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def build(
    *,
    seed: int,
    speed: Sequence[float] | None,
    noise_manifest: str | None,
    noise_snr_db: Sequence[float],
    noise_probability: float,
    codec_probability: float,
) -> Augmentation | None:
    """The augmentation of a run; None if nothing is to be changed. Raises UserError for values that
    cannot be meant and noise that is not there.
    """
    _check_speed(speed)
    if len(noise_snr_db) != 2 or noise_snr_db[0] > noise_snr_db[1]:
        raise UserError(
            f"data.augmentation.noise_snr_db={list(noise_snr_db)}: expected the lowest and the "
            f"highest, such as [5,20]."
        )
    _check_probability("noise_probability", noise_probability)
    _check_probability("codec_probability", codec_probability)
    noises = read_noises(noise_manifest) if noise_manifest and noise_probability else []
    if not (speed or noises or codec_probability):
        return None
    return Augmentation(
        seed,
        tuple(speed or (1.0,)),
        noises,
        (noise_snr_db[0], noise_snr_db[1]),
        noise_probability,
        codec_probability,
    )


def _check_speed(speed: Sequence[float] | None) -> None:
    """Raise UserError unless there are factors that speech can bear, or None."""
    if speed is None:
        return
    if not speed or not all(isinstance(f, int | float) and 0.5 <= f <= 2 for f in speed):
        raise UserError(
            f"data.augmentation.speed={speed}: expected null or factors between 0.5 and 2, such as "
            f"[0.9,1.0,1.1]."
        )


def _check_probability(key: str, value: float) -> None:
    """Raise UserError unless a value is a probability."""
    if not 0 <= value <= 1:
        raise UserError(f"data.augmentation.{key}={value}: expected a number between 0 and 1.")


def read_noises(source: str) -> list[Utterance]:
    """Noise from a manifest, whose texts do not matter, or all audio under a folder. Raises
    UserError if there is none.
    """
    if os.path.isdir(source) and not layouts.holds_shards(source):
        found = _audio_below(Path(source))
    else:
        found = sources.read_all((WeightedManifest(source),), needs_text=False)
    if not found:
        raise UserError(
            f"data.augmentation.noise_manifest={source} holds no audio. Expected a folder of audio "
            "files, or a manifest with audio_filepath and duration, as data_prep/non_speech.py "
            "makes."
        )
    return found


def _audio_below(folder: Path) -> list[Utterance]:
    """All audio files below a folder; licences and lists that lie beside them are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        with contextlib.suppress(AudioError):
            found.append(Utterance(str(path.resolve()), probe(str(path)).duration, ""))
    return found


def change_speed(samples: np.ndarray, factor: float, *, rate_hz: int) -> np.ndarray:
    """Play samples (T) at `factor` times the speed, pitch included, -> (T / factor)."""
    if factor == 1:
        return samples
    from lhotse.augmentation import Speed

    return Speed(factor=factor)(samples[None], rate_hz)[0]


def cut_noise(noise: Utterance, *, seconds: float, rate_hz: int, position: float) -> np.ndarray:
    """`seconds` of a recording, from `position` (0 to 1) of what it leaves free; repeated where it
    is too short.
    """
    start = max(0.0, noise.duration - seconds) * position
    samples = read_audio(
        source_of(noise),
        offset=noise.offset + start,
        duration=min(seconds, noise.duration),
        rate_hz=rate_hz,
    )
    return np.resize(samples, round(seconds * rate_hz))


def mix(samples: np.ndarray, noise: np.ndarray, *, snr_db: float, rate_hz: int) -> np.ndarray:
    """Both (T) together, the noise's energy snr_db below that of the samples; either being silent,
    the samples as they are.
    """
    if not samples.any() or not noise.any():
        return samples
    from lhotse.audio.mixer import AudioMixer

    mixer = AudioMixer(samples[None], rate_hz)
    mixer.add_to_mix(noise[None], snr=snr_db)
    return mixer.mixed_audio[0].astype(np.float32)


def telephone(samples: np.ndarray, *, rate_hz: int) -> np.ndarray:
    """What is left of samples (T) after 8 kHz and eight bits of mu-law (ITU-T G.711's curve). As
    Lhotse's Narrowband, which needs torchaudio.
    """
    import torch
    from lhotse.augmentation import get_or_create_resampler

    to_narrow = get_or_create_resampler(rate_hz, TELEPHONE_HZ)
    narrow = to_narrow(torch.from_numpy(samples)[None]).clamp(-1, 1)
    compressed = torch.sign(narrow) * torch.log1p(255 * narrow.abs()) / np.log1p(255)
    compressed = torch.round((compressed + 1) / 2 * 255) / 255 * 2 - 1
    expanded = torch.sign(compressed) * torch.expm1(compressed.abs() * np.log1p(255)) / 255
    wide = get_or_create_resampler(TELEPHONE_HZ, rate_hz)(expanded)[0].numpy()[: len(samples)]
    return np.pad(wide, (0, len(samples) - len(wide)))
