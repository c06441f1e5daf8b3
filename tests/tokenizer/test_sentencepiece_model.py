"""Tokenizers: what they cannot write is found, and new pieces leave the old ids and encodings
alone.
"""

import random

import pytest

from parakeet_ft.errors import UserError
from parakeet_ft.tokenizer.pieces import extend_sentencepiece, learn_pieces, load_pieces, spell
from parakeet_ft.tokenizer.sentencepiece_model import (
    coverage,
    load_sentencepiece,
    read_tokenizer_dir,
    train_sentencepiece,
    write_tokenizer_dir,
)

WORDS = [
    "tower",
    "runway",
    "wind",
    "cleared",
    "approach",
    "heading",
    "descend",
    "climb",
    "maintain",
    "contact",
    "ground",
    "line",
    "up",
    "and",
    "wait",
    "traffic",
    "north",
    "south",
    "east",
    "west",
    "speed",
    "turn",
    "left",
    "right",
    "report",
    "visual",
    "final",
    "flight",
    "level",
    "hold",
    "short",
    "taxi",
    "via",
    "the",
    "of",
    "to",
    "for",
    "in",
    "on",
    "it",
    "is",
    "was",
    "there",
    "then",
    "this",
    "that",
]
DOMAIN = [
    "cleared to flight level 350 (climb)",
    "heading 270 & speed 210",
    "kubernetes kubernetes kubernetes",
    "ñandú ñandú seen at 09:15",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(count)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def model(request) -> bytes:
    return train_sentencepiece(
        sentences(300),
        vocab_size={"bpe": 80, "unigram": 64}[request.param],
        model_type=request.param,
    )


def pieces_of(model: bytes) -> list[str]:
    processor = load_sentencepiece(model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def test_coverage_names_the_characters_that_cannot_be_written_with_counts_and_lines(model):
    found = coverage(["tower", "level 7", "7 8 (7)"], model)
    assert found.characters == {"7": 3, "(": 1, ")": 1, "8": 1}
    assert found.examples["7"] == (2, "level 7") and found.examples["8"] == (3, "7 8 (7)")
    ids = [
        i
        for text in ("tower", "level 7", "7 8 (7)")
        for i in load_sentencepiece(model).encode(text)
    ]
    assert (found.num_tokens, found.num_unknown) == (len(ids), ids.count(0))
    assert found.unknown_share == ids.count(0) / len(ids)
    assert any("U+0037" in line and "line 2" in line for line in found.lines())


def test_coverage_reports_texts_that_do_not_come_back(model):
    found = coverage(
        ["tower", "two  spaces".replace("two", "wind").replace("spaces", "wait"), "ﬁnal"], model
    )
    assert found.num_unknown == 0 and found.num_changed == 2
    assert found.changed == [(2, "wind  wait", "wind wait"), (3, "ﬁnal", "final")]


def test_coverage_of_nothing_is_no_error(model):
    assert coverage([], model).unknown_share == 0.0


def test_every_uncovered_character_is_learnt_first(model):
    learnt = learn_pieces(DOMAIN, model=model)
    uncovered = coverage(DOMAIN, model).characters
    assert [piece[-1] for piece in learnt] == list(uncovered) and {"ñ", "0", ":", ")"} < set(learnt)
    assert coverage(DOMAIN, extend_sentencepiece(model, learnt)).num_unknown == 0


def test_punctuation_that_always_begins_a_word_is_learnt_with_the_words_beginning(model):
    learnt = learn_pieces([*DOMAIN, "7 % of 8%"], model=model)
    assert {"▁(", "▁&", "%"} < set(learnt) and not {"(", "&", "▁%"} & set(learnt)
    extended = load_sentencepiece(extend_sentencepiece(model, learnt))
    assert extended.decode(extended.encode("left (right) & up")) == "left (right) & up"


def test_a_trained_vocabulary_writes_whole_pieces_and_brings_them_back():
    trained = train_sentencepiece(DOMAIN * 9, vocab_size=60, whole=["▁(", "▁&"])
    assert {"▁(", "▁&"} < set(pieces_of(trained)) and not {"(", "&"} & set(pieces_of(trained))
    assert (
        coverage([*DOMAIN, "(at) & (for)"], trained).num_unknown
        == coverage([*DOMAIN, "(at) & (for)"], trained).num_changed
        == 0
    )


def test_learnt_merges_shorten_the_texts_and_leave_numbers_in_digits(model):
    texts = DOMAIN * 3
    characters = learn_pieces(texts, model=model)
    learnt = learn_pieces(texts, model=model, num_pieces=len(characters) + 10)
    assert learnt[: len(characters)] == characters and len(learnt) == len(characters) + 10
    assert not any(any(c.isdigit() for c in piece) for piece in learnt if len(piece) > 1)
    few, many = (
        coverage(texts, extend_sentencepiece(model, p)).num_tokens for p in (characters, learnt)
    )
    assert many < few


def test_too_few_pieces_for_the_characters_is_an_error_that_says_how_many(model):
    needed = len(learn_pieces(DOMAIN, model=model))
    with pytest.raises(UserError, match=f"num_pieces to {needed} or more"):
        learn_pieces(DOMAIN, model=model, num_pieces=needed - 1)


def test_extending_keeps_every_old_id_and_score(model):
    extended = extend_sentencepiece(model, ["7", "▁ñandú", "(", "kub"])
    old, new = load_sentencepiece(model), load_sentencepiece(extended)
    size = old.get_piece_size()
    assert pieces_of(extended)[:size] == pieces_of(model)
    assert [old.get_score(i) for i in range(size)] == [new.get_score(i) for i in range(size)]


@pytest.mark.parametrize(
    "listed",
    [
        ["▁kubernetes"],
        ["▁kubernetes", "netes"],
        ["netes", "▁kubernetes", "▁kub"],
        ["▁ñandú"],
        ["%"],
        ["▁approaching"],
    ],
)
def test_a_listed_piece_is_written_as_one(model, listed):
    extended = load_sentencepiece(extend_sentencepiece(model, listed))
    for piece in listed:
        if piece.startswith("▁"):
            assert extended.encode(piece[1:], out_type=str) == [piece]
            assert (
                extended.decode(extended.encode(f"tower {piece[1:]} wind"))
                == f"tower {piece[1:]} wind"
            )


def test_old_text_encodes_as_before_whatever_is_added(model):
    texts = sentences(300, seed=1)
    extended = load_sentencepiece(
        extend_sentencepiece(model, learn_pieces(DOMAIN, model=model) + ["▁kubernetes", "netes"])
    )
    old = load_sentencepiece(model)
    assert [extended.encode(t) for t in texts] == [old.encode(t) for t in texts]


def boundaries(pieces: list[str]) -> set[int]:
    ends, at = set(), 0
    for piece in pieces:
        at += len(piece)
        ends.add(at)
    return ends


def test_a_new_encoding_only_joins_what_the_old_one_spelled(model):
    """Property: on random words from the old alphabet, with pieces listed from random substrings,
    no old boundary is moved.
    """
    rng = random.Random(0)
    old = load_sentencepiece(model)
    present = set(pieces_of(model))
    words = [
        "".join(rng.choices("abcdefghilmnoprstuvwxy", k=rng.randint(2, 9))) for _ in range(200)
    ] + WORDS
    for trial in range(8):
        cuts = {
            "▁" * rng.randint(0, 1) + (w := rng.choice(words))[: rng.randint(2, len(w))]
            for _ in range(12)
        }
        listed = sorted(cuts - present)
        extended = load_sentencepiece(extend_sentencepiece(model, listed))
        for text in (" ".join(rng.choices(words, k=6)) for _ in range(40)):
            before, after = old.encode(text, out_type=str), extended.encode(text, out_type=str)
            assert "".join(before) == "".join(after) and boundaries(after) <= boundaries(before), (
                trial,
                before,
                after,
            )


def test_a_piece_between_is_never_written(model):
    extended = load_sentencepiece(extend_sentencepiece(model, ["▁kubernetes"]))
    ids = {i for word in ("kubernetes", "kubernete", "kub", "kuber") for i in extended.encode(word)}
    assert not any(extended.is_unused(i) for i in ids)


def test_sentencepiece_cannot_reach_a_long_bpe_piece_without_the_merges_between():
    """If this fails, SentencePiece mended it, and extend_sentencepiece needs no UNUSED pieces."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(
        train_sentencepiece(sentences(300), vocab_size=90)
    )
    for i, piece in enumerate(["k", "▁kubernetes"]):
        proto.pieces.add(piece=piece, score=-1000.0 - i, type=1)
    assert len(load_sentencepiece(proto.SerializeToString()).encode("kubernetes")) > 1


def test_a_piece_is_spelled_by_the_old_pieces_of_its_text(model):
    old = load_sentencepiece(model)
    spelled = spell(model, ["▁towers", "towers", "7", "▁7"])
    assert [old.id_to_piece(i) for i in spelled["▁towers"]] == old.encode("towers", out_type=str)
    assert "".join(old.id_to_piece(i) for i in spelled["towers"]) == "towers"
    assert spelled["7"] == [] and [old.id_to_piece(i) for i in spelled["▁7"]] == ["▁"]


@pytest.mark.parametrize(
    "pieces, message",
    [
        (["%", "(", "%"], "1 duplicates: '%'"),
        ([], "empty"),
        (["new york"], "not one word"),
        (["a▁b"], "not one word"),
        (["▁"], "not one word"),
        (["ﬁ"], "rewrites its text to 'fi'"),
        ([True], "quote it"),
        ("nowhere.txt", "No list of pieces at nowhere"),
    ],
)
def test_a_bad_list_of_pieces_is_a_user_error(model, pieces, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        load_pieces(pieces, model=model)


def test_listed_pieces_that_exist_are_told_apart(model, tmp_path):
    (tmp_path / "pieces.txt").write_text("%\n tower\n\n▁the\n(\n", encoding="utf-8")
    present = [p for p in ("▁tower", "▁the") if p in pieces_of(model)]
    add, there = load_pieces(tmp_path / "pieces.txt", model=model)
    assert there == present and set(add) == {"%", "▁tower", "▁the", "("} - set(present)
    assert load_pieces([1, "2"], model=model)[0] == ["1", "2"]


def test_a_vocabulary_larger_than_the_texts_allow_is_an_error_with_the_possible_maximum():
    with pytest.raises(UserError, match=r"vocab_size is 5000, .* at most (\d+)") as error:
        train_sentencepiece(sentences(20), vocab_size=5000)
    possible = error.value.possible
    assert len(pieces_of(train_sentencepiece(sentences(20), vocab_size=possible))) == possible
    with pytest.raises(UserError):
        train_sentencepiece(sentences(20), vocab_size=possible + 1)


def test_a_vocabulary_smaller_than_the_alphabet_is_an_error_with_the_minimum():
    with pytest.raises(UserError, match="alphabet of the training texts") as error:
        train_sentencepiece(sentences(20), vocab_size=5)
    assert (
        len(pieces_of(train_sentencepiece(sentences(20), vocab_size=error.value.possible)))
        == error.value.possible
    )


def test_no_text_is_an_error():
    with pytest.raises(UserError, match="empty"):
        train_sentencepiece(["", " "], vocab_size=10)


def test_a_tokenizer_directory_comes_back(model, tmp_path):
    assert read_tokenizer_dir(write_tokenizer_dir(model, tmp_path / "t")) == model


def test_a_tokenizer_directory_that_is_missing_or_not_sentencepiece_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="No tokenizer directory"):
        read_tokenizer_dir(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no tokenizer\.model, but vocab\.txt"):
        (tmp_path / "wordpiece").mkdir()
        (tmp_path / "wordpiece" / "vocab.txt").write_text("a\n")
        read_tokenizer_dir(tmp_path / "wordpiece")
    for content in (b"", b"hello world", b"\0" * 100):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(UserError, match="not a SentencePiece model"):
            read_tokenizer_dir(tmp_path)


def test_digits_that_begin_words_cost_one_token_each_and_other_texts_are_learnt_as_before(model):
    """Strings as they are read out, such as "6 2 3", cost two tokens a digit with "6" alone."""
    digits = ["6 2 3 9 0", "1 4 7 5 8"] * 20
    learnt = learn_pieces(digits, model=model)
    assert sorted(learnt) == sorted([*"0123456789", *(f"▁{d}" for d in "0123456789")])
    processor = load_sentencepiece(extend_sentencepiece(model, learnt))
    assert processor.encode(digits[0], out_type=str) == ["▁6", "▁2", "▁3", "▁9", "▁0"]
    assert processor.encode("623", out_type=str) == ["▁6", "2", "3"]
    assert learn_pieces(digits[:2], model=model) == sorted("0123456789"), "seen too seldom"
    rare = ["flight 1" + "0" * 12] * 30
    assert learn_pieces(rare, model=model) == ["0", "1", "▁1"], "0 begins no word"


def test_the_number_of_pieces_asked_for_bounds_those_that_begin_words(model):
    digits = ["6 2 3 9 0", "1 4 7 5 8"] * 20
    assert len(learn_pieces(digits, model=model, num_pieces=13)) == 13
    assert len(learn_pieces(digits, model=model, num_pieces=10)) == 10


def test_greedy_spelling_by_old_pieces_is_kept_for_texts_without_a_new_piece(model):
    learnt = learn_pieces(["6 2 3 9 0"] * 30, model=model)
    before, after = (load_sentencepiece(m) for m in (model, extend_sentencepiece(model, learnt)))
    assert all(
        before.encode(text) == after.encode(text) for text in ("left at the gate", "for two", "a")
    )
