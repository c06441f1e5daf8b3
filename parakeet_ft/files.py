"""Where the project's own files are."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_folder(name: str) -> Path:
    """conf/, recipes/ or data_prep/: inside an installed wheel's package, or in the clone around it."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name
