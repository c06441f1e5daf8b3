"""Seconds and peak memory of the transducer losses, on logits and with the joint inside, against
every other that runs on a CPU; and one optimisation step with either.

    python benchmarks/transducer_loss.py            # some seven minutes; --short: two
    python benchmarks/transducer_loss.py --pieces   # the joint's seconds by the size of its pieces

A loss's time is forward and backward, from random logits, or from the two projections that a joint
of 640 channels adds. Its memory is what a process of its own grows by at most, the inputs apart.
One thread; seconds are of its CPU, so that a machine in use changes little. All losses of a size
take turns; median (least - most).

On logits: NeMo's `warprnnt_numba`, with which it trains RNN-T on a CPU; its debugging losses
`pytorch` and, with its `.cuda()` calls taken out, `tdt_pytorch`, at the small size alone (at the
middle one tdt_pytorch had not ended after three minutes); `transformers`, its tdt_loss.

With the joint: `ours` has the joint inside; the others hold the logits of the whole batch: `ours on
logits`; `NeMo`, its joint's log-softmax and warprnnt_numba (RNN-T: its TDT refuses a CPU);
`transformers`. At the largest size only ours is run; what the others would take there is computed
from the bytes a logit that they were measured to take at V 8,192.

The last line: rnnt_ratio, tdt_ratio, rnnt_step_ratio are NeMo's seconds over ours, RNN-T of
warprnnt_numba at the middle size (--short: the small one), TDT of tdt_pytorch at the small one.
joint_time_ratio and joint_padded_time_ratio are the lowest of ours on logits over ours, without
padding and with half; joint_memory_ratio is NeMo's memory over ours at the largest size.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import _quiet
import torch
from _peak import peak_of

from parakeet_ft.model import joint_loss
from parakeet_ft.model.joint_loss import Arcs, joint_costs
from parakeet_ft.model.transducer_loss import TransducerLoss, use_wavefront_loss

DURATIONS = (0, 1, 2, 3, 4)
KINDS = ("RNN-T", "TDT")
HIDDEN = 640
# B, T, U, V
ON_LOGITS = {"small": (2, 40, 12, 128), "middle": (8, 75, 24, 128)}
WITH_JOINT = {"V 1,024": (8, 100, 30, 1024), "V 8,192": (4, 60, 20, 8192)}
LARGEST = (8, 250, 80, 8192)
SLOW = 3.0  # what takes so many seconds is timed twice
PIECES = [1 << bits for bits in range(16, 25)]

Costs = Callable[..., torch.Tensor]


def arcs_of(kind: str, vocabulary: int) -> Arcs:
    return Arcs(vocabulary, DURATIONS, 0.02) if kind == "TDT" else Arcs(vocabulary)


def ours_on(arcs: Arcs) -> TransducerLoss:
    return TransducerLoss(blank=arcs.blank, durations=arcs.durations, sigma=arcs.sigma)


def nemo_on(name: str, arcs: Arcs) -> torch.nn.Module:
    """NeMo's inner loss as its RNNTLoss makes it."""
    from nemo.collections.asr.losses.rnnt import resolve_rnnt_loss

    settings = {"durations": list(arcs.durations), "sigma": arcs.sigma} if arcs.durations else None
    return resolve_rnnt_loss(name, arcs.blank, settings)


def transformers_on(arcs: Arcs) -> Costs:
    from transformers.loss.loss_tdt import tdt_loss

    def loss(logits, labels, act_lens, label_lens) -> torch.Tensor:
        tokens, lasting = logits[..., : arcs.blank + 1], logits[..., arcs.blank + 1 :]
        given = tokens, lasting, labels, act_lens, label_lens, arcs.blank, list(arcs.durations)
        return tdt_loss(*given, sigma=arcs.sigma, reduction="sum")

    return loss


def losses_on_logits(kind: str, size: str) -> dict[str, Costs]:
    arcs = arcs_of(kind, ON_LOGITS[size][3])
    if kind == "RNN-T":
        names = ("warprnnt_numba", "pytorch") if size == "small" else ("warprnnt_numba",)
        return {"ours": ours_on(arcs)} | {name: nemo_on(name, arcs) for name in names}
    found = {"ours": ours_on(arcs), "transformers": transformers_on(arcs)}
    return found | ({"tdt_pytorch": nemo_on("tdt_pytorch", arcs)} if size == "small" else {})


def losses_with_joint(kind: str, arcs: Arcs, padding: float) -> dict[str, Costs]:
    """Functions of what `projections` gives."""

    def ours(encoded, predicted, output, *rest) -> torch.Tensor:
        weights = list(output.parameters())
        return joint_costs(encoded, predicted, output, weights, *rest, arcs=arcs)

    def holding(loss: Costs, encoded, predicted, output, *rest) -> torch.Tensor:
        return loss(output(encoded.unsqueeze(2) + predicted.unsqueeze(1)), *rest)

    def nemo(logits, *rest) -> torch.Tensor:
        return nemo_on("warprnnt_numba", arcs)(logits.log_softmax(-1), *rest)

    found = {"ours": ours, "ours on logits": functools.partial(holding, ours_on(arcs))}
    if padding:
        return found
    if kind == "RNN-T":
        return found | {"NeMo": functools.partial(holding, nemo)}
    return found | {"transformers": functools.partial(holding, transformers_on(arcs))}


def targets(size: tuple[int, ...], padding: float) -> tuple[torch.Tensor, ...]:
    """Labels, frames and label lengths; the shortest utterance is `padding` shorter."""
    batch, frames, length, vocabulary = size
    shares = torch.linspace(1 - padding, 1, batch)
    labels = torch.randint(0, vocabulary, (batch, length))
    return labels, (shares * frames).round().long(), (shares * length).round().long()


def logits_of(kind: str, size: tuple[int, ...]) -> tuple:
    """Random logits that learn, and targets."""
    torch.manual_seed(0)
    batch, frames, length, vocabulary = size
    outputs = vocabulary + 1 + (len(DURATIONS) if kind == "TDT" else 0)
    logits = torch.randn(batch, frames, length + 1, outputs).requires_grad_()
    return logits, *targets(size, 0.0)


def projections(kind: str, size: tuple[int, ...], padding: float = 0.0) -> tuple:
    """Projections and an output layer that learn, and targets."""
    torch.manual_seed(0)
    batch, frames, length, vocabulary = size
    outputs = vocabulary + 1 + (len(DURATIONS) if kind == "TDT" else 0)
    layers = torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.2), torch.nn.Linear(HIDDEN, outputs)
    encoded = torch.randn(batch, frames, HIDDEN).requires_grad_()
    predicted = torch.randn(batch, length + 1, HIDDEN).requires_grad_()
    return encoded, predicted, torch.nn.Sequential(*layers), *targets(size, padding)


def once(loss: Costs, batch: tuple) -> float:
    """Seconds of a forward and a backward pass."""
    for part in batch:
        if isinstance(part, torch.nn.Module):
            part.zero_grad()
        else:
            part.grad = None
    start = time.process_time()
    loss(*batch).sum().backward()
    return time.process_time() - start


def compare(contenders: dict[str, Costs], batch: tuple, nothing: tuple, repeats: int) -> dict:
    """{name: (seconds of each repeat, peak MB)}; they take turns. `nothing` is a batch that only
    brings the code in.
    """
    peaks, seconds = {}, {name: [] for name in contenders}
    for name, loss in contenders.items():
        once(loss, nothing)
        peaks[name], _, _ = peak_of(once, loss, batch, warm=functools.partial(once, loss, nothing))
    for repeat in range(repeats):
        for name, loss in contenders.items():
            if repeat < 2 or seconds[name][0] < SLOW:
                seconds[name].append(once(loss, batch))
    return {name: (seconds[name], peaks[name]) for name in contenders}


def compare_on_logits(short: bool) -> dict[str, float]:
    """The table of the losses on logits, and their ratios."""
    print("| loss | B, T, U, V | which | CPU seconds, forward + backward | ratio | peak MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    ratios = {}
    for name in ("small",) if short else ON_LOGITS:
        for kind in KINDS:
            size = ON_LOGITS[name]
            batch, nothing = logits_of(kind, size), logits_of(kind, (1, 2, 1, size[3]))
            found = compare(losses_on_logits(kind, name), batch, nothing, 5)
            for which, ratio in show([kind, shape(size)], found).items():
                key = {"warprnnt_numba": "rnnt_ratio", "tdt_pytorch": "tdt_ratio"}.get(which)
                if key:
                    ratios[key] = round(ratio, 1)
    return ratios


def compare_joints(short: bool) -> dict[str, float]:
    """The table of the losses with their joint, and the ratios of time and memory."""
    print("\n| loss | B, T, U, V | padding | which | CPU seconds | ratio | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios: dict[float, list[float]] = {0.0: [], 0.5: []}
    per_logit: dict[str, float] = {}
    for size in list(WITH_JOINT.values())[: 1 if short else None]:
        for kind in KINDS:
            for padding in ratios:
                contenders = losses_with_joint(kind, arcs_of(kind, size[3]), padding)
                if short:
                    contenders = dict(list(contenders.items())[:2])
                batch = projections(kind, size, padding)
                nothing = projections(kind, (1, 3, 2, size[3]))
                found = compare(contenders, batch, nothing, 3)
                shown = show([kind, shape(size), f"{padding:.0%}"], found)
                ratios[padding].append(shown["ours on logits"])
                if not padding:
                    logits = num_logits(kind, size)
                    per_logit |= {name: peak / logits for name, (_, peak) in found.items()}
    found = {
        "joint_time_ratio": round(min(ratios[0.0]), 2),
        "joint_padded_time_ratio": round(min(ratios[0.5]), 2),
    }
    return found if short else found | compare_memory(per_logit)


def compare_memory(per_logit: dict[str, float]) -> dict[str, float]:
    """Rows of the largest size: ours measured, the others from their MB a logit."""
    kind, arcs = "TDT", arcs_of("TDT", LARGEST[3])
    loss = losses_with_joint(kind, arcs, 0.0)["ours"]
    warm = functools.partial(once, loss, projections(kind, (1, 3, 2, LARGEST[3])))
    peak, _, seconds = peak_of(once, loss, projections(kind, LARGEST), warm=warm)
    print(f"| {kind} | {shape(LARGEST)} | 0% | ours | {seconds:.0f} | 1.00 | {peak:.0f} |")
    for name, megabytes in per_logit.items():
        if name != "ours":
            held = megabytes * num_logits(kind, LARGEST)
            print(f"| {kind} | {shape(LARGEST)} | 0% | {name}, computed | | | {held:.0f} |")
    held = per_logit["NeMo"] * num_logits(kind, LARGEST)
    return {"joint_memory_ratio": round(held / peak, 1)}


def num_logits(kind: str, size: tuple[int, ...]) -> int:
    batch, frames, length, vocabulary = size
    outputs = vocabulary + 1 + (len(DURATIONS) if kind == "TDT" else 0)
    return batch * frames * (length + 1) * outputs


def show(cells: list[str], found: dict[str, tuple[list[float], float]]) -> dict[str, float]:
    """Print a row each; {name: times as long as ours}."""
    ours, ratios = statistics.median(found["ours"][0]), {}
    for name, (seconds, peak) in found.items():
        ratios[name] = statistics.median(seconds) / ours
        row = [*cells, name, spread(seconds), f"{ratios[name]:.2f}", f"{peak:.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)
    return ratios


def shape(size: tuple[int, ...]) -> str:
    return ", ".join(f"{number:,}" for number in size)


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.4f} ({min(seconds):.4f} - {max(seconds):.4f})"


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


def step_seconds(repeats: int, small: bool) -> dict[str, list[float]]:
    """Seconds of one optimisation step (preprocessor, encoder, joint, loss, AdamW) on 16 x 6 s with
    36 tokens each: ours as it trains, NeMo's training_step with its joint fused by 4.

    36 tokens of some 2.3 letters are what 6 s of English come to (14 letters a second) in 128
    pieces.
    """
    from parakeet_ft.model import replicas
    from parakeet_ft.model.objective import training_loss

    with tempfile.TemporaryDirectory() as folder:
        replicas.write_tokenizer(Path(folder), vocab_size=128)
        ours, nemo = (tiny_rnnt(Path(folder), small) for _ in range(2))
    use_wavefront_loss(ours)
    # What training_step asks of a Trainer.
    nemo._trainer = SimpleNamespace(log_every_n_steps=10**9, global_step=0)
    nemo._optimizer = SimpleNamespace(param_groups=[{"lr": 1e-4}])
    nemo.log_dict = lambda *args, **kwargs: None
    lengths, token_lengths = torch.full((16,), 96000), torch.full((16,), 36)
    batch = 0.1 * torch.randn(16, 96000), lengths, torch.randint(0, 127, (16, 36)), token_lengths
    losses = {
        "ours": (ours, lambda: training_loss(ours, *batch)["loss"]),
        "warprnnt_numba": (nemo, lambda: nemo.training_step(batch, 0)["loss"]),
    }
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, (model, _) in losses.items()
    }
    seconds = {name: [] for name in losses}
    for repeat in range(repeats + 1):
        for name, (_, loss) in losses.items():
            start = time.process_time()
            optimizers[name].zero_grad()
            loss().backward()
            optimizers[name].step()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds


def compare_steps(short: bool) -> dict[str, float]:
    """The table of optimisation steps, and the ratio without dropout."""
    print("\n| one step, RNN-T of d_model 176, 8 layers, 16 x 6 s | which | CPU seconds | ratio |")
    print("| --- | --- | --- | --- |")
    ratios = {}
    for small in (False,) if short else (False, True):
        seconds = step_seconds(1 if small else 2, small)
        what = "256 subsampling channels, dropout 0.1" if small else "64 channels, no dropout"
        ours = statistics.median(seconds["ours"])
        for name, values in seconds.items():
            ratio = statistics.median(values) / ours
            print(f"| {what} | {name} | {spread(values)} | {ratio:.1f} |", flush=True)
        ratios.setdefault("rnnt_step_ratio", round(ratio, 1))
    return ratios


def compare_pieces() -> None:
    """The joint's seconds by the logits that it makes at once."""
    print(f"| logits at once | {' | '.join(f'{name}, s' for name in WITH_JOINT)} |")
    print(f"| --- |{' --- |' * len(WITH_JOINT)}")
    rows: dict[int, list[list[float]]] = {number: [] for number in PIECES}
    for size in WITH_JOINT.values():
        loss = losses_with_joint("TDT", arcs_of("TDT", size[3]), 0.5)["ours"]
        batch = projections("TDT", size)
        for number in PIECES:
            rows[number].append([])
        for repeat in range(4):
            for number in PIECES:
                joint_loss.CPU_LOGITS = number
                seconds = once(loss, batch)
                if repeat:
                    rows[number][-1].append(seconds)
    for number, cells in rows.items():
        print(f"| {number:,} | {' | '.join(map(spread, cells))} |")


def first_call() -> float:
    """Seconds of the first loss of a process, on the small size."""
    arcs = arcs_of("TDT", ON_LOGITS["small"][3])
    loss = losses_with_joint("TDT", arcs, 0.5)["ours"]
    return peak_of(once, loss, projections("TDT", ON_LOGITS["small"]))[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the small sizes and one kind of step")
    parser.add_argument("--pieces", action="store_true", help="seconds by the size of pieces")
    args = parser.parse_args()
    _quiet.silence_nemo()
    torch.set_num_threads(1)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    if args.pieces:
        compare_pieces()
        return
    print(f"The first call of ours in a process, with the joint inside: {first_call():.2f} s.\n")
    ratios = compare_on_logits(args.short) | compare_steps(args.short)
    print(json.dumps(ratios | compare_joints(args.short)))


if __name__ == "__main__":
    main()
