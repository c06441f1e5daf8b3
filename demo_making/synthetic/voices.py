"""Voices of espeak-ng, flite and festival, divided once into those of the base, of its test and of
the demo domain.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE_HZ = 16000
ENGINES = ("espeak-ng", "flite", "festival")

# espeak-ng's variants that sound like a person. Every sixth is kept for the base's test, every
# sixth for the demo domain.
_VARIANTS = """
    Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario
    Michael Mike Nguyen RicishayMax RicishayMax2 RicishayMax3 Storm adam anika antonio aunty
    belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 f4 f5 grandma grandpa gustave
    iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 linda m1 m2 m3 m4 m5 m6 m7
    m8 marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph
    steph2 steph3 travis victor zac
""".split()
_ACCENTS = [
    "en-us",
    "en-us",
    "en-gb",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
]


@dataclasses.dataclass(frozen=True)
class Voice:
    """One speaker: engine and its voice name, plus what makes the person (pitch 0-99 for espeak-ng,
    vocal tract factor).
    """

    engine: str
    name: str
    pitch: int = 50
    tract: float = 1.0

    @property
    def speaker(self) -> str:
        return f"{self.engine}:{self.name}:{self.pitch}:{self.tract:.2f}"


def base_voice(rng: random.Random) -> Voice:
    """A voice that the base may hear: 62 % espeak-ng, 26 % flite (kal16, rms, slt), 12 % festival
    (kal, slt-hts).
    """
    tract = round(rng.uniform(0.86, 1.16), 2)
    draw = rng.random()
    if draw < 0.62:
        variant = rng.choice([v for i, v in enumerate(_VARIANTS) if i % 6 < 4])
        return Voice("espeak-ng", f"{rng.choice(_ACCENTS)}+{variant}", rng.randint(15, 85), tract)
    if draw < 0.88:
        return Voice(
            "flite", rng.choice(["kal16", "rms", "rms", "slt", "slt"]), rng.randint(0, 99), tract
        )
    return Voice("festival", rng.choice(["kal_diphone", "cmu_us_slt_arctic_hts"]), 50, tract)


def unseen_voices() -> list[Voice]:
    """Voices for the base's own test: no variant, flite voice or diphone set here is in
    `base_voice`.
    """
    variants = [v for i, v in enumerate(_VARIANTS) if i % 6 == 5]
    espeak = [
        Voice("espeak-ng", f"{(_ACCENTS + ['en-gb-scotland'])[i % 9]}+{v}", 30 + 5 * (i % 9))
        for i, v in enumerate(variants)
    ]
    return espeak + [Voice("flite", "awb"), Voice("festival", "ked_diphone")] * 4


def domain_voices() -> dict[str, list[Voice]]:
    """Speakers of the demo domain by split, none of them in `base_voice`; disjoint between
    splits.
    """
    variants = [v for i, v in enumerate(_VARIANTS) if i % 6 == 4]

    def person(i: int, variant: str) -> Voice:
        return Voice(
            "espeak-ng",
            f"{(['en-gb-scotland'] + _ACCENTS)[i % 9]}+{variant}",
            30 + 7 * i % 40,
            round(0.9 + 0.03 * (i * 5 % 8), 2),
        )

    train = [person(i, variants[i % (len(variants) - 6)]) for i in range(5 * (len(variants) - 6))]
    rest = [person(i, variant) for i, variant in enumerate(variants[-6:], len(train))]
    return {
        "train": [*train, *[Voice("flite", "awb", 25 * i, 0.9 + 0.06 * i) for i in range(4)]],
        "dev": rest[:3],
        "test": [*rest[3:], Voice("festival", "ked_diphone")],
    }


def synthesize(text: str, voice: Voice, *, rng: random.Random) -> np.ndarray:
    """Speak `text`: float32 mono at 16 kHz, peak 0.5, with a random speaking rate (0.85-1.2) and
    short silences around it.

    Raises RuntimeError with the engine's own words if it fails.
    """
    rate = rng.uniform(0.85, 1.2)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        if voice.engine == "espeak-ng":
            command = [
                "espeak-ng",
                "-v",
                voice.name,
                "-s",
                str(int(165 * rate)),
                "-p",
                str(voice.pitch),
                "-w",
                str(wav),
                text,
            ]
        elif voice.engine == "flite":
            centre = {"slt": 165, "kal16": 105}.get(voice.name, 110)
            command = [
                "flite",
                "-voice",
                voice.name,
                "--setf",
                f"duration_stretch={1 / rate:.3f}",
                "--setf",
                f"int_f0_target_mean={centre * (0.8 + 0.4 * voice.pitch / 99):.0f}",
                "-t",
                text,
                "-o",
                str(wav),
            ]
        else:
            command = [
                "festival",
                "-b",
                f"(voice_{voice.name})",
                f"(Parameter.set 'Duration_Stretch {1 / rate:.3f})",
                f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{wav}" (quote riff))',
            ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not wav.exists():
            raise RuntimeError(
                f"{voice.engine} failed on {text!r}: {done.stderr.strip() or 'no audio written'}"
            )
        samples, rate_hz = soundfile.read(wav, dtype="float32")
    # Resampling as if the recording had another rate shifts pitch and formants together: a longer
    # or shorter vocal tract.
    samples = soxr.resample(samples, rate_hz / voice.tract, RATE_HZ)
    loud = np.flatnonzero(np.abs(samples) > 0.005)
    if not len(loud):
        raise RuntimeError(f"{voice.engine} {voice.name} spoke only silence for {text!r}")
    samples = samples[loud[0] : loud[-1]] / max(float(np.abs(samples).max()), 1e-4) * 0.5
    return np.pad(
        samples, (int(rng.uniform(0.05, 0.35) * RATE_HZ), int(rng.uniform(0.05, 0.35) * RATE_HZ))
    ).astype(np.float32)
