"""Texts by their words: what a tokenizer makes of ten million texts follows from their words, where
it never joins what a space divides.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

WORD_START = "▁"
# Texts whose pieces are compared with those of their words.
COMPARED = 500


@dataclasses.dataclass(frozen=True)
class Words:
    """How often each word (of str.split) occurs; from which text on one has to look for its first
    occurrence; how many texts have other spaces than one between words, and all characters that
    such texts have for spaces.
    """

    counts: dict[str, int]
    rows: dict[str, int]
    num_uneven: int
    spaces: str


class Texts(Sequence[str]):
    """Texts that know their words. between(start, stop) yields some of them; count_words: their
    words, or None if they are too many; key: the identity of the texts, None if what is found of
    them is not worth keeping; place: what messages call a text, by its number from 1.
    """

    def __init__(
        self,
        size: int,
        between: Callable[[int, int], Iterator[str]],
        count_words: Callable[[], Words | None],
        *,
        key: str | None = None,
        place: Callable[[int], str] = "text {}".format,
    ) -> None:
        self.size, self.between, self.count_words, self.key = size, between, count_words, key
        self.place = place
        self._held: dict[bytes, bool] = {}

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[str]:
        return self.between(0, self.size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        index = range(self.size)[index]
        return next(self.between(index, index + 1))

    @functools.cached_property
    def words(self) -> Words | None:
        """The words, counted when they are asked for."""
        return self.count_words()

    def words_for(self, processor: Any) -> Words | None:
        """The words if the tokenizer writes texts word by word, None if it may not."""
        model = processor.serialized_model_proto()
        if model not in self._held:
            self._held[model] = self.words is not None and (
                _divides_at_spaces(model, processor)
                and _leaves_words_alone(self.words, processor)
                and self._agree(processor)
            )
        return self.words if self._held[model] else None

    def _agree(self, processor: Any) -> bool:
        """Whether texts spread over all have the pieces of their words."""
        step = max(1, self.size // COMPARED)
        texts = [self[i] for i in range(0, self.size, step)]
        by_words = [processor.encode(text.split()) for text in texts]
        joined = [list(itertools.chain.from_iterable(words)) for words in by_words]
        return processor.encode(texts) == joined


def _divides_at_spaces(model: bytes, processor: Any) -> bool:
    """Whether a model sets each word's beginning apart, and no piece goes beyond a word."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    normal, trained = proto.normalizer_spec, proto.trainer_spec
    pieces = [piece.piece for piece in proto.pieces]
    return (
        normal.add_dummy_prefix
        and normal.remove_extra_whitespaces
        and normal.escape_whitespaces
        and not trained.treat_whitespace_as_suffix
        # Else a word of unknown characters would be one <unk> with the unknown ones before it.
        and WORD_START in pieces
        and not processor.is_unused(processor.piece_to_id(WORD_START))
        and not any(WORD_START in piece[1:] or " " in piece for piece in pieces)
    )


def _leaves_words_alone(words: Words, processor: Any) -> bool:
    """Whether normalising makes a space of every space in the texts, and of nothing else."""
    characters = set().union(*words.counts)
    between = processor.normalize(["a a", *(f"a{c}a" for c in [*words.spaces, *characters])])
    spaces = between[1 : 1 + len(words.spaces)]
    others = between[1 + len(words.spaces) :]
    return all(found == between[0] for found in spaces) and not any(
        WORD_START in found[1:] or " " in found[1:] for found in others
    )


def counted(texts: Iterable[str], processor: Any) -> Iterable[tuple[str, int]]:
    """What to encode for all that a tokenizer makes of texts, and how often it occurs: words where
    that is the same, else the texts.
    """
    words = texts.words_for(processor) if isinstance(texts, Texts) else None
    return words.counts.items() if words else ((text, 1) for text in texts)


def split(texts: Iterable[str]) -> Iterable[tuple[str, int]]:
    """The words of texts, and how often each occurs."""
    if isinstance(texts, Texts) and texts.words:
        return texts.words.counts.items()
    return Counter(word for text in texts for word in text.split()).items()
