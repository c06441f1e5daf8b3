"""parakeet-ft: fine-tuning of NVIDIA's Parakeet speech-recognition models.

For notebooks: restore, transcribe, score, evaluate and finetune (parakeet_ft.api). Importing the
package brings neither torch nor NeMo. docs/how/house.md has a line for each room.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["evaluate", "finetune", "restore", "score", "transcribe"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from parakeet_ft import api

        return getattr(api, name)
    raise AttributeError(f"module 'parakeet_ft' has no attribute {name!r}")
