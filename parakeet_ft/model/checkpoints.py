"""The checkpoints that have a name here, in every recipe: the bundled ones and NVIDIA's."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """`where` is a file of the bundled data or a hub id; `licence` is what a model tuned from it is
    bound by.
    """

    where: str
    licence: str
    what: str


LOWER_CASE = "English in lower case without punctuation"
WRITTEN = "English with capitals and punctuation"
CHECKPOINTS = {
    "tiny": Checkpoint(
        "tiny.nemo",
        "apache-2.0",
        "bundled, to try things on a CPU: English in lower case, synthetic voices only; CTC, "
        "3.2 million weights, 7 MB",
    ),
    "tiny_tdt_ctc": Checkpoint(
        "tiny_tdt_ctc.nemo",
        "apache-2.0",
        "bundled: the encoder of tiny with a TDT and a CTC head, to try transducers on a CPU",
    ),
    "parakeet_ctc_0.6b": Checkpoint(
        "nvidia/parakeet-ctc-0.6b", "cc-by-4.0", f"{LOWER_CASE}; CTC, 0.6 billion weights, 2.44 GB"
    ),
    "parakeet_ctc_1.1b": Checkpoint(
        "nvidia/parakeet-ctc-1.1b",
        "cc-by-4.0",
        f"{LOWER_CASE}; CTC, 1.1 billion weights, about 4.3 GB",
    ),
    "parakeet_rnnt_0.6b": Checkpoint(
        "nvidia/parakeet-rnnt-0.6b",
        "cc-by-4.0",
        f"{LOWER_CASE}; RNNT, 0.6 billion weights, 2.47 GB",
    ),
    "parakeet_rnnt_1.1b": Checkpoint(
        "nvidia/parakeet-rnnt-1.1b",
        "cc-by-4.0",
        f"{LOWER_CASE}; RNNT, 1.1 billion weights, about 4.3 GB",
    ),
    "parakeet_tdt_0.6b_v2": Checkpoint(
        "nvidia/parakeet-tdt-0.6b-v2",
        "cc-by-4.0",
        "English with capitals, punctuation and numbers; TDT, 0.6 billion weights, about 2.5 GB",
    ),
    "parakeet_tdt_0.6b_v3": Checkpoint(
        "nvidia/parakeet-tdt-0.6b-v3",
        "cc-by-4.0",
        "25 European languages with capitals and punctuation; TDT, 0.6 billion weights, about "
        "2.5 GB",
    ),
    "parakeet_tdt_1.1b": Checkpoint(
        "nvidia/parakeet-tdt-1.1b",
        "cc-by-4.0",
        f"{LOWER_CASE}; TDT, 1.1 billion weights, about 4.3 GB",
    ),
    "parakeet_tdt_ctc_1.1b": Checkpoint(
        "nvidia/parakeet-tdt_ctc-1.1b",
        "cc-by-4.0",
        f"{WRITTEN}; a TDT and a CTC head, 1.1 billion weights, 4.29 GB",
    ),
    "parakeet_tdt_ctc_110m": Checkpoint(
        "nvidia/parakeet-tdt_ctc-110m",
        "cc-by-4.0",
        f"{WRITTEN}; a TDT and a CTC head, 114 million weights, 459 MB",
    ),
}
BUNDLED = {
    name: checkpoint.where
    for name, checkpoint in CHECKPOINTS.items()
    if checkpoint.where.endswith(".nemo")
}
PUBLISHED = {
    name: checkpoint.where for name, checkpoint in CHECKPOINTS.items() if name not in BUNDLED
}


def resolve(source: str) -> str:
    """The hub id of a published checkpoint's name; anything else is what it was."""
    return PUBLISHED.get(source, source)


def licence(source: str) -> str | None:
    """The licence of a checkpoint by its name or hub id, if it is known."""
    by_source = {resolve(name): checkpoint.licence for name, checkpoint in CHECKPOINTS.items()}
    return by_source.get(resolve(source))
