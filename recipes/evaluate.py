"""Score models on sets, side by side; the first model is the base.

    python recipes/evaluate.py      the bundled checkpoint on the demo's tests
    python recipes/evaluate.py manifests=[test.jsonl,guard.jsonl] \\
        models=[tiny_tdt_ctc,outputs/demo/latest/best.nemo]
    python recipes/evaluate.py models=[best.nemo] manifests=[test.jsonl] \\
        decoding=beam language_model.text=domain.txt \\
        language_model.tune_on=dev.jsonl
    python recipes/evaluate.py models=[nvidia/parakeet-ctc-0.6b] \\
        benchmark=open_asr_leaderboard

Writes out/evaluation.json, out/evaluation.md and
out/hypotheses/<model>--<set>--<hash>.jsonl; what is there already, of the same
model, set and decoding, is not decoded again. Breaks errors down by duration,
level, speaker and any field of the manifests.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra

from parakeet_ft.errors import disk_told, exit_on_user_error
from parakeet_ft.evaluation import request
from parakeet_ft.run.directory import hide_secrets
from parakeet_ft.urls import masked

if TYPE_CHECKING:
    from parakeet_ft.data.manifest import Utterance
    from parakeet_ft.evaluation.recognizer import Recognizer
    from parakeet_ft.run.console import Narrator


def evaluate(cfg: dict[str, Any], *, run_dir: Path, command: list[str]) -> dict[str, Any]:
    """Score every model on every set; returns what evaluation.json holds."""
    from parakeet_ft.evaluation import tables
    from parakeet_ft.model.source import fetch
    from parakeet_ft.run.console import Narrator, libraries_to
    from parakeet_ft.run.provenance import git_commit, hardware, versions

    with libraries_to(run_dir / "evaluate.log") as terminal:
        say = Narrator(terminal)
        asked = request.read_request(cfg)
        archives = {model: fetch(source) for model, source in asked.models.items()}
        transcribed = {}
        digests = {}
        for model, archive in archives.items():
            recognizer = open_recognizer(archive, model, cfg, asked, run_dir=run_dir, say=say)
            digests[model] = recognizer.digest
            transcribed[model] = transcribe_sets(recognizer, asked.sets, run_dir=run_dir)
        result = {
            "command": shlex.join(["python", *map(masked, command)]),
            "commit": git_commit(),
            "versions": versions(),
            "hardware": hardware(),
            "config": cfg | {"manifests": list(map(masked, cfg["manifests"]))},
            "benchmark": cfg["benchmark"]["name"],
            "models": {
                model: {"source": source, "sha256": digests[model]}
                for model, source in asked.models.items()
            },
        }
        result |= tables.compare_models(
            transcribed,
            asked.sets,
            normalizer=asked.normalizer,
            scored=cfg["scored"],
            fields=cfg["fields"],
            terms=asked.terms,
            confusions=cfg["confusions"],
        )
        tables.write_comparison(result, run_dir)
        say.end_phase()
        say.tables(tables.main_tables(result))
        say.lines(
            [
                *result["remarks"],
                f"normaliser: {result['normalizer']}",
                f"all figures: {run_dir / 'evaluation.md'}, {run_dir / 'evaluation.json'}",
            ]
        )
    return result


def open_recognizer(
    archive: Path,
    label: str,
    cfg: dict[str, Any],
    asked: request.Request,
    *,
    run_dir: Path,
    say: Narrator,
) -> Recognizer:
    """A model with the decoding that was asked for; it is restored when the first set needs it."""
    from parakeet_ft.evaluation.recognizer import Recognizer

    return Recognizer(
        archive,
        label=label,
        decoding=cfg["decoding"] | {"phrases": list(asked.phrases)},
        language_model=asked.language_model(cfg["language_model"]),
        long_audio=cfg["long_audio"],
        folder=run_dir / "language_models",
        device=cfg["device"],
        batch_seconds=cfg["batch_seconds"],
        warm_up_batches=cfg["warm_up_batches"],
        say=say,
    )


def transcribe_sets(
    recognizer: Recognizer, sets: dict[str, list[Utterance]], *, run_dir: Path
) -> dict[str, dict[str, Any]]:
    """What a model makes of each set, or made of it in an earlier run in this folder."""
    from parakeet_ft.evaluation import hypotheses

    return {
        name: hypotheses.once(
            run_dir / "hypotheses",
            utterances,
            model=recognizer.label,
            name=name,
            identity=recognizer.identity,
            transcribe=recognizer.transcribe,
            say=recognizer.say,
        )
        for name, utterances in sets.items()
    }


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with exit_on_user_error(), disk_told(run_dir):
        hide_secrets(run_dir)
        evaluate(OmegaConf.to_container(cfg, resolve=True), run_dir=run_dir, command=sys.argv)


if __name__ == "__main__":
    with exit_on_user_error():
        request.prepare(__doc__)
        main()
