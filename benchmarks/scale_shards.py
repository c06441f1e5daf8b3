"""Training audio from shards: one worker of ours over NeMo's tars, over Lhotse Shar and over single
files, against Lhotse's own loader over the same Shar, with a cold page cache.

    python benchmarks/scale_shards.py --hours 0.5                  # a look
    python benchmarks/scale_shards.py --hours 20 --repeats 3       # the figure
    python benchmarks/scale_shards.py --audio DIR                  # FLAC of one's own

Utterances of 10 to 15 s, 16 kHz FLAC, joined from the bundled speech or from DIR. Every side gives
padded batches of 120 s and tokens through a DataLoader of one worker, pass 0, to a reader that does
nothing; ours in the plan's random order, each utterance read where it lies, Lhotse's in the order
of DynamicBucketingSampler, shards shuffled and read from beginning to end. Before each run the
kernel is asked to forget the files (posix_fadvise DONTNEED; how much of them it still holds is
measured with mincore). The sides are run in turn. The last line is one JSON object.
"""

import argparse
import ctypes
import json
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _quiet  # noqa: F401
import numpy as np
from _sides import show, summary, verdict

RATE_HZ = 16000
BATCH_SECONDS = 120.0
TARGET = 1.3


def pool_of(audio: Path | None) -> list[np.ndarray]:
    """Speech to join: the bundled sets, or all FLAC below a folder; an hour at most."""
    from parakeet_ft.data.audio import read_audio
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.files import DEMO

    names = ("train", "replay", "guard", "dev")
    bundled = (u.audio_filepath for name in names for u in read_manifest(DEMO / f"{name}.jsonl"))
    found, seconds = [], 0.0
    for path in map(str, sorted(audio.rglob("*.flac"))) if audio else bundled:
        found.append(read_audio(path, rate_hz=RATE_HZ))
        seconds += len(found[-1]) / RATE_HZ
        if seconds > 3600:
            break
    return found


def write_singles(folder: Path, pool: list[np.ndarray], *, hours: float) -> Path:
    """Utterances of 10 to 15 s as FLAC files, 1,000 a folder, and their manifest."""
    import soundfile

    from parakeet_ft.data.audio import to_int16
    from parakeet_ft.data.manifest import Utterance, write_manifest

    rng = np.random.default_rng(0)
    speech = np.concatenate([pool[i] for i in rng.permutation(len(pool))])
    utterances = []
    seconds = 0.0
    while seconds < hours * 3600:
        length = int(rng.uniform(10, 15) * RATE_HZ)
        begin = int(rng.integers(len(speech) - length))
        number = len(utterances)
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.flac"
        path.parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(path, to_int16(speech[begin : begin + length]), RATE_HZ)
        row = Utterance(str(path.relative_to(folder)), length / RATE_HZ, f"utterance {number}")
        utterances.append(row)
        seconds += length / RATE_HZ
    write_manifest(utterances, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def make(folder: Path, *, hours: float, audio: Path | None) -> dict[str, Path]:
    """The same audio three times: single files, NeMo's shards, a Shar."""
    from parakeet_ft.data.parallel import InlineExecutor
    from parakeet_ft.data.shards import write_shards

    manifest = write_singles(folder / "single", pool_of(audio), hours=hours)
    for layout in ("nemo", "shar"):
        write_shards(
            manifest,
            out=folder / layout,
            hours=min(1.0, hours / 4),
            format=layout,
            executor=InlineExecutor,
        )
    os.sync()
    return {"single files": manifest, "NeMo tars": folder / "nemo", "Shar": folder / "shar"}


def forget(folder: Path) -> float:
    """Have the kernel forget the files below a folder; the share that it still holds."""
    resident = total = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for path in folder.rglob("*"):
        if not path.is_file() or not path.stat().st_size:
            continue
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
                pages = (len(mapped) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
                held = (ctypes.c_ubyte * pages)()
                start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
                libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(mapped)), held)
                resident += sum(byte & 1 for byte in held)
                total += pages
    return resident / max(1, total)


def tokens_of(text: str) -> list[int]:
    """A stand-in for a tokenizer, the same for all."""
    return list(text.encode())


def ours(source: Path) -> Iterator[Any]:
    """Batches of the plan's first pass."""
    import torch

    from parakeet_ft.batches.loaders import BatchDataset
    from parakeet_ft.batches.plan import Plan
    from parakeet_ft.batches.sequence import BatchSequence
    from parakeet_ft.data.sources import read_all
    from parakeet_ft.settings.manifests import weighted

    utterances = read_all(weighted(str(source)))
    plan = Plan(utterances, len(utterances), BATCH_SECONDS, seed=0)
    return iter(
        torch.utils.data.DataLoader(
            BatchDataset(utterances, tokens_of, rate_hz=RATE_HZ),
            sampler=BatchSequence(plan, rank=0, stop=plan.steps_of_pass()),
            batch_size=None,
            num_workers=1,
            prefetch_factor=2,
        )
    )


def lhotse(source: Path) -> Iterator[Any]:
    """Batches of Lhotse's loader, as its documentation builds one over a Shar."""
    import torch
    from lhotse import CutSet
    from lhotse.dataset import DynamicBucketingSampler, IterableDatasetWrapper
    from lhotse.dataset.collation import collate_audio

    class Padded(torch.utils.data.Dataset):
        """As K2SpeechRecognitionDataset with audio for inputs."""

        def __getitem__(self, cuts: CutSet) -> tuple[Any, ...]:
            audio, lengths = collate_audio(cuts)
            tokens = [torch.tensor(tokens_of(cut.supervisions[0].text)) for cut in cuts]
            padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
            return audio, lengths, padded, torch.tensor([len(t) for t in tokens])

    cuts = CutSet.from_shar(in_dir=str(source), shuffle_shards=True, seed=0)
    sampler = DynamicBucketingSampler(
        cuts, max_duration=BATCH_SECONDS, shuffle=True, num_buckets=10, seed=0
    )
    return iter(
        torch.utils.data.DataLoader(
            IterableDatasetWrapper(Padded(), sampler),
            batch_size=None,
            num_workers=1,
            prefetch_factor=2,
        )
    )


def rates(batches: Callable[[Path], Iterator[Any]], source: Path) -> dict[str, float]:
    """Audio seconds per second, from the asking for the first batch to the last, and per second
    that the worker had a core, which other programs on the machine change less.
    """
    begun, used = time.perf_counter(), _seconds_of_children()
    found = batches(source)
    seconds = sum(int(lengths.sum()) for _, lengths, *_ in found) / RATE_HZ
    elapsed = time.perf_counter() - begun
    del found  # the worker ends, and its seconds are counted
    return {"clock": seconds / elapsed, "core": seconds / (_seconds_of_children() - used)}


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(*, hours: float = 0.5, repeats: int = 3, audio: Path | None = None) -> dict[str, Any]:
    """Audio seconds per second by side, and the ratios to Lhotse's loader."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCALE_FOLDER")) as temporary:
        folder = Path(temporary)
        os.environ["PARAKEET_FT_CACHE"] = str(folder / "cache")
        places = make(folder, hours=hours, audio=audio)
        rows: dict[str, list[dict[str, float]]] = {}
        held = []
        for _ in range(repeats):
            for side, source in [*places.items(), ("Lhotse over the Shar", places["Shar"])]:
                held.append(forget(folder))
                read = lhotse if side.startswith("Lhotse") else ours
                rows.setdefault(side, []).append(rates(read, source))
    found = {"hours": hours, "still_in_page_cache": round(max(held), 4), "target": TARGET}
    for kind in ("clock", "core"):
        by_side = {side: [row[kind] for row in runs] for side, runs in rows.items()}
        found[f"audio_seconds_per_{kind}_second"] = {
            side: summary(values) for side, values in by_side.items()
        }
        found[f"ratio_to_lhotse_by_{kind}"] = _ratios(by_side, to="Lhotse over the Shar")
    return found


def _ratios(by_side: dict[str, list[float]], *, to: str) -> dict[str, dict[str, float]]:
    """Of each repeat, every other side to one."""
    return {
        side: summary([one / other for one, other in zip(values, by_side[to], strict=True)])
        for side, values in by_side.items()
        if side != to
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--audio", type=Path, help="a folder of FLAC instead of the bundled speech")
    args = parser.parse_args()
    found = measure(hours=args.hours, repeats=args.repeats, audio=args.audio)
    for kind in ("clock", "core"):
        show(f"by the {kind}", found[f"audio_seconds_per_{kind}_second"], "audio s/s")
        for side, ratio in found[f"ratio_to_lhotse_by_{kind}"].items():
            print(f"{side}: {ratio['median']:.2f} times Lhotse; {verdict(ratio['median'], TARGET)}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
