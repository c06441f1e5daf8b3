"""Exports that are checked before they are there: written to a temporary folder, made to transcribe
clips, renamed if the texts are right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.errors import UserError, disk_told
from parakeet_ft.files import DEMO, plain_modes, workspace


@dataclasses.dataclass(frozen=True)
class Parity:
    """Texts of an export against the model's own: what differs, as (clip, model's text, export's
    text), and what that means in WER.

    `what` says which clips these are. `wer` and `model_wer` are against their references,
    `disagreement` is the WER of the export's texts against the model's.
    """

    target: str
    head: str
    clips: int
    what: str
    differing: list[tuple[str, str, str]]
    wer: float
    model_wer: float
    disagreement: float
    accepted: bool
    where: Path

    def lines(self, limit: int = 3) -> list[str]:
        """For the terminal."""
        same = self.clips - len(self.differing)
        found = (
            f"{self.target:<12} {same} of {self.clips} {self.what} transcribed alike by the "
            f"{self.head} head; WER {100 * self.wer:.2f} %, the model's "
            f"{100 * self.model_wer:.2f} %, between the two {100 * self.disagreement:.2f} %: "
            f"{self.where if self.accepted else 'NOT WRITTEN'}"
        )
        return [found] + [
            f"  {clip}\n    model  {ours}\n    export {theirs}"
            for clip, ours, theirs in self.differing[:limit]
        ] * (not self.accepted)


def read_clips(check: str) -> list[Utterance]:
    """`check` is a number of bundled clips (half domain, half general speech) or a manifest. Raises
    UserError.
    """
    if not check.isdigit():
        return read_manifest(check)
    domain, general = (read_manifest(DEMO / name) for name in ("test.jsonl", "guard.jsonl"))
    if not 1 <= int(check) <= 2 * min(len(domain), len(general)):
        raise UserError(
            f"--check {check}: expected 1 to {2 * min(len(domain), len(general))} bundled clips, "
            f"or a manifest."
        )
    return [clip for pair in zip(domain, general, strict=False) for clip in pair][: int(check)]


def clips_named(check: str) -> str:
    """What the clips of `read_clips` are called."""
    return f"clips of {'the bundled demo' if check.isdigit() else Path(check).name}"


def export_checked(
    source: str,
    target: str,
    out: Path,
    *,
    clips: Sequence[Utterance],
    expected: Sequence[str],
    head: str,
    name: str,
    what: str = "clips",
    max_wer_rise: float = 0.02,
) -> Parity:
    """Restore `source`, write it as `target` below `out`, transcribe the clips (which `what` calls
    by name) with what was written, and keep it if the texts are `expected`.

    int8 may differ, as long as its WER is at most `max_wer_rise` (a fraction, absolute) above the
    model's. `head` is "ctc" or "transducer".
    """
    final = out / (f"{name}.nemo" if target == "nemo" else target)
    with _appearing(final) as temporary:
        recognize = WRITERS[target](source, temporary, head)
        parity = compare(
            target,
            recognize,
            clips,
            expected=expected,
            head=head,
            where=final,
            what=what,
            max_wer_rise=max_wer_rise if target == "onnx-int8" else None,
        )
        if not parity.accepted:
            _remove(temporary)
    return parity


def compare(
    target: str,
    recognize: Callable[[Sequence[Utterance]], list[str]],
    clips: Sequence[Utterance],
    *,
    expected: Sequence[str],
    head: str,
    where: Path,
    max_wer_rise: float | None,
    what: str = "clips",
) -> Parity:
    """`recognize` turns clips into texts; any difference but in blanks is too much, unless
    `max_wer_rise` says how much is not.
    """
    from parakeet_ft.scoring.wer import score

    found, references = recognize(clips), [clip.text for clip in clips]
    differing = [
        (clip.audio_filepath, ours, theirs)
        for clip, ours, theirs in zip(clips, expected, found, strict=True)
        if ours.split() != theirs.split()
    ]
    wer, model_wer = score(references, found).wer, score(references, list(expected)).wer
    accepted = not differing if max_wer_rise is None else wer - model_wer <= max_wer_rise
    return Parity(
        target,
        "CTC" if head == "ctc" else head,
        len(clips),
        what,
        differing,
        wer,
        model_wer,
        score(list(expected), found).wer,
        accepted,
        where,
    )


def greedy_model(source: str, *, head: str) -> tuple[Any, str]:
    """(the model on the CPU with greedy decoding, its head): exports decode greedily whatever the
    checkpoint's strategy.
    """
    from parakeet_ft.model.restore import restore
    from parakeet_ft.transcription.decoding import set_decoding

    model = restore(source)
    return model, set_decoding(model, strategy="greedy", head=head)["head"]


def transcribe_clips(model: Any, clips: Sequence[Utterance]) -> list[str]:
    """Texts of the clips in order, as the model stands."""
    from parakeet_ft.transcription.decode import transcribe

    return transcribe(model, clips, batch_seconds=120.0)


def _one_by_one(recognize: Callable[[Any], str]) -> Callable[[Sequence[Utterance]], list[str]]:
    """A recognizer of clips from one of samples."""
    from parakeet_ft.data.audio import read_utterance

    return lambda clips: [recognize(read_utterance(clip)) for clip in clips]


def _write_nemo(source: str, target: Path, head: str) -> Callable[[Sequence[Utterance]], list[str]]:
    """A .nemo, read back by NeMo."""
    from parakeet_ft.export.nemo import save_nemo
    from parakeet_ft.model.restore import restore

    save_nemo(restore(source), target)
    return lambda clips: transcribe_clips(greedy_model(str(target), head=head)[0], clips)


def _write_onnx(source: str, folder: Path, head: str) -> Callable[[Sequence[Utterance]], list[str]]:
    """ONNX, read by onnx-asr."""
    from parakeet_ft.export.onnx import onnx_recognizer, write_onnx

    folder.mkdir()
    write_onnx(greedy_model(source, head=head)[0], folder, head=head)
    return _one_by_one(onnx_recognizer(folder))


def _write_int8(source: str, folder: Path, head: str) -> Callable[[Sequence[Utterance]], list[str]]:
    """ONNX of eight bits, read by onnx-asr."""
    from parakeet_ft.export.onnx import onnx_recognizer, write_int8, write_onnx

    full = folder / "float32"
    full.mkdir(parents=True)
    write_onnx(greedy_model(source, head=head)[0], full, head=head)
    write_int8(full, folder)
    shutil.rmtree(full)
    return _one_by_one(onnx_recognizer(folder, int8=True))


def _write_transformers(
    source: str, folder: Path, head: str
) -> Callable[[Sequence[Utterance]], list[str]]:
    """A folder for transformers, read by it."""
    from parakeet_ft.export.transformers import transformers_recognizer, write_transformers
    from parakeet_ft.model.source import fetch
    from parakeet_ft.tokenizer.sentencepiece_model import read_tokenizer

    tokenizer = read_tokenizer(fetch(source))
    assert tokenizer is not None  # formats.check_formats has looked
    folder.mkdir()
    write_transformers(greedy_model(source, head=head)[0], folder, tokenizer=tokenizer, head=head)
    return _one_by_one(transformers_recognizer(folder))


WRITERS = {
    "nemo": _write_nemo,
    "onnx": _write_onnx,
    "onnx-int8": _write_int8,
    "transformers": _write_transformers,
}


@contextlib.contextmanager
def _appearing(final: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `final` on success, if it is still there; removed on
    failure. A folder is replaced whole.
    """
    with disk_told(final), workspace(final.parent) as own:
        temporary = own / final.name
        yield temporary
        if not temporary.exists():
            return
        plain_modes(temporary)
        for file in [temporary] if temporary.is_file() else temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if final.is_dir():
            os.replace(final, own / "before")
        os.replace(temporary, final)


def _remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
