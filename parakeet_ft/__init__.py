"""parakeet-ft: fine-tuning of NVIDIA's Parakeet speech-recognition models.

configuration -> data (manifests) -> model (restore, vocabulary, loss, export) -> adaptation,
loaders, budget, optim, trainer -> evaluation (transcribe, wer, report); provenance, console and
errors serve all. README.md has a line for each.
"""

__version__ = "0.1.0"
