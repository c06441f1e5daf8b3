"""A replica of a 0.6B checkpoint through restore, extend, two optimisation steps and export:
seconds and peak memory of each.

    python benchmarks/real_size.py        # parakeet_ctc_0.6b and parakeet_tdt_0.6b_v2
    python benchmarks/real_size.py --layers 2    # to try it out
    python benchmarks/real_size.py --step        # parakeet_tdt_0.6b_v3, parakeet_tdt_ctc_110m

Random weights, published architecture and tokenizer size. float32, AdamW over all weights, batches
of 2 x 5 s, one thread. Memory is the whole process's at its highest in that phase.

--step: a training step on 5 x 12 s with 40 tokens each, once with the joint inside the loss
and once with the loss on the joint's logits, beside what parakeet_ft.training.memory computes for
its activations.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import _quiet
import torch
from _peak import peak_of, status_mb

DIGITS = [*"0123456789", "%", "("]
ROWS, SECONDS, TOKENS = 5, 12, 40  # of --step


def architecture_of(name: str, layers: int | None):
    """The published architecture, with fewer layers to try something out."""
    from parakeet_ft.model import replicas

    architecture = replicas.REPLICAS[name]
    return dataclasses.replace(architecture, n_layers=layers or architecture.n_layers)


def build(name: str, layers: int | None, folder: Path):
    """The replica, its tokenizer in folder/tokenizer."""
    from parakeet_ft.model import replicas

    architecture = architecture_of(name, layers)
    replicas.write_tokenizer(folder / "tokenizer", vocab_size=architecture.vocab_size)
    torch.manual_seed(0)
    return replicas.build(architecture, folder / "tokenizer")


def make(name: str, layers: int | None, folder: Path) -> float:
    """Write the replica to folder/base.nemo; returns millions of weights."""
    from parakeet_ft.export.nemo import save_nemo

    model = build(name, layers, folder)
    save_nemo(model, folder / "base.nemo")
    return sum(p.numel() for p in model.parameters()) / 1e6


class OnLogits(torch.nn.Module):
    """A loss that is not known to have a form with the joint inside: NeMo's joint makes all logits
    for it.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.forward, self.reduction = loss.forward, None


def one_step(name: str, layers: int | None, on_logits: bool, folder: Path) -> dict[str, tuple]:
    """{phase: (seconds, GB before, peak GB)} of a training step; AdamW has its states."""
    from parakeet_ft.model.objective import training_loss
    from parakeet_ft.model.transducer_loss import use_wavefront_loss

    model = build(name, layers, folder).train()
    use_wavefront_loss(model)
    if on_logits:
        model.loss._loss = OnLogits(model.loss._loss)
    length = SECONDS * 16000
    audio, lengths = 0.1 * torch.randn(ROWS, length), torch.full((ROWS,), length)
    tokens, token_lengths = torch.randint(0, 1000, (ROWS, TOKENS)), torch.full((ROWS,), TOKENS)
    optimizer, phases = torch.optim.AdamW(model.parameters(), lr=1e-5), {}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()

    @contextlib.contextmanager
    def phase(which: str):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before, start = status_mb("VmRSS"), time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        phases[which] = seconds, before / 1024, status_mb("VmHWM") / 1024

    with phase("forward"):
        loss = training_loss(model, audio, lengths, tokens, token_lengths)["loss"]
    with phase("backward"):
        loss.backward()
    with phase("optimiser"):
        optimizer.step()
    return phases


def compare_steps(names: list[str], layers: int | None) -> None:
    """The table of --step."""
    from parakeet_ft.training.memory import activation_bytes

    print("| replica | logits | phase | seconds | peak GB | grown by GB | computed GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found = {}
    for name in names:
        computed = activation_bytes(
            architecture_of(name, layers),
            device="cpu",
            size=4,
            batch_seconds=ROWS * SECONDS,
            longest_seconds=SECONDS,
            most_tokens=TOKENS,
            full_attention=True,
        )
        for way in ("held", "made in pieces"):
            with tempfile.TemporaryDirectory() as folder:
                _, _, phases = peak_of(one_step, name, layers, way == "held", Path(folder))
            start = phases["forward"][1]
            for phase, (seconds, _, peak) in phases.items():
                grown = f"{peak - start:.2f} |"
                if phase == "backward" and way != "held":
                    grown += f" {computed / 2**30:.2f}"
                print(
                    f"| {name} | {way} | {phase} | {seconds:.0f} | {peak:.2f} | {grown} |",
                    flush=True,
                )
            found[f"{name}, {way}"] = round(max(peak for _, _, peak in phases.values()), 2)
    print(json.dumps(found))


def adapt(folder: Path) -> dict[str, tuple[float, float]]:
    """{phase: (seconds, peak GB)} of the way a fine-tuning run takes."""
    from parakeet_ft.export.nemo import save_nemo
    from parakeet_ft.model.objective import training_loss
    from parakeet_ft.model.restore import restore
    from parakeet_ft.model.transducer_loss import use_wavefront_loss
    from parakeet_ft.model.vocabulary import adapt_vocabulary

    phases = {}

    @contextlib.contextmanager
    def phase(name: str):
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        yield
        phases[name] = time.perf_counter() - start, status_mb("VmHWM") / 1024

    with phase("restore"):
        model = restore(str(folder / "base.nemo"))
    texts = ["bana deri 911", "100 % (sic"]
    with phase("extend"):
        adapt_vocabulary(
            model,
            texts=texts,
            workdir=folder / "extended",
            mode="extend",
            max_unknown_share=1.0,
            num_pieces=None,
            pieces=DIGITS,
            vocab_size=None,
            model_type="bpe",
            tokenizer_dir=None,
        )
        use_wavefront_loss(model)
    tokens = [torch.tensor(model.tokenizer.text_to_ids(text)) for text in texts]
    batch = (
        0.1 * torch.randn(2, 80000),
        torch.tensor([80000, 80000]),
        torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        torch.tensor([len(t) for t in tokens]),
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for step in ("first step", "second step"):
        with phase(step):
            optimizer.zero_grad()
            training_loss(model, *batch)["loss"].backward()
            optimizer.step()
    del optimizer
    model.zero_grad()
    with phase("export"):
        save_nemo(model, folder / "adapted.nemo")
    del model
    with phase("restore again"):
        again = restore(str(folder / "adapted.nemo"))
    if [again.tokenizer.text_to_ids(text) for text in texts] != [t.tolist() for t in tokens]:
        raise RuntimeError("the export has not the extended vocabulary")
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--step", action="store_true", help="logits held against made in pieces")
    args = parser.parse_args()
    _quiet.silence_nemo()
    torch.set_num_threads(1)
    if args.step:
        compare_steps(args.names or ["parakeet_tdt_0.6b_v3", "parakeet_tdt_ctc_110m"], args.layers)
        return
    print("| replica | weights | phase | seconds | peak GB |\n| --- | --- | --- | --- | --- |")
    found = {}
    for name in args.names or ["parakeet_ctc_0.6b", "parakeet_tdt_0.6b_v2"]:
        with tempfile.TemporaryDirectory() as folder:
            _, _, millions = peak_of(make, name, args.layers, Path(folder))
            _, _, phases = peak_of(adapt, Path(folder))
        for phase, (seconds, peak) in phases.items():
            print(
                f"| {name} | {millions:.0f} M | {phase} | {seconds:.1f} | {peak:.1f} |", flush=True
            )
        found[name] = {
            "seconds": round(sum(s for s, _ in phases.values()), 1),
            "peak_gb": round(max(p for _, p in phases.values()), 1),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
