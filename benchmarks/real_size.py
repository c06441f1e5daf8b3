"""A replica of a 0.6B checkpoint through restore, extend, two optimisation steps and export:
seconds and peak memory of each.

    python benchmarks/real_size.py        # parakeet_ctc_0.6b and parakeet_tdt_0.6b_v2
    python benchmarks/real_size.py --layers 2    # to try it out

Random weights, published architecture and tokenizer size. float32, AdamW over all weights, batches
of 2 x 5 s, one thread. Memory is the whole process's at its highest in that phase.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import _quiet
import torch
from _peak import peak_of, status_mb

DIGITS = [*"0123456789", "%", "("]


def make(name: str, layers: int | None, folder: Path) -> float:
    """Write the replica to folder/base.nemo; returns millions of weights."""
    from parakeet_ft.export.nemo import save_nemo
    from parakeet_ft.model import replicas

    architecture = replicas.REPLICAS[name]
    architecture = dataclasses.replace(architecture, n_layers=layers or architecture.n_layers)
    replicas.write_tokenizer(folder / "tokenizer", vocab_size=architecture.vocab_size)
    torch.manual_seed(0)
    model = replicas.build(architecture, folder / "tokenizer")
    save_nemo(model, folder / "base.nemo")
    return sum(p.numel() for p in model.parameters()) / 1e6


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
    parser.add_argument("names", nargs="*", default=["parakeet_ctc_0.6b", "parakeet_tdt_0.6b_v2"])
    parser.add_argument("--layers", type=int, default=None)
    args = parser.parse_args()
    _quiet.silence_nemo()
    torch.set_num_threads(1)
    print("| replica | weights | phase | seconds | peak GB |\n| --- | --- | --- | --- | --- |")
    found = {}
    for name in args.names:
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
