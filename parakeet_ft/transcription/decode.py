"""Audio to texts with a NeMo model: the only place of the package that decodes speech."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.distributed import ranks
from parakeet_ft.transcription.decoding import disable_cuda_graphs, fresh_cuda_graphs


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


def length_batches(durations: Sequence[float], *, batch_seconds: float) -> list[list[int]]:
    """Indices sorted by duration, longest first, in batches whose padded length is at most
    batch_seconds (or one utterance).
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(durations)), key=lambda i: (-durations[i], i)):
        if batches and durations[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def decode(
    model,
    audio: torch.Tensor,
    lengths: torch.Tensor,
    *,
    on_frames: Callable[[int, int], None] = lambda silent, frames: None,
) -> list[str]:
    """Texts of a batch: audio (B, T) at the model's rate, lengths (B) in samples. Decodes in
    float32 with the model's own decoding.

    `on_frames` is told how many of the encoder's frames yield no piece (CTC: their best label is
    blank), and how many there are.
    """
    outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    frames = int(outputs[1].sum())
    if getattr(model, "cur_decoder", None) == "ctc":
        log_probs = model.ctc_decoder(encoder_output=outputs[0]).float()
        on_frames(_silent_frames(log_probs, outputs[1]), frames)
        hypotheses = model.ctc_decoding.ctc_decoder_predictions_tensor(
            log_probs, decoder_lengths=outputs[1]
        )
    elif hasattr(model, "joint"):
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(
            encoder_output=outputs[0].float(), encoded_lengths=outputs[1]
        )
        on_frames(
            max(
                0,
                frames
                - sum(len((h[0] if isinstance(h, list) else h).y_sequence) for h in hypotheses),
            ),
            frames,
        )
    else:
        on_frames(_silent_frames(outputs[0], outputs[1]), frames)
        hypotheses = model.decoding.ctc_decoder_predictions_tensor(
            outputs[0].float(), decoder_lengths=outputs[1]
        )
    return [(h[0] if isinstance(h, list) else h).text for h in hypotheses]


def _silent_frames(log_probs: torch.Tensor, lengths: torch.Tensor) -> int:
    """Frames of log_probs (B, T, V + 1) whose best label is blank, the last."""
    valid = torch.arange(log_probs.shape[1], device=lengths.device) < lengths[:, None]
    return int(((log_probs.argmax(-1) == log_probs.shape[-1] - 1) & valid).sum())


def transcribe(
    model,
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float = 240.0,
    on_batch: Callable[[float], None] = lambda seconds: None,
    on_frames: Callable[[int, int], None] = lambda silent, frames: None,
    on_audio: Callable[[int, np.ndarray], None] = lambda index, samples: None,
    cuda_graphs: bool = False,
) -> list[str]:
    """Transcripts in the order of `utterances`; `on_batch` is told the seconds of audio just done,
    `on_frames` what `decode` tells it, `on_audio` the number of an utterance and its samples at the
    model's rate.

    Each utterance is read as training reads it: `duration` seconds from `offset`. cuda_graphs: for
    weights that stay as they are during the call; captured anew, shortest batches first, as a graph
    serves what is no larger. Nothing of this package asks for them: on the one GPU that was tried,
    restoring a checkpoint failed in the same process afterwards (benchmarks/README.md). Raises
    UserError if an audio file cannot be read.
    """
    device, rate_hz = next(model.parameters()).device, model.preprocessor._sample_rate
    texts = [""] * len(utterances)
    batches = length_batches([u.duration for u in utterances], batch_seconds=batch_seconds)
    if cuda_graphs:
        batches.reverse()
        graphs = fresh_cuda_graphs(model)
    else:
        disable_cuda_graphs(model)
        graphs = contextlib.nullcontext()
    # Not inference_mode: the encoder makes its table of positions anew for longer audio
    # (update_max_seq_length, NeMo 3.0.0), and what is made in inference mode cannot be trained
    # with.
    with evaluating(model), graphs, torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in batches:
            audio = [
                torch.from_numpy(
                    read_audio(
                        u.audio_filepath, offset=u.offset, duration=u.duration, rate_hz=rate_hz
                    )
                )
                for u in (utterances[i] for i in batch)
            ]
            for index, samples in zip(batch, audio, strict=True):
                on_audio(index, samples.numpy())
            lengths = torch.tensor([len(a) for a in audio], device=device)
            padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True).to(device)
            for index, text in zip(
                batch, decode(model, padded, lengths, on_frames=on_frames), strict=True
            ):
                texts[index] = text
            on_batch(sum(utterances[i].duration for i in batch))
    return texts


def transcribe_sets(
    model, sets: dict[str, list[Utterance]], *, batch_seconds: float
) -> dict[str, list[str]]:
    """Transcripts of the sets that are scored: validation, test and, where given, those of the
    guard. A set named twice is decoded once.

    Where several ranks call it, each decodes its share of every set and gets all transcripts.
    """
    done: dict[int, list[str]] = {}
    texts = {}
    for key in ("validation", "test", "guard_validation", "guard_test"):
        if key in sets:
            if id(sets[key]) not in done:
                done[id(sets[key])] = ranks.divide(
                    lambda mine: transcribe(model, mine, batch_seconds=batch_seconds), sets[key]
                )
            texts[key] = done[id(sets[key])]
    return texts


def transcribe_timed(
    model, utterances: Sequence[Utterance], *, batch_seconds: float, warm_up_batches: int
) -> dict[str, Any]:
    """texts, levels_dbfs of each utterance, seconds and rtfx: seconds of audio for each second from
    file to text.

    The first and longest batches run once before the clock starts, as on the Open ASR Leaderboard,
    so that neither compilation nor the first allocation of memory counts: that is needed once for
    each model.
    """
    first = length_batches([u.duration for u in utterances], batch_seconds=batch_seconds)[
        :warm_up_batches
    ]
    if first:
        transcribe(
            model,
            [utterances[i] for batch in first for i in batch],
            batch_seconds=batch_seconds,
        )
    levels = [0.0] * len(utterances)

    def measure(index: int, samples: np.ndarray) -> None:
        levels[index] = level_dbfs(samples)

    started = time.perf_counter()
    texts = transcribe(model, utterances, batch_seconds=batch_seconds, on_audio=measure)
    seconds = time.perf_counter() - started
    return {
        "texts": texts,
        "levels_dbfs": levels,
        "seconds": seconds,
        "rtfx": sum(u.duration for u in utterances) / seconds,
    }


def level_dbfs(samples: np.ndarray) -> float:
    """Root mean square of float samples in decibels below full scale; -120 for digital silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return round(10 * float(np.log10(max(power, 1e-12))), 2)
