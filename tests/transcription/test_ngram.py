"""N-gram models: probabilities sum to one, the smoothing is what a hand computes, and NeMo's reader
scores as ours does.
"""

import math
import random

import pytest
import torch

from parakeet_ft.transcription import ngram

VOCAB = 12


def sentences(count=300, seed=0):
    """From a chain that prefers the next piece, so that there is something to learn; pieces 10 and
    11 never occur.
    """
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        word, sentence = rng.randrange(10), []
        for _ in range(rng.randint(1, 8)):
            word = (word + 1) % 10 if rng.random() < 0.7 else rng.randrange(10)
            sentence.append(word)
        found.append(sentence)
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_probabilities_after_every_history_sum_to_one(order):
    model = ngram.train_ngram(sentences(), order=order, vocab_size=VOCAB)
    histories = {h for level in model for h in level if len(h) < order and ngram.EOS not in h} | {
        (),
        (3, 11, 10),
        (10, 3),
        (ngram.BOS, 11),
    }
    for history in histories:
        total = sum(
            10 ** ngram.log10_probability(model, history, word)
            for word in (*range(VOCAB), ngram.EOS)
        )
        assert total == pytest.approx(1, abs=1e-9), history


def test_two_short_sentences_by_hand():
    """a b / a c, bigrams: every discount falls back to 0.5, 1, 1.5. Pieces a=0, b=1, c=2; one more,
    3, never occurs.
    """
    model = ngram.train_ngram([[0, 1], [0, 2]], order=2, vocab_size=4)
    # Words that stand before: a 1 (<s>), b 1, c 1, </s> 2; total 5; discounts 0.5 of 1 and 1 of 2
    # leave (3 x 0.5 + 1) / 5 to the uniform 1/5.
    uniform = 0.5 * 0.2
    b, end = 0.5 / 5 + uniform, 1 / 5 + uniform
    assert 10 ** model[0][1,][0] == pytest.approx(b) and 10 ** model[0][ngram.EOS,][
        0
    ] == pytest.approx(end)
    assert 10 ** model[0][3,][0] == pytest.approx(uniform)
    # After a: b and c once each; each keeps 0.5 of 2, half goes to the unigrams.
    assert 10 ** ngram.log10_probability(model, [0], 1) == pytest.approx(0.25 + 0.5 * b)
    # <s> a occurs twice: 1 of it is discounted.
    assert 10 ** ngram.log10_probability(model, [ngram.BOS], 0) == pytest.approx(0.5 + 0.5 * b)
    assert 10 ** ngram.log10_probability(model, [1], ngram.EOS) == pytest.approx(0.5 + 0.5 * end)


def test_discounts_follow_chen_and_goodman_where_the_counts_allow():
    counts = ngram.Counter({(i,): n for i, n in enumerate([1] * 40 + [2] * 12 + [3] * 5 + [4] * 3)})
    y = 40 / 64
    assert ngram.discounts(counts) == pytest.approx(
        (1 - 2 * y * 12 / 40, 2 - 3 * y * 5 / 12, 3 - 4 * y * 3 / 5)
    )


def test_a_higher_order_foretells_held_out_text_better_and_both_beat_chance():
    train, held_out = sentences(seed=1), sentences(seed=2)
    one, three = (
        ngram.perplexity(ngram.train_ngram(train, order=order, vocab_size=VOCAB), held_out)
        for order in (1, 3)
    )
    assert three < one < VOCAB + 1


@pytest.mark.parametrize("order", [2, 3])
def test_nemo_reads_the_arpa_file_and_scores_as_we_do(order, tmp_path):
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    # Piece 33 becomes U+0085 and piece 60 a no-break space, which a careless reader takes for the
    # space between words.
    held_out = [[w + (30 if w % 2 else 56) for w in s] for s in sentences(30, seed=3)]
    model = ngram.train_ngram(
        [[w + (30 if w % 2 else 56) for w in s] for s in sentences()], order=order, vocab_size=80
    )
    ngram.write_arpa(model, tmp_path / "lm.arpa")
    theirs = NGramGPULanguageModel.from_file(tmp_path / "lm.arpa", vocab_size=80, use_triton=False)
    for sentence in held_out:
        got = theirs(
            labels=torch.tensor([sentence]),
            labels_lengths=torch.tensor([len(sentence)]),
            bos=True,
            eos=True,
        )[0]
        padded = (ngram.BOS, *sentence, ngram.EOS)
        ours = [
            ngram.log10_probability(model, padded[:i], padded[i]) * math.log(10)
            for i in range(1, len(padded))
        ]
        assert got.tolist()[: len(ours)] == pytest.approx(ours, abs=1e-4)


def test_nothing_to_learn_from_and_pieces_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="no sentence"):
        ngram.train_ngram([], order=2, vocab_size=4)
    with pytest.raises(ValueError, match="piece 9 is outside a vocabulary of 4"):
        ngram.train_ngram([[9]], order=2, vocab_size=4)
