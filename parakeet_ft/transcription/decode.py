"""Audio to transcripts with a NeMo model: the only place of the package that decodes speech."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from parakeet_ft.data.audio import AudioError
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.distributed import ranks
from parakeet_ft.model import features, parts
from parakeet_ft.model.attention import attention, reserve_positions, set_attention
from parakeet_ft.settings.guards import scored
from parakeet_ft.transcription.decoding import disable_cuda_graphs, fresh_cuda_graphs
from parakeet_ft.transcription.encoding import Encoded, Encoder, float32_products
from parakeet_ft.transcription.nemo_words import transcript_of
from parakeet_ft.transcription.segments import (
    Segment,
    is_silent,
    length_batches,
    read_ahead,
    read_segment,
    segment_batches,
    segment_of,
)
from parakeet_ft.transcription.words import Transcript

Counter = Callable[[int, int], None]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and float32 inside; every submodule's own mode (frozen ones are evaluating
    always) and type restored after.
    """
    modes = {module: module.training for module in model.modules()}
    types = [
        (tensor, tensor.dtype)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    ]
    model.eval()
    for tensor, _ in types:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in types:
            tensor.data = tensor.data.to(dtype)
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _exact_features(model: Any) -> Iterator[None]:
    """No dither and no padding of features, as NeMo's transcribe() (parts/mixins/transcription.py,
    3.0.0); on a CPU the same in less time.
    """
    featurizer = model.preprocessor.featurizer
    before = featurizer.dither, featurizer.pad_to
    featurizer.dither, featurizer.pad_to = 0.0, 0
    is_quick = parts.device(model).type == "cpu" and features.can_be_quick(featurizer)
    if is_quick:
        featurizer.forward = functools.partial(features.quick_features, featurizer)
    try:
        yield
    finally:
        featurizer.dither, featurizer.pad_to = before
        if is_quick:
            del featurizer.forward


@contextlib.contextmanager
def ready_to_decode(model: Any, *, cuda_graphs: bool) -> Iterator[None]:
    """All that a model needs to decode alike wherever it is asked to; as it was after."""
    if cuda_graphs:
        graphs: contextlib.AbstractContextManager = fresh_cuda_graphs(model)
    else:
        disable_cuda_graphs(model)
        graphs = contextlib.nullcontext()
    # Not inference_mode: the encoder makes its table of positions anew for longer audio
    # (update_max_seq_length, NeMo 3.0.0), and what is made in inference mode cannot be trained
    # with.
    with (
        evaluating(model),
        graphs,
        _exact_features(model),
        torch.no_grad(),
        torch.autocast(parts.device(model).type, enabled=False),
    ):
        yield


@contextlib.contextmanager
def _own_attention_after(model: Any, segments: Sequence[Segment]) -> Iterator[Callable]:
    """A function that gives the model the attention of a segment; the checkpoint's after."""
    if all(segment.attention is None for segment in segments):
        yield lambda segment: None
        return
    own: dict[str, Any] = attention(model)

    def use(segment: Segment) -> None:
        wanted = segment.attention or own["kind"]
        if attention(model)["kind"] != wanted:
            arguments: dict[str, Any] = own if wanted == own["kind"] else {"kind": wanted}
            set_attention(model, **arguments)

    try:
        yield use
    finally:
        if attention(model) != own:
            set_attention(model, **own)


def decode(
    model: Any,
    encoded: Encoded,
    audio: Sequence[np.ndarray],
    *,
    on_frames: Counter = lambda silent, frames: None,
) -> list[Transcript]:
    """Transcripts of a batch out of the encoder's output, as `set_decoding` has set the model;
    `audio` is what was encoded, at the model's rate.

    `on_frames` is told how many of the encoder's frames yield no token (CTC: their best label is
    blank), and how many there are.
    """
    outputs, frames = encoded
    decoding = parts.decoding(model)
    if parts.decoding_head(model) == "ctc":
        # A pure CTC model's forward pass gives log-probabilities, a hybrid's its encoder's output.
        head = parts.ctc_decoder(model) if parts.is_hybrid(model) else None
        log_probs = head(encoder_output=outputs).float() if head else outputs
        found = decoding.ctc_decoder_predictions_tensor(
            log_probs, decoder_lengths=frames, return_hypotheses=True
        )
        silent = _silent_frames(log_probs, frames)
    else:
        found = decoding.rnnt_decoder_predictions_tensor(
            encoder_output=outputs, encoded_lengths=frames, return_hypotheses=True
        )
        silent = max(0, int(frames.sum()) - sum(len(_best(h).y_sequence) for h in found))
    on_frames(silent, int(frames.sum()))
    return [
        transcript_of(
            _best(hypothesis),
            decoding,
            samples,
            frame_seconds=parts.frame_seconds(model),
            rate_hz=parts.rate_hz(model),
        )
        for hypothesis, samples in zip(found, audio, strict=True)
    ]


def _best(hypothesis: Any) -> Any:
    """The first of several hypotheses."""
    return hypothesis[0] if isinstance(hypothesis, list) else hypothesis


def _silent_frames(log_probs: torch.Tensor, lengths: torch.Tensor) -> int:
    """Frames of log_probs (B, T, V + 1) whose best label is blank, the last."""
    valid = torch.arange(log_probs.shape[1], device=lengths.device) < lengths[:, None]
    return int(((log_probs.argmax(-1) == log_probs.shape[-1] - 1) & valid).sum())


def transcribe_segments(
    model: Any,
    segments: Sequence[Segment],
    *,
    batch_seconds: float = 120.0,
    num_threads: int | None = None,
    cuda_graphs: bool = False,
    shortest_first: bool = False,
    precision: str = "32",
    on_frames: Counter = lambda silent, frames: None,
    on_audio: Callable[[int, np.ndarray], None] = lambda index, samples: None,
) -> Iterator[list[tuple[int, Transcript | AudioError]]]:
    """Yield (index of the segment, its transcript or why it has none), batch by batch: sorted by
    length, longest first (which shows early whether memory suffices) unless `shortest_first`, the
    checkpoint's attention before any other.

    `num_threads` read audio while the model works (read_ahead says how much). Silence has no words,
    and the model is not asked. `precision` is the encoder's, of encoding.PRECISIONS; the rest is
    float32. `on_frames` is told what `decode` tells it, `on_audio` the number of a segment and its
    samples at the model's rate. cuda_graphs: for weights that stay as they are meanwhile.
    """
    rate_hz = parts.rate_hz(model)
    batches = segment_batches(segments, batch_seconds=batch_seconds)
    if shortest_first:
        batches.reverse()
    with (
        ready_to_decode(model, cuda_graphs=cuda_graphs),
        float32_products(tf32=precision == "tf32"),
        _own_attention_after(model, segments) as use_attention,
        Encoder(model, precision=precision) as encoder,
    ):
        for _, alike in itertools.groupby(batches, lambda batch: segments[batch[0]].attention):
            together = list(alike)
            use_attention(segments[together[0][0]])
            longest = max(segments[index].seconds for batch in together for index in batch)
            # Threads that encode side by side must find the table of positions as long as they
            # need it.
            reserve_positions(model, seconds=longest)
            read = read_ahead(
                together,
                lambda i: _listen(read_segment(segments[i], rate_hz=rate_hz)),
                num_threads=num_threads or min(16, ranks.cores()),
                seconds=lambda i: segments[i].seconds,
            )
            for (indices, heard), encoded in encoder.ahead(read, _audible):
                results = _without_words(model, indices, heard, on_frames=on_frames)
                for index, found in zip(indices, heard, strict=True):
                    if not isinstance(found, AudioError):
                        on_audio(index, found.samples)
                if encoded:
                    texts = decode(model, encoded, _audible((indices, heard)), on_frames=on_frames)
                    asked = [i for i, found in zip(indices, heard, strict=True) if _speaks(found)]
                    results += zip(asked, texts, strict=True)
                yield results


class Heard(NamedTuple):
    """Samples, and whether there is nothing to hear."""

    samples: np.ndarray
    silent: bool


def _listen(samples: np.ndarray) -> Heard:
    return Heard(samples, is_silent(samples))


def _speaks(found: Heard | AudioError) -> bool:
    return not isinstance(found, AudioError) and not found.silent


def _audible(batch: tuple[list[int], list[Heard | AudioError]]) -> list[np.ndarray]:
    """What of a batch the model is asked about."""
    return [
        found.samples
        for found in batch[1]
        if not isinstance(found, AudioError) and not found.silent
    ]


def _without_words(
    model: Any, indices: list[int], heard: list[Heard | AudioError], *, on_frames: Counter
) -> list[tuple[int, Transcript | AudioError]]:
    """The results of what could not be read, and of what is silent."""
    results: list[tuple[int, Transcript | AudioError]] = []
    for index, found in zip(indices, heard, strict=True):
        if isinstance(found, AudioError):
            results.append((index, found))
        elif found.silent:
            results.append((index, _nothing_heard(model, found.samples, on_frames)))
    return results


def _nothing_heard(model: Any, samples: np.ndarray, on_frames: Counter) -> Transcript:
    """The transcript of silence, all of whose frames are silent."""
    seconds = len(samples) / parts.rate_hz(model)
    frames = round(seconds / parts.frame_seconds(model))
    on_frames(frames, frames)
    return Transcript("", (), seconds)


def transcribe(
    model: Any,
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float = 240.0,
    cut: Callable[[Utterance], list[Segment]] = lambda utterance: [segment_of(utterance)],
    precision: str = "32",
    on_frames: Counter = lambda silent, frames: None,
    on_audio: Callable[[int, np.ndarray], None] = lambda index, samples: None,
    cuda_graphs: bool = False,
) -> list[str]:
    """Texts in the order of `utterances`, each of which `cut` makes segments of: in one piece, as
    training reads it, if nothing else is asked for.

    The rest is as for `transcribe_segments`, but that `on_audio` is told the number of the
    utterance. With CUDA graphs, shortest batches come first, as a graph serves what is no larger.
    Nothing of this package asks for them: on the one GPU that was tried, restoring a checkpoint
    failed in the same process afterwards (benchmarks/README.md). Raises UserError if an audio file
    cannot be read.
    """
    owned = [(i, segment) for i, utterance in enumerate(utterances) for segment in cut(utterance)]
    texts = [""] * len(owned)
    for results in transcribe_segments(
        model,
        [segment for _, segment in owned],
        batch_seconds=batch_seconds,
        cuda_graphs=cuda_graphs,
        shortest_first=cuda_graphs,
        precision=precision,
        on_frames=on_frames,
        on_audio=lambda index, samples: on_audio(owned[index][0], samples),
    ):
        for index, result in results:
            if isinstance(result, AudioError):
                raise result
            texts[index] = result.text
    joined: list[list[str]] = [[] for _ in utterances]
    for (owner, _), text in zip(owned, texts, strict=True):
        if text:
            joined[owner].append(text)
    return [" ".join(found) for found in joined]


def transcribe_sets(
    model, sets: Mapping[str, Sequence[Utterance]], *, batch_seconds: float
) -> dict[str, list[str]]:
    """Transcripts of the sets that are scored: validation, test and, where given, those of the
    guards. A set named twice is decoded once.

    Where several ranks call it, each decodes its share of every set and gets all transcripts.
    """
    done: dict[int, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for key in scored(sets):
        utterances = sets[key]
        if id(utterances) not in done:
            done[id(utterances)] = ranks.divide(
                lambda mine: transcribe(model, mine, batch_seconds=batch_seconds), utterances
            )
        texts[key] = done[id(utterances)]
    return texts


def transcribe_timed(
    model: Any,
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float,
    warm_up_batches: int,
    cut: Callable[[Utterance], list[Segment]] = lambda utterance: [segment_of(utterance)],
) -> dict[str, Any]:
    """texts, levels_dbfs of each utterance, seconds and rtfx: seconds of audio for each second from
    file to text.

    The first and longest batches run once before the clock starts, as on the Open ASR Leaderboard,
    so that neither compilation nor the first allocation of memory counts: that is needed once for
    each model.
    """
    batches = length_batches([u.duration for u in utterances], batch_seconds=batch_seconds)
    first = [utterances[i] for batch in batches[:warm_up_batches] for i in batch]
    if first:
        transcribe(model, first, batch_seconds=batch_seconds, cut=cut)
    levels = [Level() for _ in utterances]
    started = time.perf_counter()
    texts = transcribe(
        model,
        utterances,
        batch_seconds=batch_seconds,
        cut=cut,
        on_audio=lambda index, samples: levels[index].add(samples),
    )
    seconds = time.perf_counter() - started
    return {
        "texts": texts,
        "levels_dbfs": [level.dbfs() for level in levels],
        "seconds": seconds,
        "rtfx": sum(u.duration for u in utterances) / seconds,
    }


class Level:
    """The root mean square of float samples that come in parts."""

    def __init__(self) -> None:
        self.energy, self.count = 0.0, 0

    def add(self, samples: np.ndarray) -> None:
        self.energy += float(np.sum(np.square(samples, dtype=np.float64)))
        self.count += len(samples)

    def dbfs(self) -> float:
        """In decibels below full scale; -120 for digital silence."""
        power = self.energy / max(1, self.count)
        return round(10 * float(np.log10(max(power, 1e-12))), 2)
