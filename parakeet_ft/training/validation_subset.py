"""What of the validation sets is scored while a run trains and chooses: all, or a fixed part that
is as the whole in speakers and lengths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.settings.guards import roles


def choose(
    utterances: Sequence[Utterance], *, hours: float | None, seed: int
) -> Sequence[int] | None:
    """Indices of about so many hours, in order; None for all, if there are no more or `hours` is
    None.

    Sorted by speaker, where known, and then by duration, every n-th is taken from a place that the
    seed draws: each is as likely, and no speaker or length is missed that has enough.
    """
    durations = [u.duration for u in utterances]
    if hours is None or 3600 * hours >= sum(durations):
        return None
    speakers = [u.speaker or "" for u in utterances]
    ordered = sorted(range(len(durations)), key=lambda i: (speakers[i], durations[i], i))
    count = max(1, round(len(ordered) * 3600 * hours / sum(durations)))
    begin = random.Random(f"validation subset {seed}").random()
    return sorted(ordered[int((begin + at) * len(ordered) / count)] for at in range(count))


def texts(utterances: Sequence[Utterance], *, hours: float | None, seed: int) -> list[str]:
    """The references of those that `choose` takes."""
    taken = choose(utterances, hours=hours, seed=seed)
    return [utterances[i].text for i in (range(len(utterances)) if taken is None else taken)]


def choose_all(
    sets: Mapping[str, Sequence[Utterance]], *, hours: float | None, seed: int
) -> dict[str, Sequence[int] | None]:
    """`choose` for the validation sets of domain and guards."""
    keys = ["validation", *roles(sets, "validation").values()]
    return {key: choose(sets[key], hours=hours, seed=seed) for key in keys}


def facts(
    sets: Mapping[str, Sequence[Utterance]], chosen: Mapping[str, Sequence[int] | None]
) -> dict[str, Any] | None:
    """Hours and utterances by set, those taken and all; None if all are taken."""
    found = {}
    for key, indices in chosen.items():
        if indices is not None:
            taken = sum(sets[key][i].duration for i in indices)
            found[key] = {
                "hours": round(taken / 3600, 4),
                "of_hours": round(sum(u.duration for u in sets[key]) / 3600, 4),
                "utterances": len(indices),
                "of_utterances": len(sets[key]),
            }
    return found or None


def line(found: dict[str, Any]) -> str:
    """`facts` in words."""
    named = [f"{row['hours']:.2f} of {row['of_hours']:.2f} h ({key})" for key, row in found.items()]
    return (
        f"validations and candidates are scored on {' and '.join(named)}, always the same; the "
        "figures before and after are of all"
    )
