"""Domains of real speech for benchmarks/forgetting.py, made of local copies of public corpora.

    python benchmarks/domains.py --digits FOLDER --speechocean FOLDER --out data/domains

--digits: the Free Spoken Digit Dataset; recordings/{digit}_{speaker}_{take}.wav, or a metadata.csv
of path, text, speaker and take. Strings of three to seven digits are joined out of one speaker's
recordings, with pauses, and written as FLAC of 16 kHz.
--speechocean: speechocean762; its own folder (of which train/ is taken), a Kaldi data directory
with spk2age, or a metadata.csv of path, text, speaker and age. Its audio stays where it is.

Writes OUT/digits, OUT/adults and OUT/children, each with train.jsonl, dev.jsonl and test.jsonl. No
speaker of a test set is in another one. Where the digits have less than four speakers, their dev is
other recordings of the training speakers: of three, two to learn from are worth more than one to
choose by.
"""

import argparse
import dataclasses
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from parakeet_ft.data import audio
from parakeet_ft.data.corpora.kaldi import read_kaldi
from parakeet_ft.data.corpora.table import read_table
from parakeet_ft.data.manifest import Utterance, write_manifest
from parakeet_ft.data.splits import SPLITS, fraction
from parakeet_ft.errors import UserError, exit_on_user_error

RATE_HZ = 16000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Strings of each training speaker, and of the other two sets in all.
STRINGS = {"train": 250, "dev": 200, "test": 200}
STRING_DIGITS = (3, 7)
PAUSE_SECONDS = (0.05, 0.25)
EDGE_SECONDS = 0.1
SEED = 1
# Of the takes of a speaker that is in train and in dev, the first fifth is for dev.
DEV_TAKES = 0.2
# Years; those between are neither.
CHILD_BELOW, ADULT_FROM = 12, 16
SPEAKER_SHARES = {"dev": 0.15, "test": 0.25}

Sets = dict[str, list[Utterance]]


def read_digits(folder: Path) -> list[Utterance]:
    """Recordings of single digits, each with its `take`. Raises UserError if the folder is another
    corpus.
    """
    if (folder / "metadata.csv").is_file():
        found = list(read_table(folder / "metadata.csv"))
    else:
        found = [_named_recording(path) for path in sorted(folder.glob("recordings/*.wav"))]
    odd = next((u for u in found if not _is_digit(u)), None)
    if not found or odd:
        seen = f"{odd.audio_filepath} ({odd.text!r})" if odd else "no recording"
        raise UserError(
            f"--digits {folder}: found {seen}. Expected the Free Spoken Digit Dataset: "
            "recordings/{digit}_{speaker}_{take}.wav, or a metadata.csv with path, text (zero to "
            "nine), speaker and take."
        )
    return found


def _named_recording(path: Path) -> Utterance:
    """What the file's name says: digit, speaker, take."""
    digit, _, rest = path.stem.partition("_")
    speaker, _, take = rest.rpartition("_")
    text = DIGITS[int(digit)] if digit in set("0123456789") else ""
    return Utterance(str(path), 0.0, text, speaker=speaker or None, extra={"take": take})


def _is_digit(utterance: Utterance) -> bool:
    take = str(utterance.extra.get("take", ""))
    return utterance.text in DIGITS and bool(utterance.speaker) and take.isdigit()


def split_digits(recordings: list[Utterance]) -> dict[str, dict[str, list[Utterance]]]:
    """Recordings by split and speaker: a third of the speakers, last by name, for test, and of four
    or more the one before for dev. Raises UserError if there is only one.
    """
    speakers = sorted({u.speaker or "" for u in recordings})
    if len(speakers) < 2:
        raise UserError(
            f"--digits: found recordings of {', '.join(speakers)} alone, expected two speakers or "
            "more, as one is tested on and never learnt from."
        )
    num_test = max(1, len(speakers) // 3)
    rest, test = speakers[:-num_test], speakers[-num_test:]
    of = {name: [u for u in recordings if u.speaker == name] for name in speakers}
    if len(speakers) >= 4:
        train, dev = {n: of[n] for n in rest[:-1]}, {rest[-1]: of[rest[-1]]}
    else:
        train = {name: _takes(of[name], for_dev=False) for name in rest}
        dev = {name: _takes(of[name], for_dev=True) for name in rest}
    return {"train": train, "dev": dev, "test": {name: of[name] for name in test}}


def _takes(recordings: list[Utterance], *, for_dev: bool) -> list[Utterance]:
    """One speaker's recordings with the lowest takes, or all others."""
    takes = sorted({int(u.extra["take"]) for u in recordings})
    lowest = set(takes[: max(1, round(DEV_TAKES * len(takes)))])
    return [u for u in recordings if (int(u.extra["take"]) in lowest) == for_dev]


def write_digits(folder: Path, out: Path) -> Sets:
    """Strings of digits as audio and manifests in `out`. Raises UserError."""
    parts = split_digits(read_digits(folder))
    sets: Sets = {}
    for split, speakers in parts.items():
        each = STRINGS[split] if split == "train" else -(-STRINGS[split] // len(speakers))
        sets[split] = [
            _write_string(drawn, out / "audio" / split / f"{speaker}-{number:03d}.flac", pause)
            for speaker, recordings in speakers.items()
            for number, (drawn, pause) in enumerate(strings(recordings, each, f"{split}/{speaker}"))
        ]
        write_manifest(sets[split], out / f"{split}.jsonl")
    return sets


def strings(
    recordings: list[Utterance], count: int, name: str
) -> Iterator[tuple[list[Utterance], Callable[[], float]]]:
    """Strings of one speaker's recordings, and what draws the pauses between them, the same for a
    name each time. No recording comes again before all others were there.
    """
    rng = random.Random(f"{SEED}/{name}")
    dealt = _dealt(sorted(recordings, key=lambda u: Path(u.audio_filepath).name), rng)
    for _ in range(count):
        drawn = list(itertools.islice(dealt, rng.randint(*STRING_DIGITS)))
        yield drawn, lambda: rng.uniform(*PAUSE_SECONDS)


def _dealt(recordings: list[Utterance], rng: random.Random) -> Iterator[Utterance]:
    """All in random order, and again, without end."""
    while True:
        yield from rng.sample(recordings, len(recordings))


def _write_string(drawn: list[Utterance], path: Path, pause: Callable[[], float]) -> Utterance:
    """The recordings one after another, silence between them and at both ends."""
    pieces = [_silence(EDGE_SECONDS)]
    for number, utterance in enumerate(drawn):
        if number:
            pieces.append(_silence(pause()))
        pieces.append(audio.read_audio(utterance.audio_filepath, rate_hz=RATE_HZ))
    joined = audio.to_int16(np.concatenate([*pieces, _silence(EDGE_SECONDS)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write_flac(joined, path, rate_hz=RATE_HZ)
    return Utterance(
        os.path.abspath(path),
        len(joined) / RATE_HZ,
        " ".join(u.text for u in drawn),
        speaker=drawn[0].speaker,
    )


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE_HZ), dtype=np.float32)


def read_speechocean(folder: Path) -> list[Utterance]:
    """Sentences in lower case, each with its speaker's `age`. Raises UserError if the folder is
    another corpus.
    """
    table, kaldi = folder / "metadata.csv", folder
    if (folder / "train" / "wav.scp").is_file():
        kaldi = folder / "train"
    if table.is_file():
        found = list(read_table(table))
    elif (kaldi / "wav.scp").is_file() and (kaldi / "spk2age").is_file():
        found = list(_of_kaldi(kaldi))
    else:
        found = []
    odd = next((u for u in found if not str(u.extra.get("age", "")).isdigit()), None)
    if not found or odd:
        seen = f"{odd.audio_filepath} without a speaker's age" if odd else "neither"
        raise UserError(
            f"--speechocean {folder}: found {seen}. Expected speechocean762: train/ with wav.scp, "
            "text, utt2spk and spk2age, or a metadata.csv with path, text, speaker and age."
        )
    return [
        Utterance(
            os.path.abspath(u.audio_filepath),
            audio.probe(u.audio_filepath).duration,
            u.text.lower(),
            speaker=u.speaker,
            extra={"age": int(u.extra["age"])},
        )
        for u in found
    ]


def _of_kaldi(folder: Path) -> Iterator[Utterance]:
    """Those of a Kaldi data directory, whose audio is beside it, with the speakers' ages."""
    lines = (folder / "spk2age").read_text(encoding="utf-8").splitlines()
    ages = {name: age for name, age in (line.split()[:2] for line in lines if line.strip())}
    for utterance in read_kaldi(folder, audio_root=folder.parent):
        age = ages.get(utterance.speaker or "", "")
        yield dataclasses.replace(utterance, extra={"age": age})


def split_speakers(utterances: list[Utterance]) -> Sets:
    """Whole speakers to dev and test by SPEAKER_SHARES, in the order of a hash of their names.
    Raises UserError if they do not suffice for all three.
    """
    speakers = sorted({u.speaker or "" for u in utterances}, key=fraction)
    num_test, num_dev = (
        max(1, round(SPEAKER_SHARES[name] * len(speakers))) for name in ("test", "dev")
    )
    if len(speakers) < 3:
        raise UserError(
            f"--speechocean: found {len(speakers)} speakers of an age group, expected three or "
            "more: one to learn from, one to choose by, one to test on."
        )
    where = dict.fromkeys(speakers, "train")
    where |= dict.fromkeys(speakers[:num_test], "test")
    where |= dict.fromkeys(speakers[num_test : num_test + num_dev], "dev")
    sets: Sets = {name: [] for name in SPLITS}
    for utterance in utterances:
        sets[where[utterance.speaker or ""]].append(utterance)
    return sets


def write_speechocean(folder: Path, out: Path) -> dict[str, Sets]:
    """Manifests of children and of adults in `out`. Raises UserError."""
    found = read_speechocean(folder)
    groups = {
        "adults": [u for u in found if u.extra["age"] >= ADULT_FROM],
        "children": [u for u in found if u.extra["age"] < CHILD_BELOW],
    }
    domains = {name: split_speakers(members) for name, members in groups.items()}
    for name, sets in domains.items():
        for split, utterances in sets.items():
            write_manifest(utterances, out / name / f"{split}.jsonl")
    between = len(found) - sum(map(len, groups.values()))
    print(
        f"speechocean762: {between} sentences of {CHILD_BELOW} to {ADULT_FROM - 1} years left out"
    )
    return domains


def describe(name: str, sets: Sets) -> Iterator[str]:
    """A line for each set: how much it holds, who speaks, what of it is said in train too."""
    learnt = {u.text for u in sets["train"]}
    for split, utterances in sets.items():
        speakers = sorted({u.speaker or "" for u in utterances})
        line = (
            f"{name} {split}: {len(utterances)} utterances, {_minutes(utterances):.1f} min, "
            f"{sum(len(u.text.split()) for u in utterances)} words, {len(speakers)} speakers"
        )
        if split != "train":
            line += f", {sum(u.text in learnt for u in utterances)} of the sentences in train too"
        yield line


def _minutes(utterances: Iterable[Utterance]) -> float:
    return sum(u.duration for u in utterances) / 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", type=Path, metavar="FOLDER")
    parser.add_argument("--speechocean", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    with exit_on_user_error():
        if not args.digits and not args.speechocean:
            raise UserError("Found neither --digits nor --speechocean, expected one of them.")
        domains: dict[str, Sets] = {}
        if args.digits:
            domains["digits"] = write_digits(args.digits, args.out / "digits")
        if args.speechocean:
            domains |= write_speechocean(args.speechocean, args.out)
        for name, sets in domains.items():
            print("\n".join(describe(name, sets)))


if __name__ == "__main__":
    main()
