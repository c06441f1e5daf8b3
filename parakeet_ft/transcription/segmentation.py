"""Long recordings cut with a model: along a transcript with a CTC checkpoint, without one by
silero-vad. Memory does not grow with length.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet_ft.data.alignment import (
    AlignedUtterance,
    align_words,
    cut_utterances,
    transcript_words,
)
from parakeet_ft.data.audio import stream_audio
from parakeet_ft.data.audio_file import Member
from parakeet_ft.errors import UserError
from parakeet_ft.model import parts

if TYPE_CHECKING:
    import torch

# Audio that the encoder sees on both sides of what is kept of a window.
MARGIN_SECONDS = 4.0
# silero-vad's own step at 16 kHz.
VAD_SAMPLES = 512
# It hears this many stretches at once, each of so many steps (31 s) after a second of what comes
# before: four times as fast as one after another, as a step is little work.
VAD_LANES = 16
LANE_STEPS = 960
WARM_STEPS = 31


def ctc_head(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model's CTC decoder, (B, D, T) -> log-probabilities (B, T, V + 1). Raises UserError if it
    has none.
    """
    decoder = parts.ctc_decoder(model)
    if decoder is None:
        raise UserError(
            "Aligning needs a CTC head, and this model is a pure transducer. Use a parakeet-ctc or "
            "-tdt_ctc checkpoint."
        )
    return lambda encoded: decoder(encoder_output=encoded)


@contextlib.contextmanager
def ctc_log_probs(
    model: Any,
    path: str,
    *,
    window_seconds: float = 40.0,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[np.ndarray, float, float]]:
    """Yield (log-probabilities (T, V + 1) as a float16 file on disk, seconds a frame, seconds of
    the recording).

    The recording is read in windows that overlap by MARGIN_SECONDS on both sides, of which the
    margins' frames are left out. Raises UserError.
    """
    import torch

    from parakeet_ft.transcription.decode import evaluating

    head = ctc_head(model)
    rate_hz = parts.rate_hz(model)
    device = parts.device(model)
    frame_samples = parts.frame_samples(model)
    margin = round(MARGIN_SECONDS * rate_hz / frame_samples)
    inner = max(1, round(window_seconds * rate_hz / frame_samples) - 2 * margin)
    with tempfile.TemporaryFile() as file, evaluating(model), torch.inference_mode():
        num_frames = 0
        width = 0
        for samples, skip, keep in _windows(
            path, rate_hz=rate_hz, frame_samples=frame_samples, inner=inner, margin=margin
        ):
            signal = torch.from_numpy(samples)[None].to(device)
            features, length = model.preprocessor(
                input_signal=signal, length=torch.tensor([len(samples)], device=device)
            )
            encoded = model.encoder(audio_signal=features, length=length)[0]
            frames = head(encoded)[0, skip : skip + keep]
            rows = frames.float().cpu().numpy().astype(np.float16)
            file.write(np.ascontiguousarray(rows).tobytes())
            num_frames += len(rows)
            width = rows.shape[1]
            on_progress(len(rows) * frame_samples / rate_hz)
        if not num_frames:
            raise UserError(f"{path} holds no audio to align.")
        file.flush()
        yield (
            np.memmap(file, dtype=np.float16, mode="r", shape=(num_frames, width)),
            frame_samples / rate_hz,
            num_frames * frame_samples / rate_hz,
        )


def _windows(
    path: str, *, rate_hz: int, frame_samples: int, inner: int, margin: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """(samples, frames to skip, frames to keep) of windows that start on whole frames and cover the
    recording once.
    """
    buffer = np.zeros(0, dtype=np.float32)
    start = 0
    done = 0
    blocks = stream_audio(path, rate_hz=rate_hz)
    ended = False
    while not ended:
        # From `margin` frames before the next frame to keep, to as many after the last.
        first = max(0, done - margin)
        wanted = (done + inner + margin - first) * frame_samples
        buffer = buffer[(first - start) * frame_samples :]
        start = first
        while len(buffer) < wanted and not ended:
            block = next(blocks, None)
            ended = block is None
            buffer = buffer if block is None else np.concatenate([buffer, block])
        samples = buffer[:wanted]
        keep = inner
        if ended:
            samples = buffer
            keep = -(-len(buffer) // frame_samples) - (done - first)
        # Shorter than one feature window: nothing to hear.
        if keep > 0 and len(samples) >= frame_samples:
            yield samples, done - first, keep
        done += inner


def align_recording(
    model: Any,
    path: str,
    text: str,
    *,
    max_seconds: float = 20.0,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> list[AlignedUtterance]:
    """The utterances of a recording whose whole transcript is `text`. Raises UserError, also if
    they plainly do not belong together.
    """
    tokenizer = parts.sentencepiece_of(model)
    words = transcript_words(text, encode=tokenizer.encode, unknown_id=tokenizer.unk_id())
    if not any(word.tokens for word in words):
        raise UserError(
            f"The transcript of {path} has no word that the model's tokenizer can write."
        )
    with ctc_log_probs(model, path, on_progress=on_progress) as (
        log_probs,
        frame_seconds,
        total_seconds,
    ):
        times = align_words(
            log_probs, words, blank=log_probs.shape[1] - 1, frame_seconds=frame_seconds
        )
    return cut_utterances(words, times, max_seconds=max_seconds, total_seconds=total_seconds)


def speech_spans(
    path: str | Member,
    *,
    max_seconds: float = 20.0,
    min_silence_seconds: float = 0.3,
    threshold: float = 0.5,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> list[tuple[float, float]]:
    """(begin, end) in seconds of the stretches with speech, none longer than `max_seconds`, by
    silero-vad. Raises UserError.
    """
    silero_vad = _silero_vad()
    model = silero_vad.load_silero_vad()
    probabilities = []
    # What is waiting to be heard, after the second before it.
    waiting = np.zeros(WARM_STEPS * VAD_SAMPLES, dtype=np.float32)
    for block in itertools.chain(stream_audio(path), [None]):
        if block is not None:
            waiting = np.concatenate([waiting, block])
            on_progress(len(block) / 16000)
        steps = len(waiting) // VAD_SAMPLES - WARM_STEPS
        if steps and (block is None or steps >= VAD_LANES * LANE_STEPS):
            probabilities += _speech_probabilities(
                model, waiting[: (WARM_STEPS + steps) * VAD_SAMPLES]
            )
            waiting = waiting[steps * VAD_SAMPLES :]
    if not probabilities:
        return []
    spans = silero_vad.get_speech_timestamps_from_probs(
        probabilities,
        threshold=threshold,
        sampling_rate=16000,
        max_speech_duration_s=max_seconds,
        min_silence_duration_ms=round(1000 * min_silence_seconds),
        audio_length_samples=len(probabilities) * VAD_SAMPLES,
    )
    return [(span["start"] / 16000, span["end"] / 16000) for span in spans]


def _silero_vad() -> Any:
    """The package. Raises UserError if it is not installed."""
    import torch

    num_threads = torch.get_num_threads()
    try:
        import silero_vad
    except ImportError:
        raise UserError(
            "Cutting without a transcript needs silero-vad: pip install silero-vad"
        ) from None
    finally:
        # silero_vad 6.2.3 sets one thread for the whole process when imported
        # (silero_vad/model.py).
        torch.set_num_threads(num_threads)
    return silero_vad


def _speech_probabilities(model: Any, samples: np.ndarray) -> list[float]:
    """silero-vad's probability of speech in each step (512 samples) after the first WARM_STEPS."""
    import torch

    steps = len(samples) // VAD_SAMPLES - WARM_STEPS
    lanes = -(-steps // LANE_STEPS)
    padded = np.zeros((WARM_STEPS + lanes * LANE_STEPS, VAD_SAMPLES), dtype=np.float32)
    padded[: WARM_STEPS + steps] = samples.reshape(-1, VAD_SAMPLES)
    inputs = torch.from_numpy(
        np.stack(
            [
                padded[lane * LANE_STEPS : (lane + 1) * LANE_STEPS + WARM_STEPS]
                for lane in range(lanes)
            ],
            axis=1,
        )
    )
    model.reset_states()
    with torch.inference_mode():
        # The steps that a single lane has, where there is but one.
        heard = [model(step, 16000)[:, 0] for step in inputs[: WARM_STEPS + min(steps, LANE_STEPS)]]
    return torch.stack(heard[WARM_STEPS:], dim=1).flatten()[:steps].tolist()


def recordings_with_texts(folder: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """([(recording, transcript)], recordings without one) below a folder; the transcript of
    talk.wav is talk.txt beside it.
    """
    from parakeet_ft.data.corpora.folder import read_folder

    found = list(read_folder(folder))
    return [(u.audio_filepath, u.text) for u in found if u.text.strip()], [
        u.audio_filepath for u in found if not u.text.strip()
    ]
