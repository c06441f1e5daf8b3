"""The quick look at manifests before a model is loaded, and the same over any number of lines: no
audio is decoded but for a sample.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from parakeet_ft.data import audio
from parakeet_ft.data.corpora.nemo_manifest import read_manifests
from parakeet_ft.data.filters import TOLERANCE_SECONDS, TOLERANCE_SHARE, Limits, reason_to_drop
from parakeet_ft.data.manifest import Utterance, missing_audio
from parakeet_ft.data.summary import Summary
from parakeet_ft.errors import UserError

# Above this share of the sample, wrong durations are no accident of a few files, and training would
# read other audio than the text.
MAX_WRONG_DURATIONS = 0.1
OVERLAP_KEYS = {"train": "data.train", "replay": "data.replay.manifest"}


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
    if missing := missing_audio(utterances):
        first = "".join(f"\n  {path}" for path in missing[:5])
        raise UserError(
            f"{where} names {len(missing)} audio files that do not "
            f"exist{', the first five' if len(missing) > 5 else ''}:{first}\n"
            "Relative paths are relative to the manifest's folder."
        )
    warnings = _check_texts(utterances, where)
    chosen = (
        utterances if len(utterances) <= sample else random.Random(0).sample(utterances, sample)
    )
    return warnings + _check_sample(chosen, where)


def check_overlap(sets: Mapping[str, Sequence[Utterance]], *, allowed: bool = False) -> list[str]:
    """Compare what is scored with what is trained on ("train" and "replay"), by role.

    Raises UserError if a scored stretch of audio is trained on, unless `allowed`; then, and for
    utterances of the same text and length in other files, a warning a set.
    """
    trained = {role: sets[role] for role in ("train", "replay") if sets.get(role)}
    scored = {}
    for role in sets:
        # A validation set that serves as the test set, too, is told of once.
        if role not in trained and sets[role] and all(sets[role] is not s for s in scored.values()):
            scored[role] = sets[role]
    found, warnings = [], []
    for role, utterances in scored.items():
        for other, theirs in trained.items():
            same = shared_stretches(utterances, theirs)
            if same:
                shown = "; ".join(f"{u.audio_filepath} at {u.offset:g} s" for u in same[:2])
                found.append(
                    f"{len(same)} of the {len(utterances)} utterances of data.{role} are in "
                    f"{OVERLAP_KEYS[other]}: {shown}"
                )
            elif count := _count_same_text_and_length(utterances, theirs):
                warnings.append(
                    f"{count} of the {len(utterances)} utterances of data.{role} have the "
                    f"text and the length of one in {OVERLAP_KEYS[other]}: is it the same "
                    "audio under another name?"
                )
    if found and not allowed:
        raise UserError(
            "What is scored must not be trained on, or the scores say nothing:\n  "
            + "\n  ".join(found)
            + "\n`python data_prep/split.py` divides a manifest; "
            "data.allow_overlap=true lets it pass."
        )
    return warnings + [f"{line}." for line in found]


def shared_stretches(scored: Sequence[Utterance], trained: Sequence[Utterance]) -> list[Utterance]:
    """The scored utterances of which more than half lies in one stretch that is trained on."""
    paths = {u.audio_filepath for u in scored}
    stretches: dict[str, list[tuple[float, float]]] = {}
    for u in trained:
        if u.audio_filepath in paths:
            stretches.setdefault(u.audio_filepath, []).append((u.offset, u.offset + u.duration))
    for file in stretches.values():
        file.sort()
    longest = {path: max(end - begin for begin, end in file) for path, file in stretches.items()}
    shared = []
    for u in scored:
        file = stretches.get(u.audio_filepath, [])
        # Those that begin before this one ends, back to where none is long enough to reach it.
        at = bisect.bisect_left(file, (u.offset + u.duration, 0.0))
        while at and file[at - 1][0] + longest[u.audio_filepath] > u.offset:
            at -= 1
            common = min(file[at][1], u.offset + u.duration) - max(file[at][0], u.offset)
            if common > u.duration / 2:
                shared.append(u)
                break
    return shared


def _count_same_text_and_length(scored: Sequence[Utterance], trained: Sequence[Utterance]) -> int:
    mine = {(u.text, round(u.duration, 3)) for u in scored if u.text}
    both = {key for u in trained if (key := (u.text, round(u.duration, 3))) in mine}
    return sum((u.text, round(u.duration, 3)) in both for u in scored)


def _check_texts(utterances: Sequence[Utterance], where: str) -> list[str]:
    empty = [u for u in utterances if not u.text.strip() and not u.extra.get("non_speech")]
    if not empty:
        return []
    if len(empty) == len(utterances):
        fields = ", ".join(empty[0].extra) or "none"
        raise UserError(
            f"{where}: the text of all {len(empty)} utterances is empty. Is it in another field? "
            f"The first has these further "
            f"fields: {fields}."
        )
    return [
        f"{where}: {len(empty)} of {len(utterances)} texts are empty, the first "
        f"{empty[0].audio_filepath}. Training teaches silence "
        f"there; "
        'mark real non-speech with "non_speech": true.'
    ]


def _check_sample(chosen: Sequence[Utterance], where: str) -> list[str]:
    unreadable, wrong = [], []
    for utterance in chosen:
        try:
            info = audio.probe(utterance.audio_filepath)
            audio.decode(
                utterance.audio_filepath,
                offset=utterance.offset,
                duration=min(0.1, utterance.duration),
            )
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
    if len(wrong) > MAX_WRONG_DURATIONS * len(chosen):
        raise UserError(
            f"{where}: {len(wrong)} of {len(chosen)} sampled durations are wrong: "
            f"{'; '.join(wrong[:5])}.\n"
            "`python data_prep/check.py MANIFEST --write` writes a manifest with real durations."
        )
    return (
        [
            f"{where}: {len(wrong)} of {len(chosen)} sampled durations are wrong: "
            f"{'; '.join(wrong[:5])}."
        ]
        if wrong
        else []
    )


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
    summary, largest = Summary(), max(range(len(paths)), key=lambda i: os.path.getsize(paths[i]))
    held_out: dict[bytes, str] = {}
    shared: dict[tuple[str, str], int] = {}
    for number in sorted(range(len(paths)), key=lambda i: (i == largest, i)):
        chosen: list[Utterance] = []
        rng = random.Random(number)
        for count, utterance in enumerate(read_manifests([paths[number]]), 1):
            dropped = _skim_reason(utterance, limits, encode, unknown_id)
            if dropped is not None:
                summary.drop(utterance, reason=dropped[0], detail=dropped[1])
            else:
                summary.add(utterance, split=names[number])
                # Reservoir sampling: each line has the same chance, whatever their number.
                if len(chosen) < sample:
                    chosen.append(utterance)
                elif (place := rng.randrange(count)) < sample:
                    chosen[place] = utterance
                key = hashlib.blake2b(
                    " ".join(utterance.text.lower().split()).encode(), digest_size=8
                ).digest()
                if (other := held_out.get(key, names[number])) != names[number]:
                    shared[names[number], other] = shared.get((names[number], other), 0) + 1
                elif number != largest:
                    held_out[key] = names[number]
            if count % 1000 == 0:
                on_progress(1000, 0.0)
        if chosen:
            _note_sample(chosen, names[number], summary)
    summary.notes += [
        f"{count} utterances of {name} have a text that {other} has too."
        for (name, other), count in shared.items()
    ]
    return summary


def _skim_reason(
    utterance: Utterance,
    limits: Limits,
    encode: Callable[[str], Sequence[int]] | None,
    unknown_id: int,
) -> tuple[str, str] | None:
    if "bad_row" not in utterance.extra and not os.path.isfile(utterance.audio_filepath):
        return "missing", ""
    trusted = audio.Measured(duration=utterance.duration, level_dbfs=0.0)
    return reason_to_drop(utterance, trusted, limits=limits, encode=encode, unknown_id=unknown_id)


def _note_sample(chosen: Sequence[Utterance], name: str, summary: Summary) -> None:
    try:
        summary.notes += _check_sample(chosen, name)
    except UserError as error:
        summary.notes.append(str(error))
