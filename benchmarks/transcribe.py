"""Transcription of files of mixed length: parakeet_ft.transcription.long_audio against NeMo's
transcribe() with its defaults, the same model and texts.

    python benchmarks/transcribe.py                      # 500 files
    python benchmarks/transcribe.py --short              # 40 files, two repeats

Files of 1 to 20 s (log-normal, median 5 s), 16 kHz, cut and joined from the bundled speech. (Of 8
kHz files texts differ: NeMo resamples with torchaudio's short filter, we with soxr's long one, and
the model hears what either leaves above 4 kHz.) `loop` calls NeMo once a file, `list` once with all
files (batches of 4 in the order given); neither computes word times, nor do we. All three are
repeated in turn, in one process.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import _quiet
import numpy as np


def write_files(folder: Path, count: int) -> tuple[list[str], float]:
    """Paths of WAV files and their seconds in all; the same every time."""
    import soundfile

    from parakeet_ft.data.audio import read_audio
    from parakeet_ft.data.manifest import read_manifest

    demo = Path(__file__).resolve().parents[1] / "parakeet_ft" / "demo"
    rng = np.random.default_rng(0)
    speech = np.concatenate(
        [
            read_audio(u.audio_filepath)
            for name in ("train", "replay")
            for u in read_manifest(demo / f"{name}.jsonl")
        ]
    )
    paths, total = [], 0.0
    for number in range(count):
        seconds = float(np.clip(rng.lognormal(np.log(5), 0.7), 1, 20))
        begin = int(rng.integers(len(speech) - int(seconds * 16000)))
        path = folder / f"{number:04d}.wav"
        soundfile.write(path, speech[begin : begin + int(seconds * 16000)], 16000)
        paths.append(str(path))
        total += seconds
    return paths, total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--batch-seconds", type=float, default=120.0)
    parser.add_argument("--short", action="store_true", help="40 files, two repeats")
    args = parser.parse_args()
    files, repeats = (40, 2) if args.short else (args.files, args.repeats)
    import torch

    _quiet.silence_nemo()
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    from parakeet_ft.model.restore import restore
    from parakeet_ft.scoring.wer import score
    from parakeet_ft.transcription.decoding import set_decoding
    from parakeet_ft.transcription.long_audio import transcribe_files

    model = restore(args.model).eval()
    set_decoding(model)
    sides = {
        "ours": lambda paths: [
            t.text for t in transcribe_files(model, paths, batch_seconds=args.batch_seconds)
        ],
        "loop": lambda paths: [
            h.text for path in paths for h in model.transcribe(path, verbose=False)
        ],
        "list": lambda paths: [h.text for h in model.transcribe(paths, verbose=False)],
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        paths, total = write_files(Path(folder), files)
        texts = {side: transcribe(paths[:8]) for side, transcribe in sides.items()}  # warm
        for _ in range(repeats):
            for side, transcribe in sides.items():
                model.eval()  # NeMo leaves frozen parts in train mode
                start = time.perf_counter()
                texts[side] = transcribe(paths)
                seconds[side].append(time.perf_counter() - start)
    print(
        f"{args.model}, {files} files, {total / 60:.1f} minutes of audio, "
        f"{torch.get_num_threads()} threads, {repeats} repeats\n"
    )
    print(
        "| | seconds, median (range) | RTFx | times as long as ours, median (range) | texts unlike "
        "ours |\n| --- | --- | --- | --- | --- |"
    )
    result = {}
    for side, found in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(found, seconds["ours"], strict=True)]
        differing = [(a, b) for a, b in zip(texts["ours"], texts[side], strict=True) if a != b]
        print(
            f"| {side} | {statistics.median(found):.2f} ({min(found):.2f} - {max(found):.2f}) | "
            f"{total / statistics.median(found):.0f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) | "
            f"{len(differing)} |"
        )
        for ours, theirs in differing[:3]:
            print(f"    ours {ours!r}\n    {side} {theirs!r}")
        result[side] = {
            "ratio": round(statistics.median(ratios), 2),
            "differing": len(differing),
            "wer_between": round(score(texts["ours"], texts[side]).wer, 4),
        }
    print(
        json.dumps(
            {
                "vs_nemo": result["loop"]["ratio"],
                "vs_nemo_list": result["list"]["ratio"],
                "differing_texts": result["loop"]["differing"],
                "differing_texts_list": result["list"]["differing"],
                "wer_between": result["loop"]["wer_between"],
                "files": files,
            }
        )
    )


if __name__ == "__main__":
    main()
