"""Counts where the host asks for a value, on any device: the calls that would wait for a GPU."""

import collections
import traceback
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# What gives the host a number, or a result whose size depends on values.
ASKING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.unique_consecutive.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
# Those that do so without an operator of their own where the tensor is on the host.
READING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}


class _Operators(TorchDispatchMode):
    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func is aten.index.Tensor and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if func in ASKING or by_mask:
            self.note(str(func))
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READING:
            self.note(func.__name__)
        return func(*args, **(kwargs or {}))


class Waits:
    """Inside, every such call of Lightning's training loop, validations apart, is counted in
    `found` {(operator, who called): times}.
    """

    def __init__(self) -> None:
        self.found: collections.Counter[tuple[str, str]] = collections.Counter()
        self.modes = _Operators(self._note), _Methods(self._note)

    def _note(self, name: str) -> None:
        frames = traceback.extract_stack()[:-2]
        files = {Path(frame.filename).name for frame in frames}
        if "training_epoch_loop.py" in files and "evaluation_loop.py" not in files:
            own = [f for f in frames if "/torch/" not in f.filename and __file__ != f.filename]
            self.found[name, f"{Path(own[-1].filename).name}:{own[-1].name}"] += 1

    def __enter__(self) -> "Waits":
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *given) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*given)
