"""What audio is read from: a file, checked before any decoder sees it, a stretch of bytes of a
larger file, or a command of Kaldi's.

A path is a file name, whatever it looks like. Only a KaldiPipe is given to a shell, and only the
file of a Member is looked for on other machines.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
import struct
import subprocess
from typing import BinaryIO

from parakeet_ft.errors import UserError

# Names under which the standard input and other open files appear as files.
DEVICE_FOLDERS = ("/dev/", "/proc/")
# Two Ogg pages of the greatest size, in bytes.
TWO_PAGES = 2 * 65307


class AudioError(UserError):
    """Audio that cannot be used; `reason` is the short word that reports count."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        # As ranks and processes send errors to each other.
        return AudioError, (self.reason, str(self))


@dataclasses.dataclass(frozen=True)
class KaldiPipe:
    """A command that writes audio to its standard output. Made by one reader alone, that of
    wav.scp, and only with --allow-pipes; nothing that is stored or parsed elsewhere becomes one.
    """

    command: str

    def __str__(self) -> str:
        return f"{self.command} |"


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A stretch of bytes of a file, or URL, that is one audio file: `size` bytes from `start`.

    `name` is that of a member of a tar, whose header lies in the 512 bytes before `start`; it is
    compared, and says how many of the bytes are audio, when the member is read. Without a name it
    is the whole file, `size` -1 if nobody asked how long that is. Made by data/sources.py alone:
    a name leads nowhere, whatever it looks like.
    """

    file: str
    name: str
    start: int
    size: int

    @property
    def path(self) -> str:
        """What an utterance calls its audio: the member's name behind that of its tar."""
        return f"{self.file}/{self.name}" if self.name else self.file

    def __str__(self) -> str:
        return self.path


@dataclasses.dataclass(frozen=True, slots=True)
class InMemory:
    """An audio file whose bytes are here; `name` is what messages call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


def open_bytes(source: str | InMemory) -> BinaryIO:
    """The bytes of a file, wherever they are."""
    return io.BytesIO(source.data) if isinstance(source, InMemory) else open(source, "rb")


def run(pipe: KaldiPipe) -> io.BytesIO:
    """What the command writes. Raises AudioError."""
    from parakeet_ft.data.parallel import die_with_parent

    done = subprocess.run(
        pipe.command,
        shell=True,
        capture_output=True,
        check=False,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    if done.returncode or not done.stdout:
        error = done.stderr.decode(errors="replace").strip().splitlines()
        raise AudioError(
            "pipe_failed",
            f"The command {pipe.command!r} gave no audio: exit code {done.returncode}, "
            f"{' '.join(error[-1:])}",
        )
    return io.BytesIO(done.stdout)


def check_file(path: str | InMemory) -> None:
    """Raise AudioError if there is no readable file at `path`."""
    if isinstance(path, InMemory):
        if not path.data:
            raise AudioError("zero_bytes", f"{path} has zero bytes.")
        return
    if not os.path.lexists(path):
        raise AudioError("missing", f"No audio at {path}.")
    if not os.path.exists(path):
        raise AudioError(
            "missing",
            f"No audio at {path}: the link points at {os.readlink(path)}, which does not exist.",
        )
    if not os.path.isfile(path) or os.path.abspath(path).startswith(DEVICE_FOLDERS):
        raise AudioError("not_a_file", f"{path} is no file; expected audio.")
    if not os.access(path, os.R_OK):
        raise AudioError("no_permission", f"No permission to read {path}.")
    if os.path.getsize(path) == 0:
        raise AudioError("zero_bytes", f"{path} has zero bytes.")


def check_stretch(path: object, offset: float, duration: float | None) -> None:
    """Raise AudioError unless both are seconds that a recording can have."""
    if not (0 <= offset < math.inf) or not (duration is None or 0 <= duration < math.inf):
        raise AudioError(
            "bad_times",
            f"{path}: offset {offset} s, duration {duration} s; expected numbers of seconds, 0 or "
            "more.",
        )


def contradicts_itself(start: bytes) -> bool:
    """Whether a plain WAV that libsndfile refused has blocks that do not hold its channels: FFmpeg
    reads 16-bit samples as 64-bit ones if the header says so in one of two places."""
    if not (start.startswith(b"RIFF") and start[8:16] == b"WAVEfmt " and len(start) >= 36):
        return False
    kind, channels, _, _, block, bits = struct.unpack_from("<HHIIHH", start, 20)
    return kind in (1, 3) and block != channels * ((bits + 7) // 8)


def breaks_off(source: str | InMemory) -> bool:
    """Whether a file of a format whose length libsndfile and FFmpeg do not check (Ogg, CAF, VOC)
    ends in the middle of a page, chunk or block."""
    with open_bytes(source) as file:
        start = file.read(4096)
        size = file.seek(0, os.SEEK_END)
        if start.startswith(b"OggS"):
            file.seek(max(0, size - TWO_PAGES))
            return _breaks_off_in_page(file.read())
    if start.startswith(b"caff"):
        return _breaks_off_in_chunk(start, size)
    if start.startswith(b"Creative Voice File\x1a"):
        return _breaks_off_in_block(start, size)
    return False


def _breaks_off_in_page(tail: bytes) -> bool:
    """Whether the last Ogg page (RFC 3533) is not whole."""
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return True
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    return len(tail) < at + 27 + tail[at + 26] + sum(segments)


def _breaks_off_in_chunk(start: bytes, size: int) -> bool:
    """Whether a CAF file is shorter than its data chunk; a chunk may leave its length open."""
    at = start.find(b"data", 8)
    length = int.from_bytes(start[at + 4 : at + 12], "big", signed=True)
    return at > 0 and length > 0 and at + 12 + length > size


def _breaks_off_in_block(start: bytes, size: int) -> bool:
    """Whether a VOC file is shorter than its first block of samples."""
    at = int.from_bytes(start[20:22], "little")  # of the first block: kind, 3 bytes of length
    if start[at : at + 1] == b"\x08":  # which may say more of the next one
        at += 8
    return at + 4 + int.from_bytes(start[at + 1 : at + 4], "little") > size
