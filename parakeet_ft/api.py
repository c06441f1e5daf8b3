"""What a notebook calls, with plain arguments. torch and NeMo are imported by the calls that need
them.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import project_folder

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from nemo.collections.asr.models import ASRModel

    from parakeet_ft.scoring.wer import Score
    from parakeet_ft.transcription.words import Transcript

__all__ = ["evaluate", "finetune", "restore", "score", "transcribe"]
File = str | os.PathLike


def restore(source: str, *, device: str | None = None) -> ASRModel:
    """The model of a .nemo file, of a name that the recipes know, or of a hub id.

    device: such as cpu or cuda:1; None: a GPU if there is one. Raises UserError.
    """
    import torch

    from parakeet_ft.model.restore import restore as restore_source

    return restore_source(source).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def transcribe(
    model: str | ASRModel,
    audio: File | Sequence[File],
    *,
    words: bool = False,
    long_audio: str = "auto",
    batch_seconds: float = 120.0,
) -> list[Transcript]:
    """Transcripts of audio files, of folders of them, or of the audio that manifests name; as
    recipes/transcribe.py writes them.

    model: what `restore` takes or returns. words: with times of words. long_audio: auto, full,
    local or chunked. Raises UserError for audio that cannot be read.
    """
    from parakeet_ft.data.audio import AudioError
    from parakeet_ft.transcription.decode import transcribe_segments
    from parakeet_ft.transcription.decoding import set_decoding
    from parakeet_ft.transcription.long_audio import measure, plan
    from parakeet_ft.transcription.recordings import collect_recordings

    sources = [audio] if isinstance(audio, str | os.PathLike) else audio
    recordings = collect_recordings([os.fspath(source) for source in sources])
    net = restore(model) if isinstance(model, str) else model
    set_decoding(net, words=words)
    try:
        seconds = [measure(recording) for recording in recordings]
        plans = [
            plan(net, recording, length, long_audio=long_audio)
            for recording, length in zip(recordings, seconds, strict=True)
        ]
    except AudioError as error:
        raise UserError(str(error)) from None
    segments = [segment for planned in plans for segment in planned]
    found: dict[int, Transcript] = {}
    for results in transcribe_segments(net, segments, batch_seconds=batch_seconds):
        for index, result in results:
            if isinstance(result, AudioError):
                raise UserError(str(result))
            found[index] = result
    transcripts, start = [], 0
    for recording, planned, length in zip(recordings, plans, seconds, strict=True):
        parts = [(segment, found[start + n]) for n, segment in enumerate(planned)]
        start += len(planned)
        transcripts.append(_joined(parts, seconds=length, begin=recording.offset))
    return transcripts


def _joined(parts: list, *, seconds: float, begin: float) -> Transcript:
    from parakeet_ft.transcription.words import Transcript, join_segments

    if not parts:  # nobody speaks
        return Transcript("", (), seconds)
    return join_segments(parts, seconds=seconds, begin=begin)


def score(references: Sequence[str], hypotheses: Sequence[str], *, language: str = "en") -> Score:
    """Word and character errors, as they are and normalised for `language` (none: not at all).
    Raises ValueError if the lengths differ.
    """
    from parakeet_ft.scoring import wer
    from parakeet_ft.scoring.normalization import Normalizer

    return wer.score(references, hypotheses, normalizer=Normalizer(language))


def evaluate(
    model: str | ASRModel,
    manifest: File,
    *,
    language: str = "en",
    long_audio: str = "auto",
    batch_seconds: float = 240.0,
) -> Score:
    """A model's score on a manifest, decoded greedily, as recipes/evaluate.py scores it. Raises
    UserError.
    """
    from parakeet_ft.data.sources import read_all
    from parakeet_ft.settings.manifests import weighted
    from parakeet_ft.transcription.decode import transcribe as decode
    from parakeet_ft.transcription.decoding import set_decoding
    from parakeet_ft.transcription.long_audio import cut_like_a_recording

    utterances = read_all(weighted(os.fspath(manifest)))
    net = restore(model) if isinstance(model, str) else model
    set_decoding(net, strategy="greedy")
    cut = cut_like_a_recording(net, long_audio=long_audio)
    texts = decode(net, utterances, batch_seconds=batch_seconds, cut=cut)
    return score([u.text for u in utterances], texts, language=language)


def finetune(
    *,
    model: str = "tiny_tdt_ctc",
    train: File | None = None,
    validation: File | None = None,
    run_dir: File | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> dict[str, Any]:
    """One run of recipes/finetune.py in this process, on one device; returns what its report.json
    holds.

    Without manifests it is the bundled demo. settings: keys of conf/ and their values, such as
    {"optim.lr": 1e-4, "data.guard_validation": "guard.jsonl"}. run_dir: where it writes, and
    continues if it was stopped there; else outputs/<name>/<time>. Raises UserError.
    """
    from parakeet_ft import preflight

    given = {"model.source": model, **(settings or {})}
    if train is not None or validation is not None:
        given |= {"data.train": train, "data.validation": validation}
    overrides = [f"{key}={_quoted(value)}" for key, value in given.items() if value is not None]
    _, checked, sets = preflight.check_finetune(overrides)
    preflight.check_machine(checked, sets, run_dir=Path(run_dir or "outputs"))
    place, lines = preflight.choose_directory(checked, Path(run_dir) if run_dir else None)
    print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
    recipe = runpy.run_path(str(project_folder("recipes") / "finetune.py"))
    command = ["parakeet_ft.finetune", *overrides]
    return recipe["finetune"](checked, run_dir=place, command=command, callbacks=callbacks)


def _quoted(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    from parakeet_ft.run.composition import hydra_quoted
    from parakeet_ft.settings.rules import shown

    if isinstance(value, str | os.PathLike):
        return hydra_quoted(os.fspath(value))
    return shown(value)
