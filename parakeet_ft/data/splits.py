"""Which split a speaker, session or sentence belongs to: deterministic by hash, so that adding data
never moves anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from parakeet_ft.data.manifest import Utterance, stream_manifest
from parakeet_ft.data.text import text_key
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path

SPLITS = ("train", "dev", "test")
# A held-out split of more than so many times its share is worth a word, or a change.
OVERFULL = 3


@dataclasses.dataclass(frozen=True)
class SplitRules:
    """Shares are fractions of the groups (speakers, sessions or sentences), and so about of the
    hours. Named groups win over the hash.

    `pinned` are groups that an earlier run put in dev or test because no hash fell there; they
    stay.
    """

    dev_share: float = 0.05
    test_share: float = 0.05
    dev_groups: tuple[str, ...] = ()
    test_groups: tuple[str, ...] = ()
    pinned: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        # Said so that NaN is refused too.
        fits = self.dev_share >= 0 and self.test_share >= 0
        if not (fits and self.dev_share + self.test_share < 1):
            raise UserError(
                f"--dev-share {self.dev_share:g} and --test-share {self.test_share:g}: expected "
                f"two fractions of 0 or more "
                "whose sum is below 1."
            )
        if both := sorted(set(self.dev_groups) & set(self.test_groups)):
            raise UserError(
                f"{', '.join(both)} is named for dev and for test; expected one split for each."
            )

    def wanted(self) -> list[str]:
        """The splits that must not stay empty. Naming the speakers of one split leaves the other to
        its share.
        """
        held_out = [
            name
            for name, share, named in (
                ("test", self.test_share, self.test_groups),
                ("dev", self.dev_share, self.dev_groups),
            )
            if share > 0 or named
        ]
        return ["train", *held_out]


def fraction(key: str) -> float:
    """The place of a key in [0, 1), the same on every machine for ever."""
    return (
        int.from_bytes(
            hashlib.blake2b(
                key.encode("utf-8", "surrogateescape"), digest_size=8, person=b"parakeet-ft"
            ).digest(),
            "big",
        )
        / 2**64
    )


def split_of(group: str, *, rules: SplitRules) -> str:
    """The split of one group: named, pinned, or by hash; test takes the low end and dev the high
    end, so changing one share leaves the other.
    """
    if group in rules.test_groups:
        return "test"
    if group in rules.dev_groups:
        return "dev"
    for name, pinned in rules.pinned:
        if group == name:
            return pinned
    place = fraction(group)
    if place < rules.test_share and not rules.test_groups:
        return "test"
    return "dev" if place >= 1 - rules.dev_share and not rules.dev_groups else "train"


def pin_overfull_splits(groups: dict[str, float], *, rules: SplitRules) -> dict[str, str]:
    """Groups to pin where few of them make the hash miss the share that was asked for by far.

    Where dev or test would get more than OVERFULL times its share, and a group of train comes
    nearer to it, that group goes there and what the hash had put there goes to train. For data that
    is split for the first time: later it would move speakers that a model was tested on.
    """
    total, pins = sum(groups.values()), dict(rules.pinned)
    for name, share in (("test", rules.test_share), ("dev", rules.dev_share)):
        named = rules.test_groups if name == "test" else rules.dev_groups
        hashed = [g for g in groups if g not in pins and split_of(g, rules=rules) == name]
        held = sum(groups[g] for g in hashed)
        if named or held <= OVERFULL * share * total:
            continue
        candidates = [
            g
            for g in groups
            if g not in pins
            and split_of(g, rules=rules) == "train"
            and abs(groups[g] - share * total) < abs(held - share * total)
        ]
        if candidates:
            nearest = min(candidates, key=lambda g: (abs(groups[g] - share * total), fraction(g)))
            pins |= dict.fromkeys(hashed, "train") | {nearest: name}
    return {group: split for group, split in pins.items() if (group, split) not in rules.pinned}


def pin_empty_splits(groups: dict[str, float], *, rules: SplitRules) -> dict[str, str]:
    """Groups to pin so that no wanted split stays empty: {group: split}. `groups` maps each to its
    seconds.

    With few speakers the hash often leaves a split empty. Test first, then dev, gets the one group
    whose seconds come nearest to the share that was asked for (ties: the lower hash); train keeps
    at least one group, and is given the largest if it has none.
    """
    total = sum(groups.values())
    pins: dict[str, str] = {}

    def split(group: str) -> str:
        return pins.get(group) or split_of(group, rules=rules)

    held = {name: [g for g in groups if split_of(g, rules=rules) == name] for name in SPLITS}
    if not held["train"] and len(groups) > 1:
        free = [g for g in groups if g not in rules.test_groups + rules.dev_groups]
        if free:
            pins[max(free, key=lambda g: (groups[g], -fraction(g)))] = "train"
    for name, share in (("test", rules.test_share), ("dev", rules.dev_share)):
        if name not in rules.wanted() or any(split(g) == name for g in groups):
            continue
        candidates = [g for g in groups if split(g) == "train"]
        if len(candidates) > 1:
            pins[
                min(
                    candidates,
                    key=lambda g: (round(abs(groups[g] - share * total), 3), fraction(g)),
                )
            ] = name
    return pins


def check_named(groups: Iterable[str], *, rules: SplitRules) -> None:
    """Raise UserError if a speaker named for dev or test is not in the data."""
    known = set(groups)
    if unknown := [g for g in rules.test_groups + rules.dev_groups if g not in known]:
        some = ", ".join(sorted(known)[:10]) + (" ..." if len(known) > 10 else "")
        raise UserError(
            f"No utterance of {', '.join(unknown)}; the data has {some or 'no speakers'}."
        )


def split_manifests(
    paths: Sequence[str | Path], *, out: Path, rules: SplitRules, split_by: str = "auto"
) -> list[str]:
    """Write OUT/{train,dev,test}.jsonl from existing manifests, line by line; returns the splits
    written.

    `split_by` is speaker, sentence, the name of a further field, or auto: speaker if there are two
    or more, else sentence. Utterances that lack the field are split by their sentence. Raises
    UserError.
    """
    if split_by == "auto":
        speakers = {
            u.speaker for path in paths for u in stream_manifest(path) if u.speaker is not None
        }
        split_by = (
            "speaker" if len(speakers) > 1 or rules.test_groups or rules.dev_groups else "sentence"
        )
    seconds: dict[str, float] = defaultdict(float)
    fields: set[str] = set()
    for path in paths:
        for utterance in stream_manifest(path):
            seconds[group_of(utterance, split_by)] += utterance.duration
            fields.update(utterance.extra)
    if not seconds:
        raise UserError(f"{', '.join(map(str, paths))} hold no utterance.")
    if split_by not in ("speaker", "sentence") and split_by not in fields:
        raise UserError(
            f"--split-by {split_by}: no utterance has a field of that name. Expected speaker, "
            f"sentence, or one of the further fields: {', '.join(sorted(fields)) or 'none'}."
        )
    check_named(seconds, rules=rules)
    for pin in (pin_overfull_splits, pin_empty_splits):
        pins = pin(seconds, rules=rules)
        rules = dataclasses.replace(rules, pinned=(*rules.pinned, *pins.items()))
    with contextlib.ExitStack() as stack:
        files = {}
        for path in paths:
            for utterance in stream_manifest(path):
                split = split_of(group_of(utterance, split_by), rules=rules)
                if split not in files:
                    files[split] = stack.enter_context(
                        open(
                            stack.enter_context(atomic_path(out / f"{split}.jsonl")),
                            "w",
                            encoding="utf-8",
                        )
                    )
                inside = utterance.audio_filepath.startswith(str(out) + os.sep)
                shown = (
                    os.path.relpath(utterance.audio_filepath, out)
                    if inside
                    else os.path.abspath(utterance.audio_filepath)
                )
                files[split].write(
                    dataclasses.replace(utterance, audio_filepath=shown).to_json() + "\n"
                )
    return [name for name in SPLITS if name in files]


def group_of(utterance: Utterance, split_by: str) -> str:
    """What must not be in two splits: the speaker, the sentence's key, or a further field."""
    value = (
        utterance.speaker
        if split_by == "speaker"
        else None
        if split_by == "sentence"
        else utterance.extra.get(split_by)
    )
    return text_key(utterance.text) if value is None else str(value)
