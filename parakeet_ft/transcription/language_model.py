"""An n-gram model of a text, over a model's own pieces, in its search; with a weight that helps the
domain and spares the guard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.model import parts
from parakeet_ft.scoring import wer
from parakeet_ft.transcription import ngram
from parakeet_ft.transcription.decode import transcribe
from parakeet_ft.transcription.decoding import set_decoding, tune_weight


def fuse_language_model(
    model,
    *,
    text: Sequence[str],
    order: int,
    weight: float | str,
    weights: Sequence[float],
    tune_on: Sequence[Utterance],
    guard: Sequence[Utterance],
    guard_tolerance: float | None,
    arpa_path: Path,
    decoding: dict[str, Any],
    batch_seconds: float,
    on_weight: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Learn from `text`, write arpa_path, choose the weight and leave the model decoding with it;
    `decoding` are set_decoding's other settings.

    `weight` is a number or auto. Returns order, n-grams, perplexity of tune_on's transcripts,
    weight, what each weight was worth, and the live decoding. `on_weight` is told each row when it
    is known.
    """
    tokenizer = parts.sentencepiece_of(model)
    learnt = ngram.train_ngram(
        (tokenizer.encode(line) for line in text),
        order=order,
        vocab_size=tokenizer.get_piece_size(),
    )
    ngram.write_arpa(learnt, arpa_path)
    rows: list[dict[str, Any]] = []
    if weight == "auto":

        def rate(found: Sequence[Utterance]) -> float:
            """The WER on a set as the model decodes now."""
            heard = transcribe(model, found, batch_seconds=batch_seconds)
            return wer.score([u.text for u in found], heard).wer

        def score(value: float) -> tuple[float, float | None]:
            """The WER of both sets with a weight."""
            set_decoding(model, **decoding, lm_path=arpa_path, lm_weight=value)
            domain = rate(tune_on)
            general = rate(guard) if guard else None
            on_weight({"weight": value, "wer": domain, "guard_wer": general})
            return domain, general

        weight, rows = tune_weight(score, weights=weights, guard_tolerance=guard_tolerance)
    live = set_decoding(model, **decoding, lm_path=arpa_path, lm_weight=float(weight))
    perplexity = None
    if tune_on:
        perplexity = ngram.perplexity(learnt, [tokenizer.encode(u.text) for u in tune_on])
    return live | {
        "language_model": {
            "order": order,
            "ngrams": [len(level) for level in learnt],
            "weight": float(weight),
            "tuning": rows,
            "perplexity": perplexity,
        }
    }
