"""Batches that cannot be learnt from: memory ran out, or the loss or the gradient is no finite
number. Named, skipped, counted, and too many end the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from parakeet_ft.batches.plan import Plan
from parakeet_ft.distributed import ranks
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path, misfit

REASONS = (None, "memory ran out", "the loss is not finite", "the gradient is not finite")
ADVICE = {
    "memory ran out": "Lower data.batch_seconds or give data.batch_seconds=auto",
    "the loss is not finite": "Look at the utterances listed there, or lower optim.lr",
    "the gradient is not finite": "Lower optim.lr, or look at the utterances listed there",
}


# torch's own and, on its way through cuBLAS, cuDNN, numba's kernels and the CPU's allocator.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
)
# Errors after which no CUDA call of the process succeeds any more.
LOST_GPU = (
    "illegal memory access",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "unspecified launch failure",
    "CUDA_ERROR_LAUNCH_FAILED",
)


def _says(error: BaseException, words: Sequence[str]) -> bool:
    # numba's errors of the driver, CudaAPIError among them, are no RuntimeError.
    of_numba = any(kind.__module__.startswith("numba") for kind in type(error).__mro__)
    return (of_numba or isinstance(error, RuntimeError)) and any(
        word in str(error) for word in words
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, and the process can go on."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return _says(error, OUT_OF_MEMORY) and not _says(error, LOST_GPU)


def check_bearable(error: BaseException, *, num_ranks: int, where: str) -> None:
    """Raise UserError for what ends a run without a defect of it: the cause, and what to do."""
    again = (
        "Lower data.batch_seconds, or give data.batch_seconds=auto, and give the command again: "
        "it continues from the last checkpoint"
    )
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if _says(error, LOST_GPU):
        raise UserError(
            f"The GPU is lost to this process in {where} ({first}): no batch can be skipped "
            "after that. Memory that runs out in a transducer's loss on a GPU ends so "
            f"too. {again}; if it comes back, CUDA_LAUNCH_BLOCKING=1 names the place."
        )
    if is_out_of_memory(error) and num_ranks > 1 and where == "the backward pass":
        raise UserError(
            f"Memory ran out in the backward pass ({first}) of one of {num_ranks} ranks, "
            "while the others wait for its gradients: the batch cannot be skipped. "
            f"{again}."
        )


def statistics(model: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """BatchNorm's buffers that the next forward pass may move, with copies: a batch that is skipped
    must not leave its mean in them.
    """
    return [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
        for buffer in module.buffers()
    ]


class BadBatches:
    """What was skipped so far, in a file of JSON lines, and how much of it a run bears.

    A batch is known by its position: how many batches its rank consumed before it. All ranks hear
    of each other's batches, so that all skip the same steps; rank 0 writes and says.
    """

    def __init__(
        self, path: Path, plan: Plan, *, most: int, say: Callable[[list[str]], None]
    ) -> None:
        self.path, self.plan, self.most, self.say = path, plan, most, say
        self.positions: list[int] = []

    def skip(
        self,
        position: int,
        *,
        step: int,
        reasons: Sequence[str | None],
        positions: Sequence[int],
    ) -> None:
        """Count the batch at `position` as skipped, and name it; `reasons` by rank. positions: it
        alone, or all batches of the step, where none alone is to blame.

        Raises UserError if it is one too many.
        """
        rows = [
            self._row(rank, at, step=step, reason=reason)
            for rank, reason in enumerate(reasons)
            if reason
            for at in positions
        ]
        self.positions.append(position)
        if not ranks.rank():
            self._write([*self._rows(), *rows])
        worst = max(rows, key=lambda row: row["padded_seconds"])
        line = (
            f"step {step}: {worst['reason']} in a batch of {len(worst['utterances'])}, "
            f"{worst['padded_seconds']:.0f} s with padding; skipped, "
            f"{len(self.positions)} of at most {self.most}; its utterances are in {self.path.name}"
        )
        self.say([line])
        if len(self.positions) > self.most:
            raise UserError(
                f"{len(self.positions)} bad batches, more than optim.max_bad_batches={self.most}. "
                f"The last: {line}, the longest of them "
                f"{worst['utterances'][0]['audio_filepath']}. {ADVICE[worst['reason']]}, then give "
                f"the command again."
            )

    def _row(self, rank: int, position: int, *, step: int, reason: str) -> dict[str, Any]:
        batch = sorted(
            (self.plan.utterances[i] for i in self.plan.batch_at(position, rank=rank)),
            key=lambda u: -u.duration,
        )
        return {
            "step": step,
            "position": position,
            "rank": rank,
            "reason": reason,
            "padded_seconds": round(batch[0].duration * len(batch), 2),
            "utterances": [
                {
                    "audio_filepath": u.audio_filepath,
                    "offset": u.offset,
                    "duration": u.duration,
                    "text": u.text,
                }
                for u in batch
            ],
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if misfit(row, {"position": int}):
                self.say([f"{self.path.name} line {number} is damaged and is left out"])
            else:
                yield row

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
                encoding="utf-8",
            )

    def forget_later(self) -> None:
        """Delete what the file holds beyond the last position counted: a run that continues from a
        checkpoint will see it again.
        """
        if not ranks.rank() and (self.positions or self.path.exists()):
            last = max(self.positions, default=-1)
            rows = [row for row in self._rows() if row["position"] <= last]
            self._write(rows)
            lost = set(self.positions) - {row["position"] for row in rows}
            if lost:
                self.say([f"{self.path.name} no longer names {len(lost)} of the batches skipped"])

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {"count": len(self.positions), "at_most": self.most, "positions": self.positions}
