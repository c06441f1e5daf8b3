"""SentencePiece models from texts."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from parakeet_ft.data.manifest import atomic_path


def train_sentencepiece(texts: Iterable[str], *, vocab_size: int, model_type: str = "bpe") -> bytes:
    """Train a SentencePiece model of `vocab_size` pieces (`<unk>` included) on `texts` alone; returns the serialised model.

    Every character of the texts gets a piece. Raises ValueError if the texts do not yield that many pieces.
    """
    import sentencepiece

    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=out, vocab_size=vocab_size, model_type=model_type, character_coverage=1.0,
            bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2, num_threads=1)
    except RuntimeError as error:
        raise ValueError(f"The texts do not yield {vocab_size} pieces of type {model_type}: {str(error).splitlines()[-1]}") from None
    return out.getvalue()


def write_tokenizer_dir(model: bytes, folder: Path) -> Path:
    """Write `tokenizer.model`, `vocab.txt` and `tokenizer.vocab` as NeMo 3.0.0 wants them in a tokenizer directory."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    # NeMo's vocab.txt is in wordpiece style: no <unk>, "##" where a piece does not begin a word.
    words = [piece[1:] if piece.startswith("▁") else f"##{piece}" for piece in pieces if piece != "<unk>"]
    contents = {"tokenizer.model": model, "vocab.txt": "\n".join(words).encode() + b"\n",
                "tokenizer.vocab": "".join(f"{p}\t{processor.get_score(i)}\n" for i, p in enumerate(pieces)).encode()}
    for name, content in contents.items():
        with atomic_path(folder / name) as path:
            path.write_bytes(content)
    return folder
