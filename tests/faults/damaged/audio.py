"""Damaged audio, between good files, through data_prep/from_table.py."""

from __future__ import annotations

import functools
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from damaged.case import Case, Outcome
from damaged.prepared import NUM_ROWS, TEXTS, flipped, outcome, prepare, write_audio

SECONDS = 4.0
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
}
# A cut that takes less than this, or less than two hundredths of the file, is within what decoders
# announce wrongly.
SMALL_SECONDS = 0.5


def cases(folder: Path) -> Iterable[Case]:
    write_audio(folder, seconds=SECONDS)
    damages = [*_cut(), *_flipped(), *_headers(), *_samples(), *_contents()]
    for number, (name, suffix, content, must_tell) in enumerate(damages):
        path = folder / f"2-{number}.{suffix}"  # takes the place of 2.wav
        path.write_bytes(content)
        yield Case("audio", name, functools.partial(_run, folder, path, number, must_tell))
    for number, (name, make) in enumerate(_places().items(), len(damages)):
        path = folder / f"2-{number}.wav"
        make(path)
        yield Case("audio", name, functools.partial(_run, folder, path, number, True))


def _run(folder: Path, path: Path, number: int, must_tell: bool) -> Outcome:
    names = [f"{i}.wav" if i != 2 else path.name for i in range(NUM_ROWS)]
    lines = [{"path": name, "text": text} for name, text in zip(names, TEXTS, strict=True)]
    table, out = folder / f"{number}.jsonl", folder / f"out{number}"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def honest(index: int, row: dict) -> bool:
        whole = row["text"] == TEXTS[index] and row["duration"] > SECONDS - SMALL_SECONDS
        return whole or (index == 2 and row["duration"] >= _announced(path) - SMALL_SECONDS)

    return outcome(
        prepare("from_table.py", table, out),
        out,
        rows=NUM_ROWS,
        allowed=honest,
        must_tell=must_tell,
    )


def _announced(path: Path) -> float:
    """The length that the header of a WAV gives; endless if none is read."""
    if path.suffix != ".wav":
        return float("inf")
    try:
        return soundfile.info(path).duration if _is_whole(path) else float("inf")
    except soundfile.LibsndfileError:
        return float("inf")


def _is_whole(path: Path) -> bool:
    return path.stat().st_size >= 2 * SECONDS * 16000


def _written(suffix: str, *, rate_hz: int = 16000, subtype: str | None = None) -> bytes:
    container, usual = FORMATS[suffix]
    samples = 0.1 * np.random.default_rng(9).standard_normal(int(SECONDS * rate_hz))
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format=container, subtype=subtype or usual)
    return out.getvalue()


def _cut() -> Iterator[tuple]:
    for suffix in FORMATS:
        content = _written(suffix)
        for share in (0.02, 0.5, 0.8):
            cut = content[: int(len(content) * share)]
            yield f"{suffix} cut at {share:g}", suffix, cut, True


def _flipped() -> Iterator[tuple]:
    for suffix in FORMATS:
        content = _written(suffix)
        # Some bits of the header, and many of the data.
        header = flipped(content, seed=1, within=slice(0, 64))
        # The bits may say the same in another way, or stand where nothing is read.
        yield f"{suffix} header flipped", suffix, header, False
        data = flipped(content, seed=2, count=len(content) // 100, within=slice(200, None))
        yield f"{suffix} data flipped", suffix, data, False


def _headers() -> Iterator[tuple]:
    def patched(name: str, form: str, place: int, value: int) -> tuple:
        content = bytearray(_written("wav"))
        struct.pack_into(form, content, place, value)
        return f"wav with {name} {value}", "wav", bytes(content), False

    for tag in (0, 3, 0x55, 0xFFFF):
        yield patched("format", "<H", 20, tag)
    for channels in (0, 2, 65535):
        yield patched("channels", "<H", 22, channels)
    for rate_hz in (0, 1, 2**31, 2**32 - 1):
        yield patched("rate", "<I", 24, rate_hz)
    for bits in (0, 1, 8, 24, 64, 255):
        yield patched("bits", "<H", 34, bits)
    for size in (0, 1, 2**31 - 1, 2**32 - 1):
        yield patched("data size", "<I", 40, size)


def _samples() -> Iterator[tuple]:
    for name, value in (("NaN", np.nan), ("infinity", np.inf), ("silence", 0.0)):
        samples = np.full(int(SECONDS * 16000), value, dtype=np.float32)
        out = io.BytesIO()
        soundfile.write(out, samples, 16000, format="WAV", subtype="FLOAT")
        yield f"wav of {name}", "wav", out.getvalue(), True
    loud = np.sign(np.random.default_rng(0).standard_normal(int(SECONDS * 16000)))
    out = io.BytesIO()
    soundfile.write(out, loud, 16000, format="WAV")
    yield "wav of clipped samples", "wav", out.getvalue(), True


def _contents() -> Iterator[tuple]:
    for name, content in (
        ("nothing", b""),
        ("zeros", b"\0" * 9000),
        ("a page", b"<html>404</html>" * 99),
        ("a playlist", b"#EXTM3U\n#EXTINF:1,\n0.wav\n"),
        ("noise", os.urandom(9000)),
        ("a list", b"ffconcat version 1.0\nfile 0.wav\n"),
        ("RIFF alone", b"RIFF"),
        ("a header alone", _written("wav")[:44]),
        ("an archive", b"PK\x03\x04" + b"\0" * 99),
    ):
        for suffix in ("wav", "mp3"):
            yield f"{name} called .{suffix}", suffix, content, True


def _places() -> dict:
    return {
        "a folder": Path.mkdir,
        "nowhere": lambda path: None,
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to nothing": lambda path: path.symlink_to("gone.wav"),
        "a pipe": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
    }
