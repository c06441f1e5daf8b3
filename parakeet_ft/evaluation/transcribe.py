"""Audio to texts with a NeMo model: the only place of the package that decodes speech."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from parakeet_ft import distributed
from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import Utterance


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and float32 inside; every submodule's own mode (frozen ones are evaluating always) and type restored after."""
    modes = {module: module.training for module in model.modules()}
    types = [(tensor, tensor.dtype) for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point() and tensor.dtype != torch.float32]
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
    """Indices sorted by duration, longest first, in batches whose padded length is at most batch_seconds (or one utterance)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(durations)), key=lambda i: (-durations[i], i)):
        if batches and durations[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def decode(model, audio: torch.Tensor, lengths: torch.Tensor, *, on_frames: Callable[[int, int], None] = lambda silent, frames: None) -> list[str]:
    """Texts of a batch: audio (B, T) at the model's rate, lengths (B) in samples. Decodes in float32 with the model's own decoding.

    `on_frames` is told how many of the encoder's frames yield no piece (CTC: their best label is blank), and how many there are.
    """
    outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    frames = int(outputs[1].sum())
    if hasattr(model, "joint"):
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(encoder_output=outputs[0].float(), encoded_lengths=outputs[1])
        on_frames(max(0, frames - sum(len((h[0] if isinstance(h, list) else h).y_sequence) for h in hypotheses)), frames)
    else:
        valid = torch.arange(outputs[0].shape[1], device=outputs[1].device) < outputs[1][:, None]
        on_frames(int(((outputs[0].argmax(-1) == outputs[0].shape[-1] - 1) & valid).sum()), frames)
        hypotheses = model.decoding.ctc_decoder_predictions_tensor(outputs[0].float(), decoder_lengths=outputs[1])
    return [(h[0] if isinstance(h, list) else h).text for h in hypotheses]


def transcribe(model, utterances: Sequence[Utterance], *, batch_seconds: float = 240.0,
               on_batch: Callable[[float], None] = lambda seconds: None,
               on_frames: Callable[[int, int], None] = lambda silent, frames: None) -> list[str]:
    """Transcripts in the order of `utterances`; `on_batch` is told the seconds of audio just done, `on_frames` what `decode` tells it.

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
            for index, text in zip(batch, decode(model, padded, lengths, on_frames=on_frames), strict=True):
                texts[index] = text
            on_batch(sum(utterances[i].duration for i in batch))
    return texts


def transcribe_sets(model, sets: dict[str, list[Utterance]], *, batch_seconds: float) -> dict[str, list[str]]:
    """Transcripts of the sets that are scored: validation, test and, where given, those of the guard. A set named twice is decoded once.

    Where several ranks call it, each decodes its share of every set and gets all transcripts.
    """
    done: dict[int, list[str]] = {}
    texts = {}
    for key in ("validation", "test", "guard_validation", "guard_test"):
        if key in sets:
            if id(sets[key]) not in done:
                done[id(sets[key])] = distributed.divide(lambda mine: transcribe(model, mine, batch_seconds=batch_seconds), sets[key])
            texts[key] = done[id(sets[key])]
    return texts
