"""What words tell of texts is what the texts themselves tell."""

import random
from collections import Counter

import pytest

from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.tokenizer.pieces import begins_words, extend_sentencepiece, learn_pieces
from parakeet_ft.tokenizer.sentencepiece_model import (
    coverage,
    load_sentencepiece,
    train_sentencepiece,
)
from parakeet_ft.tokenizer.words import Texts, split

PLAIN = "turn left heading two one zero tower cleared for take off runway niner".split()
ODD = [
    "½",
    "7",
    "(seven)",
    "naïve",
    "na\u0308ive",
    "ﬁne",
    "語言",
    "A",
    "%",
    "x%y",
    "“q”",
    "1,5",
]
# Normalised to a space, or to one and more, inside a word.
TORN = ["one¨two", "zero\u200bwidth"]
SPACES = ["  ", "\t", "\u00a0", " \u3000"]


def sentences(count, seed=0, *, odd=0.1, torn=0.0, spaces=0.0):
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        words = [
            rng.choice(TORN if rng.random() < torn else ODD if rng.random() < odd else PLAIN)
            for _ in range(rng.randrange(9))
        ]
        found.append((rng.choice(SPACES) if rng.random() < spaces else " ").join(words))
    return found


def spoken(texts):
    return Corpus.of([Utterance("a.wav", 1.0, text) for text in texts]).spoken()


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def model(request):
    return train_sentencepiece(sentences(300, odd=0), vocab_size=33, model_type=request.param)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spaces", [0.0, 0.2])
def test_coverage_by_words_is_that_of_the_texts(model, seed, spaces):
    texts = sentences(400, seed, spaces=spaces)
    by_words = spoken(texts)
    assert by_words.words_for(load_sentencepiece(model)), "the words are used"
    found, expected = coverage(by_words, model), coverage(texts, model)
    assert found == expected and list(found.characters) == list(expected.characters)
    assert expected.num_unknown and expected.num_changed


@pytest.mark.parametrize("seed", range(3))
def test_pieces_learnt_from_words_are_those_learnt_from_texts(model, seed):
    texts = sentences(400, seed)
    learnt = learn_pieces(spoken(texts), model=model, num_pieces=60)
    assert learnt == learn_pieces(texts, model=model, num_pieces=60) and len(learnt) > 30
    assert begins_words(spoken(texts)) == begins_words(texts)
    extended = extend_sentencepiece(model, learnt)
    assert coverage(spoken(texts), extended) == coverage(texts, extended)


@pytest.mark.parametrize("texts", [["one¨two", "tower"], ["zero\u200bwidth one"]])
def test_where_normalising_tears_words_texts_are_encoded_as_they_are(model, texts):
    many = sentences(50) + texts
    assert spoken(many).words_for(load_sentencepiece(model)) is None
    assert coverage(spoken(many), model) == coverage(many, model)


def test_a_tokenizer_whose_pieces_go_beyond_a_word_gets_texts():
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    plain = train_sentencepiece(sentences(300, odd=0), vocab_size=33)
    proto = sentencepiece_model_pb2.ModelProto.FromString(plain)
    proto.pieces.add(piece="e▁o", score=0.0, type=4)
    beyond = proto.SerializeToString()
    texts = ["one one one", "zero one"]
    assert spoken(texts).words_for(load_sentencepiece(plain))
    assert spoken(texts).words_for(load_sentencepiece(beyond)) is None
    assert "e▁o" in sentencepiece.SentencePieceProcessor(model_proto=beyond).encode(
        texts[0], out_type=str
    )
    assert coverage(spoken(texts), beyond) == coverage(texts, beyond)


def test_too_many_words_leave_the_texts(model):
    texts = sentences(50)
    many = Texts(len(texts), lambda a, b: iter(texts[a:b]), lambda: None)
    assert coverage(many, model) == coverage(texts, model)
    assert Counter(dict(split(many))) == Counter(" ".join(texts).split())


def test_words_of_several_parts_and_blocks_are_those_of_all():
    first, second = sentences(90, 1), sentences(80, 2)
    both = (
        Corpus.of([Utterance("a", 1.0, t) for t in first])
        + Corpus.of([Utterance("a", 1.0, t) for t in second])
    ).spoken()
    assert both.words.counts == Counter(" ".join(first + second).split())
    assert list(both) == first + second
    for word, row in both.words.rows.items():
        assert row == (0 if word in " ".join(first).split() else 90)
