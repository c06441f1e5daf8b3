"""The quick look at manifests before a model is loaded, and the same over any number of lines: no
audio is decoded but for a sample.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from parakeet_ft.data import audio
from parakeet_ft.data.corpora.nemo_manifest import read_manifests
from parakeet_ft.data.corpus import Corpus, as_corpus
from parakeet_ft.data.existence import missing_files
from parakeet_ft.data.filters import TOLERANCE_SECONDS, TOLERANCE_SHARE, Limits, reason_to_drop
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.summary import Summary
from parakeet_ft.errors import UserError

# Seconds of a sampled utterance, the last ones, that are decoded.
HEARD_SECONDS = 60.0
# Above this share of the sample, wrong durations are no accident of a few files, and training would
# read other audio than the text.
MAX_WRONG_DURATIONS = 0.1


def quick_check(
    utterances: Sequence[Utterance], *, sample: int = 50, where: str = "The manifest"
) -> list[str]:
    """Look for what would waste a training run: absent audio, empty texts, and in a sample
    unreadable files and wrong durations.

    Returns warnings, one line each, for what training can live with. Raises UserError for: no
    utterance, any audio file that does not exist, all texts empty, a sampled file that cannot be
    read, more than a tenth of the sampled durations wrong. `where` names the data in messages. The
    sample is the same at every call.
    """
    if not utterances:
        raise UserError(f"{where} holds no utterance.")
    utterances = as_corpus(utterances)
    missing, known = missing_files(utterances)
    for line in known:
        print(line)
    if missing:
        first = "".join(f"\n  {path}" for path in missing[:5])
        some = ", the first five" if len(missing) > 5 else ""
        raise UserError(
            f"{where} names {len(missing)} audio files that do not exist{some}:{first}\n"
            "Relative paths are relative to the manifest's folder."
        )
    warnings = _check_texts(utterances, where)
    if len(utterances) > sample:
        return warnings + _check_sample(random.Random(0).sample(utterances, sample), where)
    return warnings + _check_sample(utterances, where)


def _check_texts(utterances: Corpus, where: str) -> list[str]:
    """What is wrong with texts. Raises UserError if all are empty."""
    empty = utterances.blank()
    if not len(empty):
        return []
    first = utterances[int(empty[0])]
    if len(empty) == len(utterances):
        fields = ", ".join(first.extra) or "none"
        raise UserError(
            f"{where}: the text of all {len(empty)} utterances is empty. Is it in another field? "
            f"The first has these further fields: {fields}."
        )
    return [
        f"{where}: {len(empty)} of {len(utterances)} texts are empty, the first "
        f"{first.audio_filepath}. Training teaches silence there; "
        'mark real non-speech with "non_speech": true.'
    ]


def _check_sample(chosen: Sequence[Utterance], where: str) -> list[str]:
    """What is wrong with durations. Raises UserError for audio that cannot be read, and for wrong
    durations that are no accident.
    """
    unreadable = []
    wrong = []
    for utterance in chosen:
        try:
            held = audio.hold(utterance)
            info = audio.probe(held)
            _hear(utterance, held, real=info.duration)
        except audio.AudioError as error:
            unreadable.append(f"\n  {error}")
            continue
        if (message := wrong_duration(utterance, real=info.duration)) is not None:
            wrong.append(f"{os.path.basename(utterance.audio_filepath)} {message}")
    if unreadable:
        raise UserError(
            f"{where}: {len(unreadable)} of {len(chosen)} sampled utterances cannot be "
            f"read:{''.join(unreadable[:5])}\n"
            "`python data_prep/check.py MANIFEST` lists them all."
        )
    if not wrong:
        return []
    told = (
        f"{where}: {len(wrong)} of {len(chosen)} sampled durations are wrong: "
        f"{'; '.join(wrong[:5])}."
    )
    if len(wrong) > MAX_WRONG_DURATIONS * len(chosen):
        raise UserError(
            f"{told}\n"
            "`python data_prep/check.py MANIFEST --write` writes a manifest with real durations."
        )
    return [told]


def _hear(utterance: Utterance, held: str | audio.InMemory, *, real: float) -> None:
    """Decode an utterance to its end, as training does, since a header tells nothing of what is
    cut off or damaged behind it; of a long one the last minute. Raises AudioError.
    """
    begin, duration = utterance.offset, utterance.duration
    if duration > HEARD_SECONDS:
        end = min(begin + duration, real)
        begin, duration = max(begin, end - HEARD_SECONDS), HEARD_SECONDS
    audio.decode(held, offset=begin, duration=duration)


def wrong_duration(utterance: Utterance, *, real: float) -> str | None:
    """What is wrong with a claimed duration (seconds), or None. An utterance may be part of its
    file, but not end after it.
    """
    end = utterance.offset + utterance.duration
    if end - real > TOLERANCE_SECONDS + TOLERANCE_SHARE * real:
        return f"ends at {end:.2f} s, its file at {real:.2f} s"
    return None


def skim(
    paths: Sequence[str | Path],
    names: Sequence[str],
    *,
    limits: Limits,
    encode: Callable[[str], Sequence[int]] | None = None,
    unknown_id: int = 0,
    sample: int = 200,
    on_progress: Callable[[int, float], None] = lambda count, seconds: None,
) -> Summary:
    """Go through manifests line by line, trusting durations: what the filters say without the
    audio, files that do not exist, and a sample of each manifest decoded. `names` are the splits.

    Memory holds hashes of the texts of all manifests but the largest, for the audit of shared
    texts, and no utterance.
    """
    summary = Summary()
    largest = max(range(len(paths)), key=lambda i: _size(paths[i]))
    texts = _SharedTexts()
    for number in sorted(range(len(paths)), key=lambda i: (i == largest, i)):
        chosen = _Sample(sample, seed=number)
        for count, utterance in enumerate(read_manifests([paths[number]]), 1):
            dropped = _skim_reason(utterance, limits, encode, unknown_id)
            if dropped is not None:
                summary.drop(utterance, reason=dropped[0], detail=dropped[1])
            else:
                summary.add(utterance, split=names[number])
                chosen.offer(utterance, count)
                texts.add(utterance.text, names[number], remember=number != largest)
            if count % 1000 == 0:
                on_progress(1000, 0.0)
        if chosen.utterances:
            _note_sample(chosen.utterances, names[number], summary)
    summary.notes += texts.notes()
    return summary


def _size(name: str | Path) -> int:
    """Bytes of a manifest; 0 for shards."""
    return os.path.getsize(name) if os.path.isfile(name) else 0


class _Sample:
    """At most `size` utterances of a stream, each with the same chance (reservoir sampling)."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.rng = random.Random(seed)
        self.utterances: list[Utterance] = []

    def offer(self, utterance: Utterance, count: int) -> None:
        """The `count`-th of the stream."""
        if len(self.utterances) < self.size:
            self.utterances.append(utterance)
        elif (place := self.rng.randrange(count)) < self.size:
            self.utterances[place] = utterance


class _SharedTexts:
    """Which sets have texts that another has too, counted over hashes."""

    def __init__(self) -> None:
        self.names: dict[bytes, str] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, text: str, name: str, *, remember: bool) -> None:
        """Count a text that another set has; else keep it, if it is to be kept."""
        words = " ".join(text.lower().split())
        key = hashlib.blake2b(words.encode(), digest_size=8).digest()
        other = self.names.get(key, name)
        if other != name:
            self.counts[name, other] += 1
        elif remember:
            self.names[key] = name

    def notes(self) -> list[str]:
        """A line for each pair of sets that share texts."""
        return [
            f"{count} utterances of {name} have a text that {other} has too."
            for (name, other), count in self.counts.items()
        ]


def _skim_reason(
    utterance: Utterance,
    limits: Limits,
    encode: Callable[[str], Sequence[int]] | None,
    unknown_id: int,
) -> tuple[str, str] | None:
    """Why the filters drop an utterance, as far as can be said without its audio."""
    is_file = "bad_row" not in utterance.extra and utterance.member is None
    if is_file and not os.path.isfile(utterance.audio_filepath):
        return "missing", ""
    trusted = audio.Measured(duration=utterance.duration, level_dbfs=0.0)
    return reason_to_drop(utterance, trusted, limits=limits, encode=encode, unknown_id=unknown_id)


def _note_sample(chosen: Sequence[Utterance], name: str, summary: Summary) -> None:
    """What a sample shows is a note, whatever it is."""
    try:
        summary.notes += _check_sample(chosen, name)
    except UserError as error:
        summary.notes.append(str(error))
