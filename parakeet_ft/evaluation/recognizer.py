"""A model as it is asked to decode, restored only when there is something to decode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.evaluation.hypotheses import set_hash
from parakeet_ft.evaluation.request import ON_CPU
from parakeet_ft.files import file_hash
from parakeet_ft.run.console import Narrator
from parakeet_ft.training import driver


class Recognizer:
    """One .nemo with its decoding. `language_model` is fuse_language_model's arguments of that name
    and is written to `folder`; None: none.
    """

    def __init__(
        self,
        archive: Path,
        *,
        label: str,
        decoding: dict[str, Any],
        language_model: dict[str, Any] | None,
        long_audio: str,
        folder: Path,
        device: str,
        batch_seconds: float,
        warm_up_batches: int,
        say: Narrator,
    ) -> None:
        self.archive = archive
        self.label = label
        self.decoding = decoding
        self.language_model = language_model
        self.long_audio = long_audio
        self.folder = folder
        self.device = device
        self.batch_seconds = batch_seconds
        self.warm_up_batches = warm_up_batches
        self.say = say
        self.digest = file_hash(archive)
        self._model: Any = None
        self._facts: dict[str, Any] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides texts and times, apart from the set."""
        language_model = self.language_model and self.language_model | {
            key: set_hash(self.language_model[key]) for key in ("tune_on", "guard")
        }
        return {
            "model": self.digest,
            "decoding": self.decoding,
            "language_model": language_model,
            "long_audio": self.long_audio,
            "device": self.device,
            "batch_seconds": self.batch_seconds,
            "warm_up_batches": self.warm_up_batches,
        }

    def transcribe(self, name: str, utterances: Sequence[Utterance]) -> dict[str, Any]:
        """texts, levels_dbfs, seconds, rtfx, decoding and device. Raises UserError, also if the
        device is not there.
        """
        from parakeet_ft.transcription.decode import transcribe_timed
        from parakeet_ft.transcription.long_audio import cut_like_a_recording

        cold = self._model is None
        if cold:
            self._open()
        self.say.phase(f"{self.label} on {name}: {len(utterances)} utterances")
        return self._facts | transcribe_timed(
            self._model,
            utterances,
            batch_seconds=self.batch_seconds,
            warm_up_batches=self.warm_up_batches if cold else 0,
            cut=cut_like_a_recording(self._model, long_audio=self.long_audio),
        )

    def _open(self) -> None:
        """Restore the model and set its decoding."""
        self.say.phase(f"restoring {self.label}")
        import torch

        from parakeet_ft.errors import UserError
        from parakeet_ft.model import parts
        from parakeet_ft.model.restore import restore
        from parakeet_ft.transcription.decoding import set_decoding

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "device=cuda, but torch sees no GPU here. Use device=auto, or install a CUDA build "
                "of torch."
            )
        driver.check_seen(self.device, cpu=ON_CPU)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = restore(str(self.archive)).to(device)
        if self.language_model:
            live = self._fuse(self.language_model)
        else:
            live = set_decoding(self._model, **self.decoding)
        line = f"{live['class']}, {live['head']} head"
        if live["beam_size"]:
            line += f", beam {live['beam_size']}"
        for name, weight in live["fused"].items():
            line += f", {name} x {weight:g}"
        self.say.lines([line])
        self._facts = {"decoding": live, "device": str(parts.device(self._model))}

    def _fuse(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Decode with a language model; returns the live decoding."""
        from parakeet_ft.transcription.language_model import fuse_language_model

        self.say.phase(f"a language model for {self.label}")
        live = fuse_language_model(
            self._model,
            **settings,
            arpa_path=self.folder / f"{self.label.replace('/', '-')}.arpa",
            decoding=self.decoding,
            batch_seconds=self.batch_seconds,
            on_weight=self._tell,
        )
        chosen = live["language_model"]
        line = f"weight of the language model: {chosen['weight']:g}"
        if chosen["tuning"]:
            line += " (the best of those above; 0 leaves it out)"
        self.say.lines([line])
        return live

    def _tell(self, row: dict[str, Any]) -> None:
        """Print what a weight is worth."""
        guard = f", guard {100 * row['guard_wer']:.1f} %" if row["guard_wer"] is not None else ""
        self.say.lines([f"weight {row['weight']:g}: domain WER {100 * row['wer']:.1f} %{guard}"])
