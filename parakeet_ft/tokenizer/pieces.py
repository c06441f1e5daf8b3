"""New pieces for a SentencePiece model: listed by the user or learnt from texts, and appended
without moving an old id.

NeMo's decoding deletes the space before every punctuation character (Unicode category P) that it
finds in the vocabulary, except in pieces that begin with "▁" (asr/parts/utils/tokenizer_utils.py,
extract_punctuation_from_vocab, 3.0.0): with a piece "(" a model writes "350(now)" for ever. So
punctuation that always begins a word in the texts becomes a piece "▁(".
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.tokenizer.sentencepiece_model import WORD_START, load_sentencepiece
from parakeet_ft.tokenizer.words import counted, split

# SentencePiece's ModelProto.SentencePiece.Type and TrainerSpec.ModelType
# (sentencepiece_model.proto).
NORMAL = 1
USER_DEFINED = 4
UNUSED = 5
UNIGRAM = 1
BPE = 2
# How much better than its spelling a new unigram piece scores: enough to win over that spelling,
# too little to move any other boundary.
UNIGRAM_BONUS = 0.01
# A new character that begins so many words, in so much of its use, also becomes a piece with the
# word's beginning.
MIN_WORD_STARTS = 20
INITIAL_SHARE = 0.1


def load_pieces(
    pieces: Sequence[str | int] | str | Path, *, model: bytes
) -> tuple[list[str], list[str]]:
    """New pieces that a user listed, or a file with one a line -> (pieces to add, pieces that
    `model` has already).

    A leading "▁" or space means "at the start of a word". Raises UserError for no pieces,
    duplicates, a piece of several words, and one that the tokenizer's normalisation rewrites, which
    could never be met in a text.
    """
    if isinstance(pieces, str | Path):
        pieces = _lines_of(Path(pieces).expanduser())
    if not pieces:
        raise UserError(
            "The list of pieces is empty, expected at least one; leave tokenizer.pieces out to "
            "learn them from the texts."
        )
    listed = [_as_piece(entry) for entry in pieces]
    if twice := [piece for piece, count in Counter(listed).items() if count > 1]:
        raise UserError(
            f"The list of pieces has {len(twice)} duplicates: {', '.join(map(repr, twice[:5]))}. "
            f"Each must be there once."
        )
    processor = load_sentencepiece(model)
    for piece in listed:
        _check_piece(piece, processor)
    present = {processor.id_to_piece(i) for i in range(processor.get_piece_size())}
    return [p for p in listed if p not in present], [p for p in listed if p in present]


def _lines_of(path: Path) -> list[str]:
    """The lines of a file that are not blank. Raises UserError if there is no file."""
    if not path.is_file():
        raise UserError(
            f"No list of pieces at {path}. Expected a text file with one piece a line, or a list: "
            '\'tokenizer.pieces=["%","("]\'.'
        )
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _as_piece(entry: str | int) -> str:
    """A listed entry with "▁" for the space that it begins with. Raises UserError for what is no
    text.
    """
    if isinstance(entry, bool) or not isinstance(entry, str | int):
        raise UserError(f"tokenizer.pieces holds {entry!r}, expected text; quote it.")
    piece = str(entry).rstrip()
    return WORD_START + piece[1:] if str(entry).startswith(" ") else piece


def _check_piece(piece: str, processor: Any) -> None:
    """Raise UserError unless a piece is a word or part of one that texts can hold."""
    body = piece.removeprefix(WORD_START)
    if not body or WORD_START in body or any(c.isspace() for c in body):
        raise UserError(
            f"The piece {piece!r} is not one word or part of one. List words one by one; '▁' "
            f"may stand only at the start."
        )
    rewritten = processor.normalize(body).lstrip(WORD_START)
    if rewritten != body:
        raise UserError(
            f"The piece {piece!r} can never be met: the tokenizer rewrites its text to "
            f"{rewritten!r} before it encodes. List that instead."
        )


def begins_words(texts: Iterable[str]) -> set[str]:
    """The punctuation characters that stand at the beginning of a word wherever they occur in
    `texts`.
    """
    first: set[str] = set()
    later: set[str] = set()
    for word, _ in split(texts):
        first.add(word[0])
        later.update(word[1:])
    return {c for c in first - later if unicodedata.category(c).startswith("P")}


def learn_pieces(texts: Sequence[str], *, model: bytes, num_pieces: int | None = None) -> list[str]:
    """New pieces for `texts`: every character that `model` cannot write, most frequent first, then
    merges up to `num_pieces`.

    A character of `begins_words` is learnt with its "▁". Any other that begins at least
    MIN_WORD_STARTS words, and INITIAL_SHARE of its occurrences or more, is learnt with and without:
    "▁6" is one token where "▁" and "6" are two.

    The merges continue byte-pair encoding where `model` stopped: the most frequent pair of
    neighbouring pieces becomes one, again and again. Only letters merge, so that numbers stay
    spelled by single digits, and never beyond the longest piece that the model was trained for.
    None learns the characters alone. Raises UserError if the characters are more than `num_pieces`.
    May return fewer.
    """
    proto = _parse(model)
    words, characters = _spelled(texts, model)
    initial = begins_words(texts)
    by_use = sorted(characters, key=lambda c: (-characters[c], c))
    new = [WORD_START + c if c in initial else c for c in by_use]
    if num_pieces is not None and len(new) > num_pieces:
        raise UserError(
            f"num_pieces is {num_pieces}, but the tokenizer cannot write {len(new)} characters of "
            f"the texts: {' '.join(new[:40])}. Set tokenizer.num_pieces to {len(new)} or more, or "
            "normalise the texts."
        )
    known = {p.piece for p in proto.pieces} | set(new)
    initials = [piece for piece in _word_starts(texts, characters) if piece not in known]
    # num_pieces bounds them too; what is left of it goes to merges.
    new += initials if num_pieces is None else initials[: num_pieces - len(new)]
    return new + _learn_merges(
        words,
        known=known | set(new),
        count=(num_pieces or 0) - len(new),
        longest=proto.trainer_spec.max_sentencepiece_length,
    )


def _spelled(texts: Sequence[str], model: bytes) -> tuple[Counter[tuple[str, ...]], Counter[str]]:
    """Each word as the pieces that `model` writes it with, single characters where it cannot; and
    the characters that it cannot write.
    """
    processor = load_sentencepiece(model)
    unknown = processor.unk_id()
    words: Counter[tuple[str, ...]] = Counter()
    characters: Counter[str] = Counter()
    for text, count in counted(texts, processor):
        word: list[str] = []
        pieces = processor.encode(text, out_type=str)
        for piece, index in zip(pieces, processor.encode(text), strict=True):
            if piece.startswith(WORD_START) and word:
                words[tuple(word)] += count
                word = []
            if index == unknown:
                word += list(piece)
                for character in piece:
                    characters[character] += count
            else:
                word.append(piece)
        words[tuple(word)] += count
    return words, characters


def _word_starts(texts: Sequence[str], characters: Counter[str]) -> list[str]:
    """ "▁" before each of the characters that often begins a word, most frequent first."""
    starts: Counter[str] = Counter()
    for word, count in split(texts):
        starts[word[0]] += count
    often = [
        c for c in characters if starts[c] >= max(MIN_WORD_STARTS, INITIAL_SHARE * characters[c])
    ]
    return [WORD_START + c for c in sorted(often, key=lambda c: (-starts[c], c))]


def _learn_merges(
    words: Counter[tuple[str, ...]], *, known: set[str], count: int, longest: int
) -> list[str]:
    """The `count` most frequent merges of letters that occur at least twice, in order."""
    spelled = [list(word) for word in words]
    counts = list(words.values())
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def tally(index: int, sign: int) -> None:
        """Count the pairs of a word, or with sign -1 take them back."""
        word = spelled[index]
        for pair in pairwise(word):
            joined = "".join(pair)
            if len(joined) <= longest and _are_letters(joined.removeprefix(WORD_START)):
                pairs[pair] += sign * counts[index]
                where[pair].add(index)

    for index in range(len(spelled)):
        tally(index, 1)
    merges: list[str] = []
    while len(merges) < count and pairs:
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        if pairs[pair] < 2:
            break
        piece = pair[0] + pair[1]
        if piece not in known:
            merges.append(piece)
            known.add(piece)
        for index in sorted(where.pop(pair)):
            tally(index, -1)
            spelled[index] = _join(spelled[index], pair)
            tally(index, 1)
        del pairs[pair]
    return merges


def _are_letters(text: str) -> bool:
    """Whether a text may become one piece: letters, their marks and apostrophes."""
    return all(unicodedata.category(c)[0] in "LM" or c in "'’" for c in text)


def _join(word: list[str], pair: tuple[str, str]) -> list[str]:
    """A word with each occurrence of the pair as one piece."""
    out = []
    i = 0
    while i < len(word):
        step = 2 if tuple(word[i : i + 2]) == pair else 1
        out.append("".join(word[i : i + step]))
        i += step
    return out


def extend_sentencepiece(model: bytes, pieces: Sequence[str]) -> bytes:
    """Append `pieces` after the old ids; no old id, score or piece changes.

    A new piece only joins what the old model spelled: BPE makes all its old merges first, since
    every new one scores lower, so an encoding by the new model is the old one with runs of pieces
    joined, and text without a new piece or character encodes as before. (For unigram models that
    holds up to scores nearer than 0.01 per joined piece.) BPE reaches a piece only through merges
    of two; the merges between are appended as UNUSED pieces, which SentencePiece never emits. Its
    USER_DEFINED type, the usual way, would also match inside words that have a better old spelling.
    Raises UserError for duplicates, pieces that exist, models that are neither BPE nor unigram.
    """
    proto = _parse(model)
    kind = proto.trainer_spec.model_type
    if kind not in (BPE, UNIGRAM):
        raise UserError(
            "The tokenizer is a word or character model, which cannot be extended. Use "
            "tokenizer=replace."
        )
    present = {p.piece for p in proto.pieces}
    counts = Counter(pieces)
    if twice := [piece for piece in counts if counts[piece] > 1 or piece in present]:
        raise UserError(
            f"{len(twice)} new pieces are listed twice or exist already: "
            f"{', '.join(map(repr, twice[:5]))}."
        )
    # Pieces that take part in encoding; control, byte and unknown pieces do not.
    scores = {p.piece: p.score for p in proto.pieces if p.type in (NORMAL, USER_DEFINED, UNUSED)}
    # Characters first, since they may spell the others.
    ordered = sorted(pieces, key=lambda p: len(p) > 1)
    added = _unigram_scores(ordered, scores) if kind == UNIGRAM else _bpe_scores(ordered, scores)
    for piece, score in added.items():
        proto.pieces.add(piece=piece, score=score, type=NORMAL if piece in counts else UNUSED)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    extended = proto.SerializeToString()
    for piece, spelling in spell(extended, pieces).items():
        if len(spelling) != 1:
            raise UserError(
                f"The tokenizer cannot be made to write {piece!r} as one piece. Leave it out of "
                f"the list."
            )
    return extended


def _unigram_scores(pieces: Sequence[str], scores: dict[str, float]) -> dict[str, float]:
    """A score for each new piece: a little better than that of its spelling, whose pieces may be
    new too; a character scores as the worst old piece does.
    """
    lowest = min(scores.values(), default=0.0)
    added: dict[str, float] = {}
    for piece in pieces:
        if piece in scores:
            continue
        if len(piece) == 1:
            added[piece] = lowest
        else:
            best = _best_score(piece, scores | added, unknown=lowest - 10)
            added[piece] = best + UNIGRAM_BONUS
    return added


def _bpe_scores(pieces: Sequence[str], scores: dict[str, float]) -> dict[str, float]:
    """Scores below all old ones for the new pieces and for the merges on the way to them."""
    added: dict[str, float] = {}
    lowest = min(scores.values(), default=0.0)
    for piece in pieces:
        symbols = _merge(piece, scores | added)
        for end in range(min(2, len(symbols)), len(symbols) + 1):
            merge = "".join(symbols[:end])
            if merge not in scores and merge not in added:
                lowest -= 1
                added[merge] = lowest
    return added


def _merge(text: str, scores: dict[str, float]) -> list[str]:
    """The symbols that byte-pair encoding leaves: the best-scored neighbouring pair merges first,
    the leftmost of equals.
    """
    symbols = list(text)
    while True:
        pairs = [a + b for a, b in pairwise(symbols)]
        joined = [(scores[pair], -i) for i, pair in enumerate(pairs) if pair in scores]
        if not joined:
            return symbols
        at = -max(joined)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


def _best_score(text: str, scores: dict[str, float], *, unknown: float) -> float:
    """The score of the best segmentation of `text` (Viterbi); characters that no piece covers score
    `unknown`.
    """
    scores = dict.fromkeys(text, unknown) | scores
    best = [0.0]
    for end in range(1, len(text) + 1):
        starts = [start for start in range(end) if text[start:end] in scores]
        best.append(max(best[start] + scores[text[start:end]] for start in starts))
    return best[-1]


def spell(model: bytes, pieces: Iterable[str]) -> dict[str, list[int]]:
    """How `model` writes the text of each piece, as ids without `<unk>`; [] if it can write none of
    it.
    """
    proto = _parse(model)
    # A piece is a part of a word: no space may be put before it, and the one it begins with must
    # stay.
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    processor = load_sentencepiece(proto.SerializeToString())
    unknown = processor.unk_id()
    ids = {piece: processor.encode(piece.replace(WORD_START, " ")) for piece in pieces}
    return {piece: [i for i in found if i != unknown] for piece, found in ids.items()}


def _parse(model: bytes) -> Any:
    """The fields of a serialised model."""
    from sentencepiece import sentencepiece_model_pb2

    load_sentencepiece(model)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    # The self-test of some models, which this Python class does not know, holds encodings that a
    # changed model fails when loaded.
    proto.DiscardUnknownFields()
    return proto
