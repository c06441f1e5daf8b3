"""Fine-tune a Parakeet checkpoint to a domain.

    python recipes/finetune.py              the bundled demo, minutes on a CPU
    python recipes/finetune.py model=parakeet_ctc_0.6b data.train=a.jsonl \\
        data.validation=b.jsonl
    python recipes/finetune.py model=path/to/any.nemo data.train=a.jsonl \\
        data.validation=b.jsonl data.replay.manifest=general.jsonl
    python recipes/finetune.py smoke=true   learns one small batch by heart: do
                                            model, loss and data work together?

Writes outputs/<name>/<time>/ with best.nemo, last.nemo, report.html,
report.json, run.json, metrics.csv and run.log, and points outputs/<name>/latest
at it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra

from parakeet_ft import preflight
from parakeet_ft.distributed import ranks
from parakeet_ft.errors import NotBetter, exit_on_user_error
from parakeet_ft.run import signals
from parakeet_ft.run.console import Narrator, libraries_to
from parakeet_ft.run.directory import lost_audio_told, what_is_kept
from parakeet_ft.settings.finetune import Finetune, read_finetune

if TYPE_CHECKING:
    import lightning.pytorch as pl


def finetune(
    settings: Finetune,
    *,
    run_dir: Path,
    command: list[str],
    callbacks: Sequence["pl.Callback"] = (),
) -> dict[str, Any]:
    """One fine-tuning run, from manifests to report; returns what report.json holds.

    callbacks: Lightning callbacks that look on while it trains.
    """
    log = ranks.own_directory(run_dir) / "run.log"
    with libraries_to(log) as terminal, lost_audio_told(run_dir):
        say = Narrator(terminal)
        say.phase("importing NeMo and torch")
        from parakeet_ft import stages

        sets = preflight.read_manifests(settings.data)
        job = stages.begin(settings, run_dir=run_dir, command=command, say=say)
        student = stages.restore_student(job, sets)
        if settings.smoke:
            prepared = stages.prepare_student(job, student, sets)
            course = stages.plan_course(job, student, prepared, sets)
            return stages.smoke_test(job, student, course, sets)
        before = stages.score_before(job, student, sets)
        prepared = stages.prepare_student(job, student, sets)
        course = stages.plan_course(job, student, prepared, sets)
        fitted = stages.fit(job, student, prepared, course, before, sets, callbacks)
        chosen = stages.choose_weights(job, student, prepared, course, fitted)
        after = stages.export_and_rescore(job, student, sets)
        return stages.write_report(job, fitted, chosen, before, after, sets)


@hydra.main(version_base="1.3", config_path="../conf", config_name="finetune")
def main(cfg) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with (
        exit_on_user_error(),
        ranks.ending_together(run_dir),
        signals.ending_in_words(lambda: what_is_kept(run_dir)),
    ):
        settings = read_finetune(OmegaConf.to_container(cfg, resolve=True))
        result = finetune(settings, run_dir=run_dir, command=typed)
        if settings.smoke and not result["passed"]:
            sys.exit(1)
        if result.get("problem"):
            raise NotBetter(result["problem"])


if __name__ == "__main__":
    typed = list(sys.argv)
    with exit_on_user_error(), signals.ending_in_words():
        with ranks.one_voice(), exit_on_user_error():
            preflight.prepare("finetune", __doc__)
        main()
