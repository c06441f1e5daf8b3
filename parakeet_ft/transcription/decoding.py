"""How a model decodes: greedy or beam, with an n-gram language model and boosted phrases, all by
NeMo's own decoders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.model import parts

# NeMo's batched searches, the only ones that take a language model over pieces without kenlm
# (3.0.0).
BEAMS = {"ctc": "beam_batch", "transducer": "malsd_batch"}


def set_decoding(
    model: Any,
    *,
    strategy: str | None = None,
    head: str = "auto",
    beam_size: int = 4,
    length_bonus: float = 0.0,
    phrases: Sequence[str] = (),
    phrase_weight: float = 1.0,
    lm_path: Path | None = None,
    lm_weight: float = 0.0,
    words: bool = False,
) -> dict[str, Any]:
    """Set a model's decoding; returns what its live decoder then is.

    `strategy` is greedy, beam, or None for the model's own, of which the other settings then change
    nothing but `head` and `words`; `head`, of a hybrid model, is auto (its transducer), transducer
    or ctc. `lm_path` is an ARPA file over the model's pieces, its scores (natural logarithms) weigh
    `lm_weight`; `length_bonus` is added for each token by a CTC beam only. `words`: with what times
    of words are made of. Raises UserError for a head that the model lacks.
    """
    from omegaconf import OmegaConf

    own = parts.heads(model)[0]
    chosen = own if head == "auto" else head
    if chosen not in parts.heads(model):
        raise UserError(
            f"head={head}: this {type(model).__name__} has only a {own} head. Use auto, or a "
            f"hybrid checkpoint."
        )
    decoding = OmegaConf.to_container(parts.decoding_config(model, chosen), resolve=True)
    decoding["compute_timestamps"] = words
    if strategy is not None:
        search = _fused(phrases, phrase_weight, lm_path, lm_weight)
        if strategy == "beam":
            search |= _beam(beam_size, length_bonus, head=chosen)
        decoding["strategy"] = "greedy_batch" if strategy == "greedy" else BEAMS[chosen]
        # What an earlier call fused into the search is left out unless it is asked for again.
        kept = {
            key: value
            for key, value in (decoding.get(strategy) or {}).items()
            if not key.startswith(("ngram_lm", "boosting_tree"))
        }
        decoding[strategy] = kept | search
    parts.change_decoding(model, OmegaConf.create(decoding), head=chosen)
    return describe_decoding(model)


def _fused(
    phrases: Sequence[str], phrase_weight: float, lm_path: Path | None, lm_weight: float
) -> dict[str, Any]:
    """What is fused into the search, in NeMo's words."""
    search: dict[str, Any] = {}
    if lm_path and lm_weight:
        search |= {"ngram_lm_model": str(lm_path), "ngram_lm_alpha": float(lm_weight)}
    if phrases:
        search |= {
            "boosting_tree": {"key_phrases_list": list(phrases), "use_triton": False},
            "boosting_tree_alpha": float(phrase_weight),
        }
    return search


def _beam(beam_size: int, length_bonus: float, *, head: str) -> dict[str, Any]:
    """A beam search in NeMo's words."""
    # A search that may not capture CUDA graphs decodes the same, and one code path serves CPU and
    # GPU.
    search = {
        "beam_size": beam_size,
        "return_best_hypothesis": True,
        "allow_cuda_graphs": False,
    }
    return search | ({"beam_beta": float(length_bonus)} if head == "ctc" else {})


def describe_decoding(model) -> dict[str, Any]:
    """What decodes, from the live objects: head, strategy, class, beam size, and the weights of
    what is fused into the search.
    """
    live = parts.decoding(model)
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
        "head": parts.decoding_head(model),
        "strategy": str(live.cfg.strategy),
        "class": type(search).__name__,
        "beam_size": getattr(search, "beam_size", None),
        "fused": {name: float(weight) for name, weight in fused.items()},
    }


def _searches(model) -> list[Any]:
    """The live decoders of all heads that may capture CUDA graphs."""
    from nemo.collections.common.parts.optional_cuda_graphs import WithOptionalCudaGraphs

    searches = (getattr(decoding, "decoding", None) for decoding in parts.decodings(model))
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
