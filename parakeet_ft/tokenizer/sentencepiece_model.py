"""SentencePiece models: train, read, write them, and measure what they cannot write. No torch, no
NeMo.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path
from parakeet_ft.tokenizer.words import WORD_START, Texts, Words

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


def num_threads() -> int:
    """Threads that SentencePiece encodes with: the cores of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def train_sentencepiece(
    texts: Iterable[str], *, vocab_size: int, model_type: str = "bpe", whole: Sequence[str] = ()
) -> bytes:
    """Train a SentencePiece model of `vocab_size` pieces (`<unk>` included) on `texts` alone;
    returns the serialised model.

    The strings of `whole` become pieces that are never divided; every character outside them gets a
    piece. Raises UserError naming the possible number of pieces if the texts do not yield as many.
    """
    import sentencepiece

    if model_type not in ("bpe", "unigram"):
        raise UserError(f"model_type is {model_type!r}, expected bpe or unigram.")
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=out,
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=1.0,
            user_defined_symbols=list(whole),
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
            num_threads=1,
        )
    except RuntimeError as error:
        if most := re.search(r"value <= (\d+)", str(error)):
            raise VocabularySizeError(
                f"vocab_size is {vocab_size}, but the training texts yield at most {most[1]} "
                f"pieces of type {model_type}. Set tokenizer.vocab_size to {most[1]} or less, or "
                "add text.",
                possible=int(most[1]),
            ) from None
        if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise VocabularySizeError(
                f"vocab_size is {vocab_size}, but the alphabet of the training texts alone needs "
                f"{least[1]} pieces. Set tokenizer.vocab_size to {least[1]} or more, or normalise "
                "the texts.",
                possible=int(least[1]),
            ) from None
        if "sentences_.empty()" in str(error) or "all_chars_count" in str(error):
            raise UserError(
                "The training texts are empty, expected at least one sentence to train a tokenizer "
                "on."
            ) from None
        raise UserError(
            f"SentencePiece made no {model_type} model of {vocab_size} pieces: "
            f"{str(error).splitlines()[-1]}"
        ) from None
    return out.getvalue()


class VocabularySizeError(UserError):
    """More pieces asked for than the texts yield, or fewer than they have characters; `possible` is
    the nearest number that works.
    """

    def __init__(self, message: str, *, possible: int) -> None:
        super().__init__(message)
        self.possible = possible


def load_sentencepiece(model: bytes, *, where: str = "The tokenizer") -> SentencePieceProcessor:
    """The processor of a serialised model. Raises UserError if the bytes are no SentencePiece
    model.
    """
    import sentencepiece

    try:
        if not model:
            raise RuntimeError("empty")
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError:
        raise UserError(
            f"{where} is not a SentencePiece model ({len(model)} bytes). Expected the "
            "tokenizer.model that SentencePiece writes."
        ) from None


def read_tokenizer(archive: Path) -> bytes | None:
    """The serialised model inside a .nemo, without restoring it; None if it has another kind of
    tokenizer. Raises UserError if it cannot be read.
    """
    try:
        with tarfile.open(archive) as tar:
            models = [m for m in tar if m.isfile() and m.name.endswith("tokenizer.model")]
            # An aggregate tokenizer has one for each language.
            found = tar.extractfile(models[0]) if len(models) == 1 else None
            return found.read() if found else None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(
            f"{archive} cannot be read: {error}. Expected a .nemo file: download or export it "
            f"again."
        ) from None


def read_tokenizer_dir(folder: str | Path) -> bytes:
    """The serialised model of a tokenizer directory. Raises UserError if it is missing, lacks
    tokenizer.model, or is not SentencePiece.
    """
    folder = Path(folder).expanduser()
    path = folder / "tokenizer.model"
    if not folder.is_dir():
        raise UserError(
            f"No tokenizer directory at {folder}. Expected a folder with tokenizer.model."
        )
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise UserError(
            f"{folder} holds no tokenizer.model, but {found}. Expected a SentencePiece model; "
            f"WordPiece is not supported."
        )
    model = path.read_bytes()
    load_sentencepiece(model, where=str(path))
    return model


def write_tokenizer_dir(model: bytes, folder: Path) -> Path:
    """Write `tokenizer.model`, `vocab.txt` and `tokenizer.vocab` as NeMo 3.0.0 wants them in a
    tokenizer directory.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    # NeMo's vocab.txt is in wordpiece style: no <unk>, "##" where a piece does not begin a word.
    words = [
        piece[1:] if piece.startswith(WORD_START) else f"##{piece}"
        for piece in pieces
        if piece != "<unk>"
    ]
    contents = {
        "tokenizer.model": model,
        "vocab.txt": "\n".join(words).encode() + b"\n",
        "tokenizer.vocab": "".join(
            f"{p}\t{processor.get_score(i)}\n" for i, p in enumerate(pieces)
        ).encode(),
    }
    for name, content in contents.items():
        with atomic_path(folder / name) as path:
            path.write_bytes(content)
    return folder


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What a tokenizer makes of texts. Line numbers count the texts from 1.

    `unknown_share` is `<unk>` tokens over all tokens, a fraction; SentencePiece writes a run of
    unknown characters as one `<unk>`. `characters` counts the characters that were not written,
    most frequent first, and `examples` shows the first text of each; `changed` lists texts without
    `<unk>` that come back different from decode(encode(x)), up to five of `num_changed`.
    """

    num_texts: int
    num_tokens: int
    num_unknown: int
    unknown_share: float
    characters: dict[str, int]
    examples: dict[str, tuple[int, str]]
    num_changed: int
    changed: list[tuple[int, str, str]]

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> Coverage:
        """What dataclasses.asdict made, read back from JSON."""
        examples = {c: (number, text) for c, (number, text) in facts["examples"].items()}
        changed = [(number, text, again) for number, text, again in facts["changed"]]
        return cls(**facts | {"examples": examples, "changed": changed})

    def lines(self, limit: int = 8, *, texts: Iterable[str] = ()) -> list[str]:
        """For people: the shares, the worst characters with an example each, the round trips that
        fail. `texts`: those that were encoded, which may know where they stand.
        """
        place = texts.place if isinstance(texts, Texts) else "line {}".format
        out = [
            f"{self.num_texts} texts, {self.num_tokens} tokens, {100 * self.unknown_share:.3g} % "
            f"<unk>"
        ]
        for character, count in list(self.characters.items())[:limit]:
            number, text = self.examples[character]
            out.append(
                f"  cannot write {character!r} (U+{ord(character):04X}), {count} times, first in "
                f"{place(number)}: {_cut(text, character)!r}"
            )
        if len(self.characters) > limit:
            out.append(
                f"  and {len(self.characters) - limit} more characters: "
                f"{' '.join(list(self.characters)[limit : limit + 40])}"
            )
        if self.num_changed:
            out.append(f"  {self.num_changed} texts come back different from decode(encode(text)):")
            out += [
                f"    {place(number)}: {text!r} -> {again!r}"
                for number, text, again in self.changed[:3]
            ]
        return out


def _cut(text: str, character: str, width: int = 60) -> str:
    """The part of a text around a character, with dots where it goes on."""
    at = max(0, text.find(character) - width // 2)
    before = "…" if at else ""
    after = "…" if at + width < len(text) else ""
    return before + text[at : at + width] + after


def coverage(texts: Iterable[str], tokenizer: SentencePieceProcessor | bytes | Any) -> Coverage:
    """Encode and decode all texts, or where that gives the same their words, once each. `tokenizer`
    is a serialised model, a processor, or NeMo's SentencePieceTokenizer around one.
    """
    if isinstance(tokenizer, bytes):
        processor = load_sentencepiece(tokenizer)
    else:
        processor = getattr(tokenizer, "tokenizer", tokenizer)
    found = Tally(processor)
    words = texts.words_for(processor) if isinstance(texts, Texts) else None
    if isinstance(texts, Texts) and words:
        for some in _batches(words.counts.items()):
            found.add([word for word, _ in some], [count for _, count in some])
        found.num_texts = len(texts)
        _look_at_texts(texts, words, found)
    else:
        for some in _batches(texts):
            found.add(some, [1] * len(some), first=found.num_texts + 1)
            found.num_texts += len(some)
    return found.coverage()


def _batches(items: Iterable[Any], size: int = 10_000) -> Iterator[list[Any]]:
    waiting = iter(items)
    while some := list(itertools.islice(waiting, size)):
        yield some


class Tally:
    """Counts over texts, or over words; of words `unknown` (with their characters) and `altered`
    hold those that are not written, or come back different.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.num_texts = self.num_tokens = self.num_unknown = self.num_changed = 0
        self.characters: Counter[str] = Counter()
        self.examples: dict[str, tuple[int, str]] = {}
        self.changed: list[tuple[int, str, str]] = []
        self.unknown: dict[str, set[str]] = {}
        self.altered: set[str] = set()

    def add(self, texts: list[str], counts: list[int], *, first: int | None = None) -> None:
        """Encode and decode texts that occur so often; first: the number of the first, None for
        words.
        """
        unknown = self.processor.unk_id()
        encoded = self.processor.encode(texts, num_threads=num_threads())
        decoded = self.processor.decode(encoded, num_threads=num_threads())
        rows = zip(texts, counts, encoded, decoded, strict=True)
        for at, (text, count, ids, again) in enumerate(rows):
            self.num_tokens += count * len(ids)
            if unknown in ids:
                self._note_unknown(text, count, ids, first and first + at)
            elif again != text:
                if first is None:
                    self.altered.add(text)
                else:
                    self.note_changed(first + at, text, again)

    def _note_unknown(self, text: str, count: int, ids: list[int], number: int | None) -> None:
        """Pieces instead of ids show what each <unk> stood for, after the tokenizer's own
        normalisation.
        """
        pieces = self.processor.encode(text, out_type=str)
        unknown = [
            piece for piece, i in zip(pieces, ids, strict=True) if i == self.processor.unk_id()
        ]
        self.num_unknown += count * len(unknown)
        for character in "".join(unknown):
            self.characters[character] += count
            if number is None:
                self.unknown.setdefault(text, set()).add(character)
            else:
                self.examples.setdefault(character, (number, text))

    def note_changed(self, number: int, text: str, again: str) -> None:
        """A text that comes back different."""
        self.num_changed += 1
        if len(self.changed) < 5:
            self.changed.append((number, text, again))

    def coverage(self) -> Coverage:
        """What was found."""
        ordered = dict(sorted(self.characters.items(), key=lambda item: (-item[1], item[0])))
        return Coverage(
            num_texts=self.num_texts,
            num_tokens=self.num_tokens,
            num_unknown=self.num_unknown,
            unknown_share=self.num_unknown / max(1, self.num_tokens),
            characters=ordered,
            examples={c: self.examples[c] for c in ordered},
            num_changed=self.num_changed,
            changed=self.changed,
        )


def _look_at_texts(texts: Texts, words: Words, found: Tally) -> None:
    """What words cannot tell: the first text of each character that is not written, and the texts
    that come back different.
    """
    starts: dict[int, set[str]] = {}
    for character in found.characters:
        having = [word for word, own in found.unknown.items() if character in own]
        starts.setdefault(min(words.rows[word] for word in having), set()).add(character)
    for start, characters in sorted(starts.items()):
        _find_examples(texts, start, characters, found)
    if not (found.altered or words.num_uneven):
        return
    for number, text in enumerate(texts, 1):
        own = text.split()
        if found.unknown and not found.unknown.keys().isdisjoint(own):
            continue
        if " ".join(own) != text or not found.altered.isdisjoint(own):
            again = found.processor.decode(found.processor.encode(text))
            found.note_changed(number, text, again)


def _find_examples(texts: Texts, start: int, wanted: set[str], found: Tally) -> None:
    """The first text, from the one numbered `start` on, of each of the characters."""
    left = set(wanted)
    for number, text in enumerate(texts.between(start, len(texts)), start + 1):
        for word in text.split():
            for character in found.unknown.get(word, set()) & left:
                found.examples[character] = (number, text)
                left.remove(character)
        if not left:
            return
