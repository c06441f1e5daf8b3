"""How a model decodes: greedy or beam, with an n-gram language model and boosted phrases, all by
NeMo's own decoders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError

# NeMo's batched searches, the only ones that take a language model over pieces without kenlm
# (3.0.0).
BEAMS = {"ctc": "beam_batch", "transducer": "malsd_batch"}


def set_decoding(
    model,
    *,
    strategy: str,
    head: str,
    beam_size: int,
    length_bonus: float,
    phrases: Sequence[str],
    phrase_weight: float,
    lm_path: Path | None,
    lm_weight: float,
) -> dict[str, Any]:
    """Set a model's decoding; returns what its live decoder then is.

    `strategy` is greedy or beam; `head`, of a hybrid model, auto (its transducer), transducer or
    ctc. `lm_path` is an ARPA file over the model's pieces, its scores (natural logarithms) weigh
    `lm_weight`; `length_bonus` is added for each piece by a CTC beam only. Raises UserError for a
    head that the model lacks.
    """
    from omegaconf import OmegaConf

    has = [
        name
        for name, part in (
            ("transducer", "joint"),
            ("ctc", "ctc_decoder" if hasattr(model, "joint") else "decoder"),
        )
        if hasattr(model, part)
    ]
    if head != "auto" and head not in has:
        raise UserError(
            f"decoding.head={head!r}: this {type(model).__name__} has {' and '.join(has)}. Use "
            f"decoding.head=auto."
        )
    head = has[0] if head == "auto" else head
    hybrid = len(has) == 2
    old = model.cfg.aux_ctc.decoding if hybrid and head == "ctc" else model.cfg.decoding
    decoding = OmegaConf.to_container(old, resolve=True)
    part = "greedy" if strategy == "greedy" else "beam"
    search: dict[str, Any] = {}
    if lm_path and lm_weight:
        search |= {"ngram_lm_model": str(lm_path), "ngram_lm_alpha": float(lm_weight)}
    if phrases:
        search |= {
            "boosting_tree": {"key_phrases_list": list(phrases), "use_triton": False},
            "boosting_tree_alpha": float(phrase_weight),
        }
    if part == "beam":
        # A search that may not capture CUDA graphs decodes the same, and one code path serves CPU
        # and GPU.
        search |= {
            "beam_size": beam_size,
            "return_best_hypothesis": True,
            "allow_cuda_graphs": False,
        }
        search |= {"beam_beta": float(length_bonus)} if head == "ctc" else {}
    decoding["strategy"] = "greedy_batch" if part == "greedy" else BEAMS[head]
    # What an earlier call fused into the search is left out unless it is asked for again.
    kept = {
        key: value
        for key, value in (decoding.get(part) or {}).items()
        if not key.startswith(("ngram_lm", "boosting_tree"))
    }
    decoding[part] = kept | search
    model.change_decoding_strategy(
        OmegaConf.create(decoding),
        **({"decoder_type": "rnnt" if head == "transducer" else "ctc"} if hybrid else {}),
        verbose=False,
    )
    return describe_decoding(model)


def describe_decoding(model) -> dict[str, Any]:
    """What decodes, from the live objects: head, strategy, class, beam size, and the weights of
    what is fused into the search.
    """
    ctc = getattr(model, "cur_decoder", None) == "ctc"
    live = model.ctc_decoding if ctc else model.decoding
    search = live.decoding
    # Only the greedy CTC search keeps what it fuses itself; the others one object further down
    # (NeMo 3.0.0).
    holders = (
        search,
        *(getattr(search, name, None) for name in ("decoding_computer", "search_algorithm")),
    )
    holder = next((holder for holder in holders if getattr(holder, "fusion_models", None)), None)
    fused = (
        dict(
            zip(
                (type(m).__name__ for m in holder.fusion_models),
                holder.fusion_models_alpha,
                strict=True,
            )
        )
        if holder
        else {}
    )
    return {
        "head": "transducer" if hasattr(model, "joint") and not ctc else "ctc",
        "strategy": str(live.cfg.strategy),
        "class": type(search).__name__,
        "beam_size": getattr(search, "beam_size", None),
        "fused": {name: float(weight) for name, weight in fused.items()},
    }


def _searches(model) -> list[Any]:
    """The live decoders of all heads that may capture CUDA graphs."""
    from nemo.collections.common.parts.optional_cuda_graphs import WithOptionalCudaGraphs

    owners = (getattr(model, name, None) for name in ("decoding", "ctc_decoding"))
    searches = (getattr(owner, "decoding", None) for owner in owners)
    return [search for search in searches if isinstance(search, WithOptionalCudaGraphs)]


def disable_cuda_graphs(model) -> None:
    """Decode without CUDA graphs, from now until the decoding is set again.

    NeMo's decoders keep what they captured: addresses of the weights, and the prediction network's
    first output (`_graph_reinitialize`, tdt_label_looping.py and rnnt_label_looping.py, 3.0.0), and
    make it anew only for another batch size, length or device. After a training step it is stale.
    """
    for search in _searches(model):
        search.disable_cuda_graphs()


@contextlib.contextmanager
def fresh_cuda_graphs(model) -> Iterator[None]:
    """Inside, CUDA graphs of the weights as they are now, where NeMo can have them; none after."""
    disable_cuda_graphs(model)
    for search in _searches(model):
        search.maybe_enable_cuda_graphs()
    try:
        yield
    finally:
        disable_cuda_graphs(model)


def choose_weight(
    rows: Sequence[dict[str, Any]], *, guard_tolerance: float | None
) -> dict[str, Any]:
    """The row {weight, wer, guard_wer or None} with the lowest WER among those whose guard lost at
    most the tolerance against weight 0.

    Of equals the smallest weight wins. Raises ValueError if weight 0 is not among them.
    """
    without = next((row for row in rows if row["weight"] == 0), None)
    if without is None:
        raise ValueError("weight 0 was not scored")
    allowed = [
        row
        for row in rows
        if guard_tolerance is None
        or row["guard_wer"] is None
        or row["guard_wer"] - without["guard_wer"] <= guard_tolerance + 1e-12
    ]
    return min(allowed, key=lambda row: (row["wer"], row["weight"]))


def tune_weight(
    score: Callable[[float], tuple[float, float | None]],
    *,
    weights: Sequence[float],
    guard_tolerance: float | None,
) -> tuple[float, list[dict[str, Any]]]:
    """The best weight of a language model and what all were worth; `score` gives WER and guard WER
    (None: no guard) of a weight.
    """
    rows = []
    for weight in sorted({0.0, *map(float, weights)}):
        wer, guard_wer = score(weight)
        rows.append({"weight": weight, "wer": wer, "guard_wer": guard_wer})
    return choose_weight(rows, guard_tolerance=guard_tolerance)["weight"], rows
