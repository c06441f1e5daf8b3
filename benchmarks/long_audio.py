"""Peak memory of transcribing 5, 10 and 30 minutes in one piece, full attention against local (128
frames to either side: 10 s).

    python benchmarks/long_audio.py       # the width of the bundled tiny base
    python benchmarks/long_audio.py --width 512 --layers 17 --channels 256
                                          # that of parakeet-tdt_ctc-110m

Random weights and noise for audio: memory does not depend on either. Each row is a process of its
own; its memory is what it grows by while it transcribes. One that would pass --limit-gb is stopped
by the operating system, and its row says so.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import _quiet
import torch
from _peak import peak_of


def transcribe(model, minutes: int, limit_gb: float) -> float | None:
    """Seconds, or None if memory ran out."""
    import numpy

    resource.setrlimit(
        resource.RLIMIT_AS, (int(limit_gb * 2**30) + rss_now(), resource.RLIM_INFINITY)
    )
    audio = 0.1 * numpy.random.default_rng(0).standard_normal(
        minutes * 60 * 16000, dtype=numpy.float32
    )
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            model.transcribe([audio], batch_size=1, verbose=False)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        return None
    return time.perf_counter() - start


def rss_now() -> int:
    """Address space in use, bytes: what RLIMIT_AS counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=None, help="4, or 8 from width 512 on")
    parser.add_argument("--channels", type=int, default=64, help="of the subsampling")
    parser.add_argument("--limit-gb", type=float, default=12)
    args = parser.parse_args()
    from parakeet_ft.model import replicas
    from parakeet_ft.model.attention import set_attention

    _quiet.silence_nemo()
    torch.set_num_threads(1)
    architecture = replicas.Architecture(
        "ctc",
        d_model=args.width,
        n_layers=args.layers,
        conv_channels=args.channels,
        vocab_size=256,
        n_heads=args.heads or (4 if args.width < 512 else 8),
        xscaling=False,
    )
    rows = {}
    print(
        f"| d_model {args.width}, {args.layers} layers | minutes | peak MB | seconds |\n| --- | "
        f"--- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        replicas.write_tokenizer(Path(folder), vocab_size=architecture.vocab_size)
        torch.manual_seed(0)
        model = replicas.build(architecture, Path(folder)).eval()
        for kind in ("full", "local"):
            set_attention(model, kind=kind, left_context=128, right_context=128)
            for minutes in args.minutes:
                peak, _, seconds = peak_of(transcribe, model, minutes, args.limit_gb)
                rows[f"{kind}_{minutes}"] = None if seconds is None else round(peak)
                found = (
                    f"over {args.limit_gb:.0f} GB | -"
                    if seconds is None
                    else f"{peak:.0f} | {seconds:.0f}"
                )
                print(f"| {kind} | {minutes} | {found} |", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
