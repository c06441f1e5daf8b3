"""General speech for training the `tiny` base: sentences of a grammar spoken by Debian's
synthesizers.

    python demo_making/synthesize_general.py --hours 16 --out corpora/general

Writes OUT/{train,dev_seen,dev_unseen}.jsonl with FLAC at 16 kHz beside them. Sentences of the dev
sets are not in train; the voices of dev_unseen are not either. Needs: apt-get install espeak-ng
flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
"""

import argparse
import os
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import soundfile
from synthetic import general_text, voices

from parakeet_ft.data.manifest import Utterance, write_manifest
from parakeet_ft.data.parallel import die_with_parent


def speak(job: tuple[int, str, str, voices.Voice, Path]) -> Utterance | None:
    number, split, text, voice, out = job
    path = out / split / f"{number % 100:02d}" / f"{number:06d}.flac"
    try:
        samples = voices.synthesize(text, voice, rng=random.Random(number))
    except RuntimeError:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, voices.RATE_HZ, subtype="PCM_16")
    return Utterance(
        audio_filepath=str(path.relative_to(out)),
        duration=len(samples) / voices.RATE_HZ,
        text=text,
        speaker=voice.speaker,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=16.0,
        help="hours of training speech, about 2.9 s an utterance",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    unseen = voices.unseen_voices()
    held_out: set[str] = set()
    plans = {"dev_seen": 200, "dev_unseen": 300, "train": int(args.hours * 3600 / 2.9)}
    for split, count in plans.items():
        jobs = []
        while len(jobs) < count:
            text = " ".join(general_text.sentence(rng) for _ in range(1 + (rng.random() < 0.2)))
            if split == "train" and text in held_out and len(text.split()) > 2:
                continue
            if split != "train":
                held_out.add(text)
            voice = (
                unseen[len(jobs) % len(unseen)] if split == "dev_unseen" else voices.base_voice(rng)
            )
            jobs.append((len(jobs), split, text, voice, args.out))
        with ProcessPoolExecutor(
            args.jobs, initializer=die_with_parent, initargs=(os.getpid(),)
        ) as pool:
            spoken = [u for u in pool.map(speak, jobs, chunksize=50) if u is not None]
        write_manifest(spoken, args.out / f"{split}.jsonl")
        print(
            f"{split}: {len(spoken)} utterances, {sum(u.duration for u in spoken) / 3600:.2f} h, "
            f"{count - len(spoken)} failed",
            flush=True,
        )


if __name__ == "__main__":
    main()
