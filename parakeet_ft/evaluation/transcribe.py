"""Audio to texts with a NeMo model: the only place of the package that decodes speech."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import Utterance


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode restored after (frozen modules stay in evaluation mode)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def length_batches(durations: Sequence[float], *, batch_seconds: float) -> list[list[int]]:
    """Indices sorted by duration, longest first, in batches whose padded length is at most batch_seconds (or one utterance)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(durations)), key=lambda i: (-durations[i], i)):
        if batches and durations[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def decode(model, audio: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """Texts of a batch: audio (B, T) at the model's rate, lengths (B) in samples. Decodes in float32 with the model's own decoding."""
    outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    if hasattr(model, "joint"):
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(encoder_output=outputs[0].float(), encoded_lengths=outputs[1])
    else:
        hypotheses = model.decoding.ctc_decoder_predictions_tensor(outputs[0].float(), decoder_lengths=outputs[1])
    return [(h[0] if isinstance(h, list) else h).text for h in hypotheses]


def transcribe(model, utterances: Sequence[Utterance], *, batch_seconds: float = 240.0,
               on_batch: Callable[[float], None] = lambda seconds: None) -> list[str]:
    """Transcripts in the order of `utterances`; `on_batch` is told the seconds of audio just done.

    Raises UserError if an audio file cannot be read.
    """
    device, rate_hz = next(model.parameters()).device, model.preprocessor._sample_rate
    texts = [""] * len(utterances)
    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for batch in length_batches([u.duration for u in utterances], batch_seconds=batch_seconds):
            audio = [torch.from_numpy(read_audio(u.audio_filepath, offset=u.offset, duration=u.duration if u.offset else None, rate_hz=rate_hz))
                     for u in (utterances[i] for i in batch)]
            lengths = torch.tensor([len(a) for a in audio], device=device)
            padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True).to(device)
            for index, text in zip(batch, decode(model, padded, lengths), strict=True):
                texts[index] = text
            on_batch(sum(utterances[i].duration for i in batch))
    return texts


def transcribe_sets(model, sets: dict[str, list[Utterance]], *, batch_seconds: float) -> dict[str, list[str]]:
    """Transcripts of the sets that are scored: validation, test and, where given, those of the guard. A set named twice is decoded once."""
    done: dict[int, list[str]] = {}
    texts = {}
    for key in ("validation", "test", "guard_validation", "guard_test"):
        if key in sets:
            if id(sets[key]) not in done:
                done[id(sets[key])] = transcribe(model, sets[key], batch_seconds=batch_seconds)
            texts[key] = done[id(sets[key])]
    return texts
