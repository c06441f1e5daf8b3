"""Texts to an n-gram language model over the pieces of a tokenizer, in the ARPA format that NeMo's
decoders read. Pure until write_arpa().

Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998), as KenLM's lmplz has it:
adjusted counts in the lower orders, three discounts an order, unigrams interpolated with the
uniform distribution, so that every piece of the vocabulary has a probability.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from parakeet_ft.files import atomic_path

BOS = -1
EOS = -2
# NeMo writes piece i as this character (DEFAULT_TOKEN_OFFSET,
# nemo/collections/asr/parts/submodules/ngram_lm/constants.py, 3.0.0).
TOKEN_OFFSET = 100
NAMES = {BOS: "<s>", EOS: "</s>"}
# Where the counts are too few to estimate discounts, those that lmplz falls back to.
FALLBACK = (0.5, 1.0, 1.5)
NEVER = -99.0

Ngram = tuple[int, ...]
# (log10 probability, log10 backoff weight) of the n-grams of an order.
Level = dict[Ngram, tuple[float, float]]
# Lowest order first.
Model = list[Level]


def count_ngrams(sentences: Iterable[Sequence[int]], *, order: int) -> list[Counter[Ngram]]:
    """Adjusted counts of each order, lowest first: occurrences in the counts and of what begins a
    sentence, else different words before.
    """
    counts: list[Counter[Ngram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        padded = (BOS, *sentence, EOS)
        for length in range(1, order + 1):
            for start in range(len(padded) - length + 1):
                # Shorter ones are counted as they are only where nothing can stand before them.
                if length == order or start == 0:
                    counts[length - 1][padded[start : start + length]] += 1
    for length in range(order - 1, 0, -1):
        for ngram in counts[length]:
            counts[length - 1][ngram[1:]] += 1
    counts[0].pop((BOS,), None)
    return counts


def discounts(counts: Counter[Ngram]) -> tuple[float, float, float]:
    """What is taken from counts of 1, 2, and 3 or more."""
    of = Counter(counts.values())
    if not all(of[n] for n in (1, 2, 3, 4)):
        return FALLBACK
    y = of[1] / (of[1] + 2 * of[2])
    one, two, three = (n - (n + 1) * y * of[n + 1] / of[n] for n in (1, 2, 3))
    if 0 <= one <= 1 and 0 <= two <= 2 and 0 <= three <= 3:
        return one, two, three
    return FALLBACK


def train_ngram(sentences: Iterable[Sequence[int]], *, order: int, vocab_size: int) -> Model:
    """The model of sentences of piece ids. Raises ValueError for an id outside the vocabulary, or
    if there is no sentence.
    """
    counts = count_ngrams(sentences, order=order)
    if not counts[0]:
        raise ValueError("no sentence to learn from")
    outside = [w for (w,) in counts[0] if not (w == EOS or 0 <= w < vocab_size)]
    if outside:
        raise ValueError(f"piece {outside[0]} is outside a vocabulary of {vocab_size}")
    for word in (*range(vocab_size), EOS):
        counts[0].setdefault((word,), 0)
    lower: dict[Ngram, float] = {(): 1 / (vocab_size + 1)}
    levels = []
    for level in counts:
        lower, backoff = _smoothed(level, lower)
        levels.append((lower, backoff))
    model: Model = []
    above: dict[Ngram, float] = {}
    for probability, backoff in reversed(levels):
        model.insert(0, _log10(probability, above))
        above = backoff
    at_start = levels[1][1].get((BOS,), 1.0) if order > 1 else 1.0
    model[0][BOS,] = (NEVER, math.log10(at_start))
    return model


def _smoothed(
    level: Counter[Ngram], lower: dict[Ngram, float]
) -> tuple[dict[Ngram, float], dict[Ngram, float]]:
    """The probabilities of an order, interpolated with those of the order below, and the backoff
    weights of the histories.
    """
    discount = (0.0, *discounts(level))
    total: Counter[Ngram] = Counter()
    freed: defaultdict[Ngram, float] = defaultdict(float)
    for ngram, count in level.items():
        total[ngram[:-1]] += count
        freed[ngram[:-1]] += discount[min(count, 3)]
    backoff = {history: freed[history] / total[history] for history in total}
    probability = {}
    for ngram, count in level.items():
        history = ngram[:-1]
        own = max(count - discount[min(count, 3)], 0.0) / total[history]
        shorter = ngram[1:] if history else ()
        probability[ngram] = own + backoff[history] * lower[shorter]
    return probability, backoff


def _log10(probability: dict[Ngram, float], backoff: dict[Ngram, float]) -> Level:
    """An order of the model; what begins no longer n-gram backs off at no cost."""
    return {
        ngram: (math.log10(p), math.log10(backoff.get(ngram, 1.0)))
        for ngram, p in probability.items()
    }


def log10_probability(model: Model, history: Sequence[int], word: int) -> float:
    """log10 p(word | history), backing off as an ARPA file is read."""
    history = tuple(history)[-(len(model) - 1) :] if len(model) > 1 else ()
    found = model[len(history)].get((*history, word))
    if found:
        return found[0]
    backoff = model[len(history) - 1].get(history, (0.0, 0.0))[1] if history else 0.0
    return backoff + log10_probability(model, history[1:], word)


def perplexity(model: Model, sentences: Iterable[Sequence[int]]) -> float:
    """Per piece, the end of the sentence included."""
    total = 0.0
    number = 0
    for sentence in sentences:
        padded = (BOS, *sentence, EOS)
        for position in range(1, len(padded)):
            total += log10_probability(model, padded[:position], padded[position])
            number += 1
    return 10 ** (-total / max(number, 1))


def write_arpa(model: Model, path: Path) -> None:
    """Write an ARPA file atomically, pieces as NeMo's characters."""

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.write("\\data\\\n")
        for n, level in enumerate(model, 1):
            out.write(f"ngram {n}={len(level)}\n")
        for n, level in enumerate(model, 1):
            out.write(f"\n\\{n}-grams:\n")
            for ngram, (p, backoff) in sorted(level.items()):
                line = f"{p:.6f}\t{' '.join(map(_name, ngram))}"
                if n < len(model):
                    line += f"\t{backoff:.6f}"
                out.write(line + "\n")
        out.write("\n\\end\\\n")


def _name(word: int) -> str:
    """A piece as NeMo writes it."""
    return NAMES.get(word) or chr(word + TOKEN_OFFSET)
