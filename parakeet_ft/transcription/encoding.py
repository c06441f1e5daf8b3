"""Audio through a model's encoder while the outputs of the audio before are decoded: whole batches
on a GPU, small pieces of them side by side on the cores of a CPU.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model import parts

# The encoder's output of a batch, (B, T, V + 1) of a pure CTC model, else (B, D, T), and its
# frames (B).
Encoded = tuple[torch.Tensor, torch.Tensor]
Batch = TypeVar("Batch")
# More at once goes through a core's caches, and is slower a second (measured with the tiny
# checkpoints at 15 to 240 s).
PIECE_SECONDS = 60.0
PRECISIONS = ("32", "tf32", "bf16")


def resolve_precision(asked: str, device: torch.device) -> str:
    """What `auto` means on a device. Raises UserError for what it cannot do."""
    on_gpu = device.type == "cuda"
    has_both = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "auto":
        return "bf16" if has_both else "32"
    if asked == "tf32" and not has_both:
        raise UserError(
            "evaluation.precision=tf32, but this device has no TF32. Use auto, 32 or bf16."
        )
    return asked


@contextlib.contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Inside, float32 products on a GPU are made with TF32, or in full; before and after as they
    were.

    By torch's older names: Lightning 2.4 reads them, and torch 2.13 refuses to tell them once the
    newer ones (fp32_precision) were set.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def encode(
    model: Any, audio: torch.Tensor, lengths: torch.Tensor, *, precision: str = "32"
) -> Encoded:
    """The encoder's output in float32 for audio (B, T) at the model's rate, lengths (B) in samples.

    Neither gradients nor the mode of autocast of the thread that calls it matter.
    """
    half = precision == "bf16"
    with torch.no_grad(), torch.autocast(audio.device.type, torch.bfloat16, enabled=half):
        outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    return outputs[0].float(), outputs[1]


def padded(
    audio: Sequence[np.ndarray], *, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) and lengths (B) on a device, where a GPU need not be waited for."""
    rows = [torch.from_numpy(samples) for samples in audio]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(samples) for samples in audio])
    if device.type == "cuda":
        batch, lengths = batch.pin_memory(), lengths.pin_memory()
    return batch.to(device, non_blocking=True), lengths.to(device, non_blocking=True)


class Encoder:
    """Encodes batches in threads of its own, in their order; a context, which ends the threads.

    On a CPU each of torch's threads encodes a piece alone, of its share of the batch or
    PIECE_SECONDS: several cores on one small layer mostly wait for each other. A longer row is
    encoded by all of them at once. On a GPU the audio of the next batch is copied while the device
    works.
    """

    def __init__(self, model: Any, *, precision: str = "32") -> None:
        self.model = model
        self.precision = precision
        self.device = parts.device(model)
        self.num_threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Encoder:
        if self.device.type == "cpu" and self.num_threads > 1:
            self.pool = ThreadPoolExecutor(
                self.num_threads, "encoder", initializer=lambda: torch.set_num_threads(1)
            )
        elif self.device.type == "cuda":
            self.pool = ThreadPoolExecutor(1, "to device")
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)
            if self.device.type == "cpu":
                torch.set_num_threads(self.num_threads)  # as threads that begin later take over

    def ahead(
        self, batches: Iterable[Batch], audio_of: Callable[[Batch], Sequence[np.ndarray]]
    ) -> Iterator[tuple[Batch, Encoded | None]]:
        """Batches with their encoded audio (None for no audio), while the next are encoded."""
        waiting: collections.deque[tuple[Batch, int, Callable[[], Encoded | None]]]
        waiting = collections.deque()
        for batch in batches:
            waiting.append((batch, *self._begin(audio_of(batch))))
            while sum(pieces for _, pieces, _ in itertools.islice(waiting, 1, None)) > (
                self.num_threads
            ):
                done, _, finish = waiting.popleft()
                yield done, finish()
        for done, _, finish in waiting:
            yield done, finish()

    def _begin(self, audio: Sequence[np.ndarray]) -> tuple[int, Callable[[], Encoded | None]]:
        """How many pieces a batch goes through the encoder in, and what waits for their end."""
        if not audio:
            return 0, lambda: None
        if self.device.type == "cuda":
            assert self.pool
            copied = self.pool.submit(padded, audio, device=self.device)
            return 2, lambda: self._encode(*copied.result())
        most = PIECE_SECONDS * parts.rate_hz(self.model)
        longest = max(map(len, audio))
        pieces = in_pieces(audio, samples=min(most, longest * len(audio) / self.num_threads))
        if self.pool is None or longest > most:
            return 1, lambda: joined(self.model, [self._encode_piece(piece) for piece in pieces])
        begun = [self.pool.submit(self._encode_piece, piece) for piece in pieces]
        return len(begun), lambda: joined(self.model, _results(begun))

    def _encode_piece(self, audio: Sequence[np.ndarray]) -> Encoded:
        return self._encode(*padded(audio, device=self.device))

    def _encode(self, audio: torch.Tensor, lengths: torch.Tensor) -> Encoded:
        return encode(self.model, audio, lengths, precision=self.precision)


def _results(begun: list[Future[Encoded]]) -> list[Encoded]:
    return [future.result() for future in begun]


def in_pieces(audio: Sequence[np.ndarray], *, samples: float) -> list[Sequence[np.ndarray]]:
    """Rows in their order, as many together as so many samples hold with padding, at least one."""
    pieces: list[list[np.ndarray]] = []
    longest = 0
    for row in audio:
        longest = max(longest, len(row))
        if pieces and longest * (len(pieces[-1]) + 1) <= samples:
            pieces[-1].append(row)
        else:
            pieces.append([row])
            longest = len(row)
    return list(pieces)


def joined(model: Any, pieces: Sequence[Encoded]) -> Encoded:
    """Pieces as one batch, padded to the longest."""
    if len(pieces) == 1:
        return pieces[0]
    # Frames lie in the last dimension but of a pure CTC model.
    below = 0 if parts.is_transducer(model) else 1
    longest = max(outputs.shape[-1 - below] for outputs, _ in pieces)
    return (
        torch.cat(
            [
                torch.nn.functional.pad(
                    outputs, (*[0, 0] * below, 0, longest - outputs.shape[-1 - below])
                )
                for outputs, _ in pieces
            ]
        ),
        torch.cat([frames for _, frames in pieces]),
    )
