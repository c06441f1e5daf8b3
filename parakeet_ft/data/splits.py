"""Which split a speaker, session or sentence belongs to: deterministic by hash, so that adding data
never moves anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parakeet_ft.data.manifest import LineFiles, Utterance, stream_manifest
from parakeet_ft.data.text import text_key
from parakeet_ft.errors import UserError

SPLITS = ("train", "dev", "test")
# A held-out split of more than so many times its share is worth a word, or a change.
OVERFULL = 3
# Before the name of a speaker who is a group among sentences, none of which has a tab.
SPEAKER = "speaker\t"


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
                "two fractions of 0 or more whose sum is below 1."
            )
        if both := sorted(set(self.dev_groups) & set(self.test_groups)):
            raise UserError(
                f"{', '.join(both)} is named for dev and for test; expected one split for each."
            )

    @functools.cached_property
    def fixed(self) -> dict[str, str]:
        """The splits of groups that do not depend on their hash: pinned, or named, which wins."""
        pinned = dict(reversed(self.pinned))
        return (
            pinned | dict.fromkeys(self.dev_groups, "dev") | dict.fromkeys(self.test_groups, "test")
        )

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who is named for dev or test."""
        return self.dev_groups + self.test_groups

    def among(self, split_by: str) -> SplitRules:
        """The rules where all but the named speakers are split by something else."""
        if split_by == "speaker":
            return self
        dev, test = ([SPEAKER + name for name in g] for g in (self.dev_groups, self.test_groups))
        return dataclasses.replace(self, dev_groups=tuple(dev), test_groups=tuple(test))

    def wanted(self) -> list[str]:
        """The splits that must not stay empty. Naming the speakers of one split leaves the other to
        its share.
        """
        wanted = ["train"]
        if self.test_share > 0 or self.test_groups:
            wanted.append("test")
        if self.dev_share > 0 or self.dev_groups:
            wanted.append("dev")
        return wanted


def fraction(key: str) -> float:
    """The place of a key in [0, 1), the same on every machine for ever."""
    bytes_of_key = key.encode("utf-8", "surrogateescape")
    hashed = hashlib.blake2b(bytes_of_key, digest_size=8, person=b"parakeet-ft")
    return int.from_bytes(hashed.digest(), "big") / 2**64


def split_of(group: str, *, rules: SplitRules) -> str:
    """The split of one group: named, pinned, or by hash; test takes the low end and dev the high
    end, so changing one share leaves the other.
    """
    if group in rules.fixed:
        return rules.fixed[group]
    place = fraction(group)
    if place < rules.test_share and not rules.test_groups:
        return "test"
    if place >= 1 - rules.dev_share and not rules.dev_groups:
        return "dev"
    return "train"


def pin_overfull_splits(groups: dict[str, float], *, rules: SplitRules) -> dict[str, str]:
    """Groups to pin where few of them make the hash miss the share that was asked for by far.

    Where dev or test would get more than OVERFULL times its share, and a group of train comes
    nearer to it, that group goes there and what the hash had put there goes to train. For data that
    is split for the first time: later it would move speakers that a model was tested on.
    """
    total = sum(groups.values())
    pins = dict(rules.pinned)
    splits = {group: split_of(group, rules=rules) for group in groups}

    def hashed_into(name: str) -> list[str]:
        """The groups that their hash puts into a split, and nothing else."""
        return [group for group in groups if group not in pins and splits[group] == name]

    for name, share, named in _held_out(rules):
        hashed = hashed_into(name)
        held = sum(groups[group] for group in hashed)
        wanted = share * total
        if named or held <= OVERFULL * wanted:
            continue
        nearest = _nearest(groups, hashed_into("train"), wanted)
        if nearest is not None and abs(groups[nearest] - wanted) < abs(held - wanted):
            pins |= dict.fromkeys(hashed, "train")
            pins[nearest] = name
    return {group: split for group, split in pins.items() if (group, split) not in rules.pinned}


def _held_out(rules: SplitRules) -> list[tuple[str, float, tuple[str, ...]]]:
    """Name, share and named groups of test and of dev, in the order in which they choose."""
    return [
        ("test", rules.test_share, rules.test_groups),
        ("dev", rules.dev_share, rules.dev_groups),
    ]


def _nearest(groups: dict[str, float], candidates: list[str], wanted: float) -> str | None:
    """The candidate whose seconds come nearest to those wanted, of equals by the lower hash."""
    return min(candidates, key=lambda g: (abs(groups[g] - wanted), fraction(g)), default=None)


def pin_empty_splits(groups: dict[str, float], *, rules: SplitRules) -> dict[str, str]:
    """Groups to pin so that no wanted split stays empty: {group: split}. `groups` maps each to its
    seconds.

    With few speakers the hash often leaves a split empty. Test first, then dev, gets the one group
    whose seconds come nearest to the share that was asked for (ties: the lower hash); train keeps
    at least one group, and is given the largest if it has none.
    """
    total = sum(groups.values())
    splits = {group: split_of(group, rules=rules) for group in groups}
    pins: dict[str, str] = {}
    free = [group for group in groups if group not in rules.test_groups + rules.dev_groups]
    if "train" not in splits.values() and len(groups) > 1 and free:
        largest = max(free, key=lambda g: (groups[g], -fraction(g)))
        pins[largest] = "train"
    for name, share, _ in _held_out(rules):
        now = splits | pins
        candidates = [group for group, split in now.items() if split == "train"]
        if name not in rules.wanted() or name in now.values() or len(candidates) < 2:
            continue
        wanted = share * total
        distance = {g: (round(abs(groups[g] - wanted), 3), fraction(g)) for g in candidates}
        pins[min(candidates, key=distance.__getitem__)] = name
    return pins


def check_named(speakers: Iterable[str], *, rules: SplitRules) -> None:
    """Raise UserError if a speaker named for dev or test is not in the data."""
    known = set(speakers)
    if unknown := [g for g in rules.test_groups + rules.dev_groups if g not in known]:
        some = ", ".join(sorted(known)[:10]) or "no speakers"
        if len(known) > 10:
            some += " ..."
        raise UserError(f"No utterance of {', '.join(unknown)}; the data has {some}.")


def split_manifests(
    paths: Sequence[str | Path], *, out: Path, rules: SplitRules, split_by: str = "auto"
) -> list[str]:
    """Write OUT/{train,dev,test}.jsonl from existing manifests, line by line; returns the splits
    written.

    `split_by` is speaker, sentence, the name of a further field, or auto: speaker if there are two
    or more, else sentence. Utterances that lack the field are split by their sentence; named
    speakers go where they are named for, whatever the others are split by. Raises UserError.
    """
    if split_by == "auto":
        split_by = _speaker_or_sentence(paths, rules)
    if named := rules.speakers:
        check_named({u.speaker for u in _all(paths) if u.speaker is not None}, rules=rules)
    seconds = _seconds_by_group(paths, split_by, named)
    rules = rules.among(split_by)
    for pin in (pin_overfull_splits, pin_empty_splits):
        pins = pin(seconds, rules=rules)
        rules = dataclasses.replace(rules, pinned=(*rules.pinned, *pins.items()))
    with contextlib.ExitStack() as stack:
        files = LineFiles(out, stack)
        for utterance in _all(paths):
            split = split_of(group_of(utterance, split_by, named), rules=rules)
            path = path_from(out, utterance.audio_filepath)
            files.write(split, dataclasses.replace(utterance, audio_filepath=path).to_json())
    return [name for name in SPLITS if name in files.files]


def _all(paths: Sequence[str | Path]) -> Iterator[Utterance]:
    """The utterances of all manifests, one after another."""
    for path in paths:
        yield from stream_manifest(path)


def _speaker_or_sentence(paths: Sequence[str | Path], rules: SplitRules) -> str:
    """What "auto" is for these manifests."""
    if rules.test_groups or rules.dev_groups:
        return "speaker"
    speakers = {utterance.speaker for utterance in _all(paths)} - {None}
    return "speaker" if len(speakers) > 1 else "sentence"


def _seconds_by_group(
    paths: Sequence[str | Path], split_by: str, named: Sequence[str]
) -> dict[str, float]:
    """Seconds of each group. Raises UserError if there is no utterance, or none has the field."""
    seconds: dict[str, float] = defaultdict(float)
    fields: set[str] = set()
    for utterance in _all(paths):
        seconds[group_of(utterance, split_by, named)] += utterance.duration
        fields.update(utterance.extra)
    if not seconds:
        raise UserError(f"{', '.join(map(str, paths))} hold no utterance.")
    if split_by not in ("speaker", "sentence") and split_by not in fields:
        raise UserError(
            f"--split-by {split_by}: no utterance has a field of that name. Expected speaker, "
            f"sentence, or one of the further fields: {', '.join(sorted(fields)) or 'none'}."
        )
    return seconds


def path_from(out: Path, path: str) -> str:
    """A path as a manifest in `out` names it: relative if it is inside, else absolute."""
    if path.startswith(str(out) + os.sep):
        return os.path.relpath(path, out)
    return os.path.abspath(path)


def group_of(utterance: Utterance, split_by: str, named: Sequence[str] = ()) -> str:
    """What must not be in two splits: the speaker, the sentence's key, or a further field; always
    the speaker of those who are `named`.
    """
    value = None
    if split_by == "speaker":
        value = utterance.speaker
    elif utterance.speaker in named:
        value = f"{SPEAKER}{utterance.speaker}"
    elif split_by != "sentence":
        value = utterance.extra.get(split_by)
    return text_key(utterance.text) if value is None else str(value)
