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
        self.archive, self.label, self.decoding, self.language_model, self.say = (
            archive,
            label,
            decoding,
            language_model,
            say,
        )
        self.long_audio = long_audio
        self.folder, self.device, self.batch_seconds, self.warm_up_batches = (
            folder,
            device,
            batch_seconds,
            warm_up_batches,
        )
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
        self.say.phase(f"restoring {self.label}")
        import torch

        from parakeet_ft.errors import UserError
        from parakeet_ft.model import parts
        from parakeet_ft.model.restore import restore
        from parakeet_ft.transcription.decoding import set_decoding
        from parakeet_ft.transcription.language_model import fuse_language_model

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "device=cuda, but torch sees no GPU here. Use device=auto, or install a CUDA build "
                "of torch."
            )
        driver.check_seen(self.device, cpu=ON_CPU)
        device = (
            ("cuda" if torch.cuda.is_available() else "cpu")
            if self.device == "auto"
            else self.device
        )
        self._model = restore(str(self.archive)).to(device)
        if self.language_model:
            self.say.phase(f"a language model for {self.label}")
            live = fuse_language_model(
                self._model,
                **self.language_model,
                arpa_path=self.folder / f"{self.label.replace('/', '-')}.arpa",
                decoding=self.decoding,
                batch_seconds=self.batch_seconds,
                on_weight=self._tell,
            )
            chosen = live["language_model"]
            self.say.lines(
                [
                    f"weight of the language model: {chosen['weight']:g}"
                    + (" (the best of those above; 0 leaves it out)" if chosen["tuning"] else "")
                ]
            )
        else:
            live = set_decoding(self._model, **self.decoding)
        self.say.lines(
            [
                f"{live['class']}, {live['head']} head"
                + (f", beam {live['beam_size']}" if live["beam_size"] else "")
                + "".join(f", {name} x {weight:g}" for name, weight in live["fused"].items())
            ]
        )
        self._facts = {"decoding": live, "device": str(parts.device(self._model))}

    def _tell(self, row: dict[str, Any]) -> None:
        guard = f", guard {100 * row['guard_wer']:.1f} %" if row["guard_wer"] is not None else ""
        self.say.lines([f"weight {row['weight']:g}: domain WER {100 * row['wer']:.1f} %{guard}"])
