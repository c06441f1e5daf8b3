"""Writing a checkpoint while training goes on: a copy of it in the host's memory, a thread that
writes the copy, and a file that counts what it was given.

torch.save puts a checksum of each tensor beside it as it writes, which resuming compares
(`files.damaged_member`); so nothing is read back after writing but the file's size.
"""

from __future__ import annotations

import concurrent.futures
import copy
import io
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch

from parakeet_ft.files import atomic_path
from parakeet_ft.memory import free_bytes

# Written at once: between two blocks the progress is known.
BLOCK = 1 << 24
# Left free beside a copy, for what training takes meanwhile.
MARGIN_BYTES = 2e9


class CountedFile(io.FileIO):
    """What torch.save writes to. It keeps the disk's own error, which torch would replace by a
    guess at what happened.
    """

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path, "w")
        self.on_bytes, self.size = on_bytes, 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """After the first error nothing is written any more: torch goes on to its end."""
        view = memoryview(data).cast("B")
        rest = view if self.error is None else view[:0]
        try:
            while rest:
                written = self.write_block(rest[:BLOCK])
                rest = rest[written:]
                self.size += written
                self.on_bytes(written)
        except OSError as error:
            self.error = error
        return len(view)

    def write_block(self, block: memoryview) -> int:
        """How much of the block the disk took."""
        return super().write(block)


def save(content: Any, path: Path, *, on_bytes: Callable[[int], None] = lambda size: None) -> None:
    """torch.save under a temporary name, on the disk, of the size that was written, then renamed.
    Raises OSError or RuntimeError, with nothing half-written, if the disk refuses.
    """
    with atomic_path(path) as temporary:
        with CountedFile(temporary, on_bytes) as file:
            torch.save(content, file)
            if file.error:
                raise file.error
        if (found := temporary.stat().st_size) != file.size:
            raise OSError(f"{file.size} bytes were written, {found} are there")


def num_bytes(content: Any) -> int:
    """Bytes of all tensors in a checkpoint."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(num_bytes, content.values()))
    return sum(map(num_bytes, content)) if isinstance(content, list | tuple) else 0


def fits_beside(size: int) -> bool:
    """Whether this host's memory holds a copy of so many bytes."""
    return size + MARGIN_BYTES < free_bytes()


def host_copy(content: Any, *, live: Container[int] | None = None) -> Any:
    """A checkpoint that training cannot change any more: tensors copied to the CPU, to pinned
    memory where they come from a GPU. live: where only tensors at these addresses can change, as
    the rest was gathered from other ranks, the rest is not copied once more.
    """
    copied = _copied(content, live)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # copies to pinned memory return before they are done
    return copied


def _copied(content: Any, live: Container[int] | None) -> Any:
    if isinstance(content, torch.Tensor):
        return _copied_tensor(content.detach(), live)
    if isinstance(content, dict):
        # Not dict(): a state dict is ordered and has attributes.
        new = copy.copy(content)
        for key, value in content.items():
            new[key] = _copied(value, live)
        return new
    if isinstance(content, list | tuple):
        return type(content)(_copied(value, live) for value in content)
    return content


def _copied_tensor(tensor: torch.Tensor, live: Container[int] | None) -> torch.Tensor:
    if tensor.device.type == "cpu" and live is not None and tensor.data_ptr() not in live:
        return tensor
    if tensor.device.type == "cpu":
        return tensor.clone()
    if type(tensor) is not torch.Tensor:
        return tensor.to("cpu")
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def free_pinned_memory() -> None:
    """Give back what torch keeps of the copies for the next ones."""
    if torch.cuda.is_initialized():
        torch.accelerator.empty_host_cache()


class Background:
    """One piece of work at a time in a thread of its own; how much of it is written is known."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._work: concurrent.futures.Future[None] | None = None
        self.name, self.total, self.written, self.seconds = "", 0, 0, 0.0

    def start(self, work: Callable[[], None], *, name: str, total: int) -> None:
        """Begin `work`, which adds to `written` until that is about `total`. Not while busy."""
        assert not self.busy
        self.name, self.total, self.written = name, total, 0
        self._work = self._thread.submit(self._timed, work)

    def _timed(self, work: Callable[[], None]) -> None:
        begun = time.monotonic()
        work()
        self.seconds += time.monotonic() - begun

    def add(self, size: int) -> None:
        self.written += size

    @property
    def busy(self) -> bool:
        return self._work is not None and not self._work.done()

    @property
    def failed(self) -> bool:
        return self._work is not None and self._work.done() and bool(self._work.exception())

    def wait(self, seconds: float | None = None) -> None:
        """Until it is done, or for so long."""
        if self._work:
            concurrent.futures.wait([self._work], seconds)

    def check(self) -> None:
        """Raise what the work raised."""
        if self._work and self._work.done():
            self._work.result()

    def progress(self) -> str:
        return f"{self.name}, {self.written / 1e9:.2f} of {self.total / 1e9:.2f} GB written"
