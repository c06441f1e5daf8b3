"""The demo's data: air traffic control over radio, a general guard set and a general replay set, as
small Opus files.

    python demo_making/synthesize_demo.py --out parakeet_ft/demo

Writes OUT/{train,dev,test,guard_dev,guard,replay}.jsonl and OUT/audio/. Speakers and sentences of
train, dev and test are disjoint and none of the domain's voices was heard by the base. The guard is
general speech that no training set holds, half of it by voices that the base never heard; guard_dev
is its counterpart for validation. Needs the packages of synthesize_general.py.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import soundfile
from synthetic import atc_text, channel, general_text, voices

from parakeet_ft.data.manifest import Utterance, write_manifest

# So that a point of WER is more than noise: over 1,000 words of the domain, 2,000 of the guard.
MINUTES = {
    "train": 15.0,
    "dev": 6.8,
    "test": 6.8,
    "guard_dev": 12.5,
    "guard": 12.5,
    "replay": 15.0,
}
NOISE = channel.coloured_noise(60 * voices.RATE_HZ, np.random.default_rng(7), slope=0.4)


def synthesize_split(split: str, minutes: float, used: set[str], out: Path) -> list[Utterance]:
    """Speak new sentences until `minutes` are full; `used` holds the sentences of the splits before
    and grows.
    """
    rng = random.Random(f"demo {split}")
    noise_rng = np.random.default_rng(rng.randrange(2**32))
    domain = split in ("train", "dev", "test")
    speakers = voices.domain_voices()[split] if domain else []
    utterances: list[Utterance] = []
    while sum(u.duration for u in utterances) < minutes * 60:
        text = (atc_text if domain else general_text).sentence(rng)
        if text in used:
            continue
        used.add(text)
        if domain:
            voice = speakers[len(utterances) % len(speakers)]
        elif split == "replay" or len(utterances) % 2:
            voice = voices.base_voice(rng)
        else:
            voice = rng.choice(voices.unseen_voices())
        samples = voices.synthesize(text, voice, rng=rng)
        samples = (
            channel.radio(samples, noise_rng) if domain else channel.vary(samples, noise_rng, NOISE)
        )
        path = Path("audio") / split / f"{len(utterances):04d}.opus"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        # libsndfile's Opus compression level: 0.975 gives about 15 kbit/s here, which keeps the
        # whole demo under 8 MB.
        soundfile.write(
            out / path,
            np.clip(samples, -1, 1),
            voices.RATE_HZ,
            format="OGG",
            subtype="OPUS",
            compression_level=0.975,
        )
        utterances.append(
            Utterance(
                audio_filepath=str(path),
                duration=soundfile.info(out / path).duration,
                text=text,
                speaker=voice.speaker,
            )
        )
    return utterances


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    used: set[str] = set()
    for split, minutes in MINUTES.items():
        utterances = synthesize_split(split, minutes, used, args.out)
        write_manifest(utterances, args.out / f"{split}.jsonl")
        print(
            f"{split}: {len(utterances)} utterances, "
            f"{sum(u.duration for u in utterances) / 60:.1f} min, "
            f"{len({u.speaker for u in utterances})} speakers",
            flush=True,
        )
    size = sum(file.stat().st_size for file in (args.out / "audio").rglob("*.opus"))
    print(f"{size / 1e6:.2f} MB of audio")


if __name__ == "__main__":
    main()
