"""Alignment: the best path is the best, words are found where they were put, cuts fall into
pauses.
"""

import itertools
import tracemalloc

import numpy as np
import pytest

from parakeet_ft.data.alignment import (
    UNTRANSCRIBED,
    TranscriptWord,
    align_words,
    best_path,
    cut_utterances,
    transcript_words,
)
from parakeet_ft.errors import UserError

BLANK = 5


def random_log_probs(num_frames, rng, width=BLANK + 1):
    scores = rng.standard_normal((num_frames, width)) * 2
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def score(log_probs, path, tokens, free=()):
    labels = np.full(2 * len(tokens) + 1, BLANK)
    labels[1::2] = tokens
    ends = {0, 2 * len(tokens), *(2 * i + 2 for i in free)}
    return sum(
        max(row[labels[s]], UNTRANSCRIBED) if s in ends else row[labels[s]]
        for row, s in zip(log_probs, path, strict=True)
    )


def is_ctc_path(path, tokens):
    steps = list(itertools.pairwise(path))
    return (
        path[0] in (0, 1)
        and path[-1] >= 2 * len(tokens) - 1
        and all(
            b - a in (0, 1) or (b - a == 2 and a % 2 == 1 and tokens[a // 2] != tokens[b // 2])
            for a, b in steps
        )
    )


@pytest.mark.parametrize("tokens", [[0], [1, 1], [2, 3, 2], [4, 4, 4]])
def test_no_path_is_better_than_the_best(tokens):
    rng = np.random.default_rng(sum(tokens))
    for free in ((), (0,)):
        log_probs = random_log_probs(6, rng)
        found = best_path(log_probs, tokens, blank=BLANK, free_after=free)
        paths = [
            p
            for p in itertools.product(range(2 * len(tokens) + 1), repeat=6)
            if is_ctc_path(p, tokens)
        ]
        assert is_ctc_path(found, tokens)
        assert score(log_probs, found, tokens, free) == pytest.approx(
            max(score(log_probs, p, tokens, free) for p in paths), abs=1e-4
        )


def test_the_path_is_that_of_nemo(monkeypatch):
    pytest.importorskip("nemo")
    import torch
    from nemo.collections.asr.parts.utils.aligner_utils import viterbi_decoding

    # NeMo 3.0.0 knows no untranscribed audio.
    monkeypatch.setattr("parakeet_ft.data.alignment.UNTRANSCRIBED", -np.inf)
    rng = np.random.default_rng(0)
    for _ in range(20):
        tokens = rng.integers(0, BLANK, size=rng.integers(1, 12)).tolist()
        log_probs = random_log_probs(int(rng.integers(25, 60)), rng)
        labels = [BLANK, *(x for t in tokens for x in (t, BLANK))]
        theirs = viterbi_decoding(
            torch.tensor(log_probs)[None],
            torch.tensor([labels]),
            torch.tensor([len(log_probs)]),
            torch.tensor([len(labels)]),
            torch.device("cpu"),
        )[0]
        assert best_path(log_probs, tokens, blank=BLANK).tolist() == theirs


def test_a_transcript_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="another recording"):
        best_path(random_log_probs(4, np.random.default_rng(0)), [1, 1, 1], blank=BLANK)


def spoken(words, width=40, frames_a_token=3, pause=4, seed=0):
    """Peaky log-probabilities of words with pauses -> (log_probs, [(first, end) frame of each
    word]).
    """
    rng, rows, places = np.random.default_rng(seed), [], []

    def row(index):
        scores = rng.standard_normal(width + 1)
        scores[index] += 7
        rows.append(scores - np.log(np.exp(scores).sum()))

    for word in words:
        for _ in range(pause):
            row(width)
        begin = len(rows)
        for number, token in enumerate(word.tokens):
            row(token)
            for _ in range(frames_a_token - 1 if number < len(word.tokens) - 1 else 0):
                row(width)
        places.append((begin, len(rows)))
    for _ in range(pause):
        row(width)
    return np.array(rows, dtype=np.float32), places


def make_words(count, seed=0, sentence=5, width=40):
    rng = np.random.default_rng(seed)
    return [
        TranscriptWord(
            f"w{i}",
            tuple(int(t) for t in rng.integers(0, width, size=rng.integers(1, 4))),
            i % sentence == sentence - 1,
        )
        for i in range(count)
    ]


def test_words_are_found_where_they_were_put():
    words = make_words(40)
    log_probs, places = spoken(words)
    found = align_words(log_probs, words, blank=40, frame_seconds=0.08)
    assert [(round(b / 0.08), round(e / 0.08)) for b, e, _ in found] == places and all(
        s > -0.5 for *_, s in found
    )


def test_untranscribed_audio_is_left_out_and_lost_words_score_low():
    words, strange = make_words(30), make_words(20, seed=9)
    parts = [spoken(words[:15]), spoken(strange, seed=1), spoken(words[15:], seed=2)]
    log_probs, first = np.concatenate([p[0] for p in parts]), len(parts[0][0])
    found = align_words(log_probs, words, blank=40, frame_seconds=1.0)
    shift = first + len(parts[1][0])
    assert [(b, e) for b, e, _ in found[:15]] == parts[0][1] and [
        (b - shift, e - shift) for b, e, _ in found[16:]
    ] == parts[2][1][1:]
    wrong = align_words(
        parts[0][0], words[:5] + strange[:5] + words[10:15], blank=40, frame_seconds=1.0
    )
    assert min(s for *_, s in wrong[:4]) > -0.7 and max(s for *_, s in wrong[6:9]) < -1.0


def test_memory_stays_far_below_the_trellis():
    words = make_words(1200)
    log_probs, _ = spoken(words)
    num_tokens = sum(len(w.tokens) for w in words)
    tracemalloc.start()
    best_path(log_probs, [t for w in words for t in w.tokens], blank=40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * len(log_probs) * 2 * num_tokens


def encode(text):
    return [ord(c) - 96 if c.islower() else 0 for c in text]


def test_transcripts_become_words_with_tokens():
    words = transcript_words("Hello, World. (2)\nbye", encode=encode, unknown_id=0)
    assert [(w.text, w.tokens, w.ends_sentence) for w in words] == [
        ("Hello,", tuple(encode("hello")), False),
        ("World.", tuple(encode("world")), True),
        ("(2)", (), True),
        ("bye", tuple(encode("bye")), True),
    ]


def test_sentences_are_cut_and_long_ones_parted_at_their_longest_pause():
    words = [TranscriptWord(f"w{i}", (1,), i in (2, 9)) for i in range(10)]
    times = [
        (1.0 + i + (0.5 if i > 6 else 0), 1.8 + i + (0.5 if i > 6 else 0), -0.1 * i)
        for i in range(10)
    ]
    found = cut_utterances(words, times, max_seconds=5.0, total_seconds=12.0)
    assert [s.text for s in found] == ["w0 w1 w2", "w3 w4 w5 w6", "w7 w8 w9"]
    assert [(s.begin, s.end) for s in found] == [(0.7, 3.9), (3.9, 8.1), (8.2, 11.6)] and found[
        2
    ].score == -0.9


def test_a_recording_cut_into_sentences_loses_no_word():
    words = make_words(100, sentence=17)
    log_probs, _ = spoken(words)
    times = align_words(log_probs, words, blank=40, frame_seconds=0.08)
    found = cut_utterances(words, times, max_seconds=4.0, total_seconds=len(log_probs) * 0.08)
    assert (
        " ".join(s.text for s in found) == " ".join(w.text for w in words)
        and max(s.end - s.begin for s in found) <= 4.0
    )
    assert all(a.end <= b.begin + 1e-6 for a, b in itertools.pairwise(found))
