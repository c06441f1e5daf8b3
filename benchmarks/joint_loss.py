"""The transducer loss with the joint inside against a joint whose logits are held: seconds and
memory.

    python benchmarks/joint_loss.py            # --short: the small sizes only

Output layer, loss and their backward pass, from both projections (hidden size 640) to the gradients
of all that learns. One thread; seconds are of its CPU, all sides of a size take turns, median
(least - most). Memory is what the process grows by at most. Sides: `ours`; `logits`, this project's
loss on the logits of the whole batch (the way before); `nemo`, NeMo's RNNTLoss on the CPU (RNN-T
only: its TDT refuses a CPU); `transformers`, its tdt_loss. A side that would take minutes, or
memory that is not there, is left out of a size.

joint_memory_ratio of the last line is at V 8,192, B 8, T 250, U 80: NeMo's way holds the float32
logits, their log-softmax and the gradients of both, which is computed here and not measured, over
what ours was measured to take.
"""

import argparse
import functools
import json
import statistics
import time

import _quiet
import torch
from _peak import peak_of

from parakeet_ft.model.joint_loss import Arcs, joint_costs
from parakeet_ft.model.transducer_loss import TransducerLoss

HIDDEN = 640
DURATIONS = (0, 1, 2, 3, 4)
# B, T, U, V, share of padding, sides besides ours
SIZES = {
    "small": (8, 75, 24, 128, 0.0, ("logits", "nemo", "transformers")),
    "padded": (8, 75, 24, 128, 0.5, ("logits",)),
    "V 1,024": (8, 100, 30, 1024, 0.0, ("logits",)),
    "V 1,024 padded": (8, 100, 30, 1024, 0.5, ("logits",)),
    "V 8,192": (4, 125, 40, 8192, 0.0, ("logits",)),
}
LARGEST = (8, 250, 80, 8192)


def batch_of(kind: str, batch: int, frames: int, length: int, vocabulary: int, padding: float):
    """Projections that learn, an output layer, labels and lengths."""
    torch.manual_seed(0)
    outputs = vocabulary + 1 + (len(DURATIONS) if kind == "TDT" else 0)
    layers = torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.2), torch.nn.Linear(HIDDEN, outputs)
    shares = torch.linspace(1 - padding, 1, batch)
    return (
        torch.randn(batch, frames, HIDDEN).requires_grad_(),
        torch.randn(batch, length + 1, HIDDEN).requires_grad_(),
        torch.nn.Sequential(*layers),
        torch.randint(0, vocabulary, (batch, length)),
        (shares * frames).round().long(),
        (shares * length).round().long(),
    )


def ours(kind, encoded, predicted, output, labels, act_lens, label_lens) -> torch.Tensor:
    durations = DURATIONS if kind == "TDT" else ()
    blank = output[-1].out_features - 1 - len(durations)
    weights = list(output.parameters())
    arcs = Arcs(blank, durations, 0.02 if durations else 0.0)
    return joint_costs(
        encoded, predicted, output, weights, labels, act_lens, label_lens, arcs=arcs
    ).sum()


def on_logits(side, kind, encoded, predicted, output, labels, act_lens, label_lens) -> torch.Tensor:
    durations = DURATIONS if kind == "TDT" else ()
    blank = output[-1].out_features - 1 - len(durations)
    logits = output(encoded.unsqueeze(2) + predicted.unsqueeze(1))
    if side == "logits":
        loss = TransducerLoss(blank=blank, durations=durations, sigma=0.02 if durations else 0.0)
        return loss(logits, labels, act_lens, label_lens).sum()
    if side == "nemo":
        from nemo.collections.asr.losses.rnnt import resolve_rnnt_loss

        loss = resolve_rnnt_loss("warprnnt_numba", blank)
        return loss(logits.log_softmax(-1), labels, act_lens, label_lens).sum()
    from transformers.loss.loss_tdt import tdt_loss

    return tdt_loss(
        logits[..., : blank + 1],
        logits[..., blank + 1 :],
        labels,
        act_lens,
        label_lens,
        blank,
        list(durations),
        sigma=0.02,
        reduction="sum",
    )


def once(function, kind: str, size: tuple) -> float:
    batch = batch_of(kind, *size)
    start = time.process_time()
    function(kind, *batch).backward()
    return time.process_time() - start


def compare(kind: str, size: tuple, sides: tuple[str, ...], repeats: int) -> dict[str, tuple]:
    """{side: (seconds of each repeat, peak MB)}; the sides take turns."""
    functions = {"ours": ours} | {
        side: functools.partial(on_logits, side)
        for side in sides
        if not ((side == "nemo" and kind == "TDT") or (side == "transformers" and kind == "RNN-T"))
    }
    warm = functools.partial(once, ours, kind, (1, 3, 2, size[3], 0.0))
    peaks = {
        name: peak_of(once, function, kind, size, warm=warm)[0]
        for name, function in functions.items()
    }
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(once(function, kind, size))
    return {name: (seconds[name], peaks[name]) for name in functions}


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} - {max(seconds):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the small sizes only")
    short = parser.parse_args().short
    _quiet.silence_nemo()
    torch.set_num_threads(1)
    print("| loss | B, T, U, V | padding | which | CPU seconds | ratio | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios = {}
    for name, (*size, sides) in list(SIZES.items())[: 2 if short else None]:
        for kind in ("RNN-T", "TDT"):
            found = compare(kind, tuple(size), sides, 2 if size[3] > 4000 else 5)
            own = statistics.median(found["ours"][0])
            for side, (seconds, peak) in found.items():
                ratio = statistics.median(seconds) / own
                shape = ", ".join(f"{number:,}" for number in size[:4])
                print(
                    f"| {kind} | {shape} | {size[4]:.0%} | {side} | {spread(seconds)} "
                    f"| {ratio:.2f} | {peak:.0f} |",
                    flush=True,
                )
                if side == "logits" and kind == "TDT":
                    ratios[name] = round(ratio, 2)
    peak, _, _ = peak_of(once, ours, "TDT", (*LARGEST, 0.0))
    batch, frames, length, vocabulary = LARGEST
    logits = batch * frames * (length + 1) * (vocabulary + 1 + len(DURATIONS))
    held = 4 * 4 * logits / 2**20
    shape = ", ".join(f"{number:,}" for number in LARGEST)
    print(f"| TDT | {shape} | 0% | ours | | | {peak:.0f} |")
    print(f"| TDT | {shape} | 0% | NeMo's way, computed | | | {held:.0f} |")
    print(
        json.dumps(
            {
                "joint_time_ratio": ratios[list(ratios)[-1]],
                "joint_time_ratios": ratios,
                "joint_memory_ratio": round(held / peak, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
