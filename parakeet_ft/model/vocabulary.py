"""Keep, extend or replace the tokenizer of a model: what each mode makes of the training texts,
done and told.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data import cache
from parakeet_ft.distributed import ranks
from parakeet_ft.errors import UserError
from parakeet_ft.files import json_hash
from parakeet_ft.model import rows
from parakeet_ft.model.parts import family, loss_facts, sentencepiece_of
from parakeet_ft.tokenizer import pieces as new_pieces
from parakeet_ft.tokenizer import sentencepiece_model as sentencepieces
from parakeet_ft.tokenizer.sentencepiece_model import WORD_START, Coverage
from parakeet_ft.tokenizer.words import Texts, counted, split

# Nats taken off the bias of a row that `extend` adds. The row is a mean of old rows, so its logit
# is at most the largest of theirs, and only rounding or a tie could let it win; 1 is far above the
# rounding of float32 and bfloat16 logits, and soon learnt away.
EXTEND_MARGIN = 1.0


@dataclasses.dataclass(frozen=True)
class NewPiece:
    """A piece that the model had no row for. Its row is the mean of those of `started_from`; []
    stands for all old pieces.
    """

    piece: str
    id: int
    started_from: list[str]
    num_uses: int


@dataclasses.dataclass(frozen=True)
class VocabularyChange:
    """What happened to the vocabulary. `num_uses` and token counts are over the training texts;
    `loss` is read from the live model.
    """

    mode: str
    family: str
    vocab_size_before: int
    vocab_size_after: int
    num_kept: int
    new: list[NewPiece]
    dropped: list[str]
    coverage_before: Coverage
    coverage_after: Coverage
    loss: dict[str, Any]
    notes: list[str]

    def lines(self, limit: int = 12, *, texts: Sequence[str] = ()) -> list[str]:
        """For people: the table kept / new / dropped, how the texts are written before and after,
        the loss in force. `texts`: those that the vocabulary was made for.
        """
        out = [
            f"vocabulary: {self.mode}, {self.vocab_size_before} -> {self.vocab_size_after} pieces: "
            f"kept {self.num_kept}, new {len(self.new)}, dropped {len(self.dropped)}"
        ]
        shown = sorted(self.new, key=lambda p: -p.num_uses)[:limit]
        out += [
            f"  new {p.piece!r} (id {p.id}, used {p.num_uses} times), started from "
            f"{' + '.join(map(repr, p.started_from)) or 'all pieces'}"
            for p in shown
        ]
        if len(self.new) > limit:
            out.append(f"  and {len(self.new) - limit} more")
        if self.dropped:
            more = ", ..." if len(self.dropped) > limit else ""
            out.append(f"  dropped {', '.join(map(repr, self.dropped[:limit]))}{more}")
        out += [f"  {note}" for note in self.notes]
        if self.mode != "keep":
            out.append("before: " + self.coverage_before.lines()[0])
        first, *others = self.coverage_after.lines(texts=texts)
        loss = ", ".join(f"{name} {value}" for name, value in self.loss.items())
        return [*out, f"texts: {first}", *others, f"the checkpoint's loss: {loss}"]


@dataclasses.dataclass(frozen=True)
class TokenizerPlan:
    """The tokenizer that a mode leads to (a serialised model), and what both make of the texts."""

    model: bytes
    coverage_before: Coverage
    coverage_after: Coverage
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """For a JSON file."""
        return dataclasses.asdict(self) | {"model": base64.b64encode(self.model).decode()}

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> TokenizerPlan:
        """What `facts` gave."""
        return cls(
            model=base64.b64decode(facts["model"]),
            coverage_before=Coverage.of_facts(facts["coverage_before"]),
            coverage_after=Coverage.of_facts(facts["coverage_after"]),
            notes=facts["notes"],
        )


# Of the plans that are kept.
PLAN_FORMAT = 1


def plan_tokenizer(
    model: bytes,
    *,
    texts: Sequence[str],
    mode: str,
    max_unknown_share: float,
    num_pieces: int | None,
    pieces: Sequence[str] | str | None,
    vocab_size: int | None,
    model_type: str,
    tokenizer_dir: str | None,
) -> TokenizerPlan:
    """The tokenizer after `mode`, from the serialised SentencePiece `model` before it; needs
    neither torch nor NeMo.

    keep: `model` itself. extend: plus `pieces` (a list or a file of one a line), or pieces learnt
    from the texts: their uncovered characters, then merges up to `num_pieces`. replace: the model
    in `tokenizer_dir`, or one of `vocab_size` pieces (None: as many as now, or as the texts yield)
    of `model_type` trained on the texts alone. Raises UserError if more than the fraction
    `max_unknown_share` of the tokens is then `<unk>`, if a setting belongs to another mode, and for
    pieces, directories and sizes that cannot be used.
    """
    _check_settings(
        mode,
        extend={"num_pieces": num_pieces, "pieces": pieces},
        replace={"vocab_size": vocab_size, "tokenizer_dir": tokenizer_dir},
    )
    settings: dict[str, Any] = {
        "mode": mode,
        "num_pieces": num_pieces,
        "pieces": pieces,
        "vocab_size": vocab_size,
        "model_type": model_type,
    }

    def plan() -> TokenizerPlan:
        return _plan(model, texts=texts, tokenizer_dir=tokenizer_dir, **settings)

    key = texts.key if isinstance(texts, Texts) else None
    if key and not tokenizer_dir and not isinstance(pieces, str):  # what a file holds may change
        model_hash = hashlib.sha256(model).hexdigest()
        name = f"tokenizer-{json_hash([PLAN_FORMAT, model_hash, key, settings])[:32]}"
        found = TokenizerPlan.of_facts(cache.kept_facts(name, lambda: plan().facts()))
    else:
        found = plan()
    _check_coverage(found.coverage_after, texts, mode=mode, max_unknown_share=max_unknown_share)
    return found


def _plan(
    model: bytes,
    *,
    texts: Sequence[str],
    mode: str,
    num_pieces: int | None,
    pieces: Sequence[str] | str | None,
    vocab_size: int | None,
    model_type: str,
    tokenizer_dir: str | None,
) -> TokenizerPlan:
    """`plan_tokenizer` for settings that go together, whatever the texts' share of `<unk>`."""
    before = sentencepieces.coverage(texts, model)
    notes: list[str] = []
    if mode == "extend":
        new_model = _extended(model, texts=texts, num_pieces=num_pieces, pieces=pieces, notes=notes)
    elif mode == "replace" and tokenizer_dir:
        new_model = sentencepieces.read_tokenizer_dir(tokenizer_dir)
    elif mode == "replace":
        new_model = _train(
            texts,
            vocab_size=vocab_size,
            size_before=len(_piece_list(model)),
            model_type=model_type,
            notes=notes,
        )
    else:
        new_model = model
    after = sentencepieces.coverage(texts, new_model) if new_model is not model else before
    return TokenizerPlan(model=new_model, coverage_before=before, coverage_after=after, notes=notes)


def _extended(
    model: bytes,
    *,
    texts: Sequence[str],
    num_pieces: int | None,
    pieces: Sequence[str] | str | None,
    notes: list[str],
) -> bytes:
    """`model` with the listed pieces, or with those that the texts yield; `model` itself if there
    are none.
    """
    if pieces is None:
        wanted = new_pieces.learn_pieces(texts, model=model, num_pieces=num_pieces)
        if len(wanted) < (num_pieces or 0):
            notes.append(f"the texts yield {len(wanted)} new pieces, {num_pieces} were asked for")
    else:
        wanted = _listed(pieces, model=model, texts=texts, notes=notes)
    if not wanted:
        notes.append("no new piece: the tokenizer is unchanged")
        return model
    return new_pieces.extend_sentencepiece(model, wanted)


def _listed(
    pieces: Sequence[str] | str, *, model: bytes, texts: Sequence[str], notes: list[str]
) -> list[str]:
    """The listed pieces that are new; punctuation that always begins a word gets its beginning (see
    the head of pieces.py).
    """
    wanted, present = new_pieces.load_pieces(pieces, model=model)
    if present:
        shown = ", ".join(map(repr, present[:10]))
        notes.append(f"{len(present)} listed pieces exist already: {shown}")
    initial = new_pieces.begins_words(texts) & set(wanted)
    if not initial:
        return wanted
    notes.append(
        f"{' '.join(sorted(initial))} always begin a word in the texts, and are added with the "
        "word's beginning"
    )
    return list(dict.fromkeys(WORD_START + p if p in initial else p for p in wanted))


def _check_settings(mode: str, *, extend: dict[str, Any], replace: dict[str, Any]) -> None:
    """Raise UserError for a mode that there is not, and for settings that do not go with it."""
    if mode not in ("keep", "extend", "replace"):
        raise UserError(f"tokenizer.mode is {mode!r}, expected keep, extend or replace.")
    for owner, settings in (("extend", extend), ("replace", replace)):
        given = [name for name, value in settings.items() if value is not None]
        if given and mode != owner:
            raise UserError(
                f"tokenizer.{given[0]} belongs to tokenizer={owner}, but the mode is {mode}. "
                f"Use tokenizer={owner} or leave it out."
            )
        if len(given) > 1:
            raise UserError(
                f"tokenizer.{given[0]} and tokenizer.{given[1]} exclude each other. Give one of "
                "them."
            )


def _train(
    texts: Sequence[str],
    *,
    vocab_size: int | None,
    size_before: int,
    model_type: str,
    notes: list[str],
) -> bytes:
    """A tokenizer of the texts alone, of the nearest size that they allow if none was asked for."""
    whole = sorted(WORD_START + c for c in new_pieces.begins_words(texts))
    try:
        return sentencepieces.train_sentencepiece(
            texts, vocab_size=vocab_size or size_before, model_type=model_type, whole=whole
        )
    except sentencepieces.VocabularySizeError as error:
        if vocab_size is not None:
            raise
        notes.append(
            f"{error.possible} pieces instead of the checkpoint's {size_before}: the texts allow "
            f"no other number as near"
        )
        return sentencepieces.train_sentencepiece(
            texts, vocab_size=error.possible, model_type=model_type, whole=whole
        )


CURES = {
    "keep": "Use tokenizer=extend to add the {count} characters and keep what the decoder knows, "
    "tokenizer=replace if the texts have little in common with what the model was trained on",
    "extend": "Add these characters to tokenizer.pieces, or leave tokenizer.pieces out to learn "
    "them from the texts",
    "replace": "Leave tokenizer.tokenizer_dir out to train a tokenizer on the texts",
}


def _check_coverage(
    found: Coverage, texts: Sequence[str], *, mode: str, max_unknown_share: float
) -> None:
    """Raise UserError if the tokenizer cannot write too much of the texts."""
    if found.unknown_share <= max_unknown_share:
        return
    cure = CURES[mode].format(count=len(found.characters))
    details = "\n".join(found.lines(texts=texts)[1:])
    raise UserError(
        f"The tokenizer cannot write the training texts: {found.num_unknown} of {found.num_tokens} "
        f"tokens are <unk> ({100 * found.unknown_share:.3g} %), more than "
        f"tokenizer.max_unknown_share {100 * max_unknown_share:.3g} %.\n"
        f"{details}\n{cure}, normalise the texts, or raise tokenizer.max_unknown_share."
    )


def adapt_vocabulary(
    model: Any,
    *,
    texts: Sequence[str],
    workdir: Path,
    mode: str,
    max_unknown_share: float,
    num_pieces: int | None,
    pieces: Sequence[str] | str | None,
    vocab_size: int | None,
    model_type: str,
    tokenizer_dir: str | None,
) -> VocabularyChange:
    """Change the tokenizer of a restored model in place; settings and errors are those of
    `plan_tokenizer`. Call it before swapping losses.

    A piece that both vocabularies have keeps its rows bit for bit, blank and durations move behind
    the last piece, everything that does not depend on the vocabulary stays, and a new piece starts
    from the mean of the old pieces that spelled it. The loss is rebuilt from the checkpoint's
    configuration; RuntimeError if it then differs from the checkpoint's in more than the blank's
    index.

    After `extend`, greedy decoding yields what it did before, whatever the weights: the logit of a
    new row is the mean of old logits less EXTEND_MARGIN, so an old one is always larger; CTC's
    softmax over more rows keeps their order, durations are chosen apart, and old embeddings drive
    the prediction network as before. (Up to the rounding of matrix products of another width: old
    pieces that tie to the last bits may swap; and where a new character is punctuation that the old
    vocabulary had in pieces with "▁" alone, NeMo's decoding begins to delete the space before it.)
    Beam search sums probabilities and may differ.

    A changed tokenizer is written into `workdir`, which must last until `save_to`.
    """
    if type(model.tokenizer).__name__ != "SentencePieceTokenizer" or model.tokenizer_type != "bpe":
        raise UserError(
            f"The model's tokenizer is a {type(model.tokenizer).__name__}, expected one "
            "SentencePiece model; aggregate and WordPiece tokenizers are not supported."
        )
    old = sentencepiece_of(model).serialized_model_proto()
    plan = ranks.on_first(
        lambda: plan_tokenizer(
            old,
            texts=texts,
            mode=mode,
            max_unknown_share=max_unknown_share,
            num_pieces=num_pieces,
            pieces=pieces,
            vocab_size=vocab_size,
            model_type=model_type,
            tokenizer_dir=tokenizer_dir,
        )
    )
    facts_before = loss_facts(model)
    before = _piece_list(old)
    after = _piece_list(plan.model)
    starts = _row_starts(old, before, after)
    if plan.model != old:
        rows.swap_tokenizer(
            model,
            sentencepieces.write_tokenizer_dir(plan.model, workdir),
            starts=starts,
            num_before=len(before),
            lowered=range(len(before), len(after)) if mode == "extend" else range(0),
            margin=EXTEND_MARGIN,
        )
    rows.rebuild_loss(model)
    rows.check_loss(model, facts_before, num_pieces=len(after))
    uses = _uses(model, texts) if set(after) - set(before) else Counter()
    new = _new_pieces(before, after, starts, uses=uses)
    return VocabularyChange(
        mode=mode,
        family=family(model),
        vocab_size_before=len(before),
        vocab_size_after=len(after),
        num_kept=len(set(before) & set(after)),
        new=new,
        dropped=_without(before, after),
        coverage_before=plan.coverage_before,
        coverage_after=plan.coverage_after,
        loss=loss_facts(model),
        notes=[
            *plan.notes,
            *_notes_on_use(new, sentencepiece_of(model)),
            *_notes_on_spaces(model, texts),
        ],
    )


def _without(pieces: list[str], others: list[str]) -> list[str]:
    """The pieces that are not among the others, in order."""
    known = set(others)
    return [piece for piece in pieces if piece not in known]


def _uses(model: Any, texts: Sequence[str]) -> Counter[int]:
    """How often each id occurs in the texts."""
    uses: Counter[int] = Counter()
    for text, count in counted(texts, sentencepiece_of(model)):
        for i in model.tokenizer.text_to_ids(text):
            uses[i] += count
    return uses


def _new_pieces(
    before: list[str], after: list[str], starts: list[list[int]], *, uses: Counter[int]
) -> list[NewPiece]:
    """The pieces that `before` lacks, each with those whose rows it started from."""
    had = set(before)
    new = []
    for i, piece in enumerate(after):
        if piece in had:
            continue
        from_all = len(starts[i]) == len(before)
        started_from = [] if from_all else [before[j] for j in starts[i]]
        new.append(NewPiece(piece=piece, id=i, started_from=started_from, num_uses=uses[i]))
    return new


def _notes_on_use(new: list[NewPiece], processor: Any) -> list[str]:
    """The new pieces that no text will have."""
    between = [p for p in new if processor.is_unused(p.id)]
    idle = [p.piece for p in new if not p.num_uses and not processor.is_unused(p.id)]
    notes = []
    if between:
        notes.append(
            f"{len(between)} of the new pieces only join others on the way to a listed piece and "
            f"are never written"
        )
    if idle:
        shown = ", ".join(map(repr, idle[:10]))
        notes.append(f"{len(idle)} new pieces occur nowhere in the texts: {shown}")
    return notes


def _notes_on_spaces(model: Any, texts: Sequence[str]) -> list[str]:
    """What NeMo's decoding does to the texts: it deletes spaces before punctuation (see the head of
    pieces.py).
    """
    punctuation = model.decoding.supported_punctuation
    if not punctuation or not any(word[0] in punctuation for word, _ in split(texts)):
        return []
    pattern = model.decoding.space_before_punct_pattern
    count, first = 0, ""
    characters: set[str] = set()
    for text in texts:
        if found := [match[2] for match in pattern.finditer(text)]:
            characters.update(found)
            count, first = count + 1, first or text
    if not count:
        return []
    return [
        f"{count} texts have a space before {' '.join(sorted(characters))}, which NeMo deletes "
        f"when it decodes: {first!r} is written {pattern.sub(chr(92) + '2', first)!r} at best. "
        "Remove the space from the texts."
    ]


def _row_starts(old: bytes, before: list[str], after: list[str]) -> list[list[int]]:
    """For each new id the old ids whose rows it starts from: itself by piece, else those that
    spelled it, else all.
    """
    starts = {piece: [i] for i, piece in enumerate(before)}
    new = [piece for piece in after if piece not in starts]
    for piece, ids in new_pieces.spell(old, new).items():
        starts[piece] = ids or list(range(len(before)))
    return [starts[piece] for piece in after]


def _piece_list(model: bytes) -> list[str]:
    """The pieces of a serialised model, by id."""
    processor = sentencepieces.load_sentencepiece(model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
