# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""What a Hugging Face Job runs (hf_job.sh): parakeet-ft from the wheel in /files, with the versions
of constraints.txt, its outputs kept in /runs.
"""

import os
import sys
from pathlib import Path


def command(files: Path, kept: str, arguments: list[str]) -> list[str]:
    """The command that installs and runs; arguments are those of parakeet-ft."""
    (wheel,) = files.glob("parakeet_ft-*.whl")
    uvx = ["uvx", "--python", "3.11", "--torch-backend", "auto"]
    pinned = ["--constraints", str(files / "constraints.txt"), "--from", str(wheel)]
    return ["bash", str(files / "keep.sh"), kept, *uvx, *pinned, "parakeet-ft", *arguments]


if __name__ == "__main__":
    words = command(Path("/files"), "/runs", sys.argv[1:])
    os.execvp(words[0], words)
