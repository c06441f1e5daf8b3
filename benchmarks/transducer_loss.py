"""Seconds and peak memory of the wavefront losses against each loss of NeMo's that runs on a CPU,
and one optimisation step with either.

    python benchmarks/transducer_loss.py            # six minutes; --short: two

A loss's time is forward and backward from random logits, its memory what the process grows by at
most, the logits themselves apart. One thread; seconds are of its CPU, so that a machine in use
changes little. All losses of a size take turns; median (least - most). NeMo's debugging losses run
where they end in a minute: `pytorch` not at the large size, tdt_pytorch, with its `.cuda()` calls
taken out, only at the small one (at the middle one it had not ended after three minutes of CPU).
The ratios of the last line are NeMo's seconds over ours: RNN-T of warprnnt_numba at the middle size
(--short: the small one), TDT of tdt_pytorch at the small size, and the step.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import _quiet
import torch
from _peak import peak_of

from parakeet_ft.model.transducer_loss import TransducerLoss, use_wavefront_loss

DURATIONS = [0, 1, 2, 3, 4]
SIZES = {"small": (2, 40, 12, 129), "middle": (8, 75, 24, 129), "large": (8, 100, 30, 1025)}


def losses(kind: str, size: str) -> dict[str, torch.nn.Module]:
    """Ours first, then NeMo's inner losses as its RNNTLoss makes them."""
    from nemo.collections.asr.losses.rnnt import resolve_rnnt_loss

    blank = SIZES[size][3] - 1
    if kind == "RNN-T":
        names = ("warprnnt_numba",) if size == "large" else ("warprnnt_numba", "pytorch")
        return {"ours": TransducerLoss(blank=blank)} | {
            name: resolve_rnnt_loss(name, blank) for name in names
        }
    ours = {"ours": TransducerLoss(blank=blank, durations=tuple(DURATIONS), sigma=0.02)}
    if size == "small":
        ours["tdt_pytorch"] = resolve_rnnt_loss(
            "tdt_pytorch", blank, {"durations": DURATIONS, "sigma": 0.02}
        )
    return ours


def inputs(
    kind: str, batch: int, frames: int, length: int, tokens: int
) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    acts = torch.randn(
        batch, frames, length + 1, tokens + (len(DURATIONS) if kind == "TDT" else 0)
    ).requires_grad_()
    return (
        acts,
        torch.randint(0, tokens - 1, (batch, length)),
        torch.full((batch,), frames),
        torch.full((batch,), length),
    )


def once(loss: torch.nn.Module, acts: torch.Tensor, *rest: torch.Tensor) -> float:
    acts.grad = None
    start = time.process_time()
    loss(acts, *rest).sum().backward()
    return time.process_time() - start


def compare(kind: str, size: str, repeats: int) -> dict[str, tuple[list[float], float]]:
    """{name: (seconds of each repeat, peak MB)}."""
    contenders = losses(kind, size)
    for loss in contenders.values():
        once(loss, *inputs(kind, 1, 2, 1, SIZES[size][3]))
    data, nothing = inputs(kind, *SIZES[size]), inputs(kind, 1, 2, 1, SIZES[size][3])
    peaks = {
        name: peak_of(once, loss, *data, warm=functools.partial(once, loss, *nothing))
        for name, loss in contenders.items()
    }
    seconds = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, loss in contenders.items():
            seconds[name].append(once(loss, *data))
    return {name: (seconds[name], peaks[name][0]) for name in contenders}


def tiny_rnnt(folder: Path, small: bool):
    """d_model 176, 8 layers, 128 pieces. 64 channels of subsampling and no dropout as in the
    bundled tiny base; `small`: 256 and 0.1.
    """
    from parakeet_ft.model import replicas

    architecture = replicas.Architecture(
        "rnnt",
        d_model=176,
        n_layers=8,
        n_heads=4,
        vocab_size=128,
        pred_hidden=320,
        pred_layers=1,
        joint_hidden=320,
        conv_channels=256 if small else 64,
        dropout=0.1 if small else 0.0,
    )
    torch.manual_seed(0)
    return replicas.build(architecture, folder).train()


def compare_steps(repeats: int, small: bool) -> dict[str, list[float]]:
    """Seconds of one optimisation step (preprocessor, encoder, joint fused by 4, loss, AdamW) on 16
    x 6 s with 36 tokens each.

    36 tokens of some 2.3 letters are what 6 s of English come to (14 letters a second) in 128
    pieces.
    """
    from parakeet_ft.model import replicas

    with tempfile.TemporaryDirectory() as folder:
        replicas.write_tokenizer(Path(folder), vocab_size=128)
        models = {
            "ours": tiny_rnnt(Path(folder), small),
            "warprnnt_numba": tiny_rnnt(Path(folder), small),
        }
    use_wavefront_loss(models["ours"])
    batch = (
        0.1 * torch.randn(16, 96000),
        torch.full((16,), 96000),
        torch.randint(0, 127, (16, 36)),
        torch.full((16,), 36),
    )
    seconds = {name: [] for name in models}
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()
    }
    for model in models.values():
        # What training_step asks of a Trainer.
        model._trainer = SimpleNamespace(log_every_n_steps=10**9, global_step=0)
        model._optimizer, model.log_dict = (
            SimpleNamespace(param_groups=[{"lr": 1e-4}]),
            lambda *args, **kwargs: None,
        )
    for repeat in range(repeats + 1):
        for name, model in models.items():
            start = time.process_time()
            optimizers[name].zero_grad()
            model.training_step(batch, 0)["loss"].backward()
            optimizers[name].step()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds


def spread(seconds: list[float]) -> str:
    middle = f"{statistics.median(seconds):.4f}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.4f} - {max(seconds):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the small size and three steps")
    short = parser.parse_args().short
    _quiet.silence_nemo()
    torch.set_num_threads(1)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self

    print(
        "| loss | B, T, U, V + 1 | which | CPU seconds, forward + backward | ratio | peak MB |\n| "
        "--- | --- | --- | --- | --- | --- |"
    )
    ratios = {}
    for size in ("small",) if short else SIZES:
        for kind in ("RNN-T", "TDT"):
            results = compare(kind, size, {"small": 5, "middle": 5, "large": 3}[size])
            ours = statistics.median(results["ours"][0])
            for name, (seconds, peak) in results.items():
                ratio = statistics.median(seconds) / ours
                shape = ", ".join(map(str, SIZES[size]))
                print(
                    f"| {kind} | {shape} | {name} | {spread(seconds)} | {ratio:.1f} | {peak:.0f} |",
                    flush=True,
                )
                if name in ("warprnnt_numba", "tdt_pytorch") and size != "large":
                    ratios["rnnt_ratio" if kind == "RNN-T" else "tdt_ratio"] = round(ratio, 1)
    print(
        "\n| one step, RNN-T of d_model 176, 8 layers, 16 x 6 s | which | CPU seconds | ratio |\n| "
        "--- | --- | --- | --- |"
    )
    for small in (False,) if short else (False, True):
        steps = compare_steps(3, small)
        ratio = statistics.median(steps["warprnnt_numba"]) / statistics.median(steps["ours"])
        ratios.setdefault("rnnt_step_ratio", round(ratio, 1))
        what = (
            "256 subsampling channels, dropout 0.1"
            if small
            else "64 subsampling channels, no dropout"
        )
        for name, seconds in steps.items():
            print(
                f"| {what} | {name} | {spread(seconds)} | {ratio if name != 'ours' else 1:.1f} |",
                flush=True,
            )
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
