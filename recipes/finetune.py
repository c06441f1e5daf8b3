"""Fine-tune a Parakeet checkpoint to a domain.

    python recipes/finetune.py               the bundled demo, a few minutes on a CPU
    python recipes/finetune.py model=parakeet_ctc_0.6b data.train=a.jsonl data.validation=b.jsonl
    python recipes/finetune.py model=path/to/any.nemo data.train=a.jsonl data.validation=b.jsonl \\
        data.replay.manifest=general.jsonl
    python recipes/finetune.py smoke=true    learns one small batch by heart: do model, loss and
                                             data work together?

Writes outputs/<name>/<time>/ with best.nemo, last.nemo, report.html, report.json, run.json,
metrics.csv and run.log, and points outputs/<name>/latest at it.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import hydra

from parakeet_ft import preflight
from parakeet_ft.distributed import ranks
from parakeet_ft.errors import NotBetter, exit_on_user_error
from parakeet_ft.run import signals
from parakeet_ft.settings.finetune import attention_arguments
from parakeet_ft.training import adapters, budget, memory


def finetune(cfg: dict[str, Any], *, run_dir: Path, command: list[str]) -> dict[str, Any]:
    """One fine-tuning run, from manifests to report; returns what report.json holds."""
    from parakeet_ft.run.console import Narrator, libraries_to, link_latest

    own_dir = ranks.own_directory(run_dir)
    with libraries_to(own_dir / "run.log") as terminal:
        say = Narrator(terminal)
        say.phase("importing NeMo and torch")
        from parakeet_ft.batches import augmentation, loaders
        from parakeet_ft.export import nemo
        from parakeet_ft.model import attention, objective, restore, spec_augment, vocabulary
        from parakeet_ft.report import report
        from parakeet_ft.run.provenance import Run
        from parakeet_ft.scoring import normalization, wer
        from parakeet_ft.training import (
            adaptation,
            bad_batches,
            batch_size,
            callbacks,
            checkpoints,
            distillation,
            fine_tuner,
            loggers,
            lora,
            optim,
            weight_selection,
        )
        from parakeet_ft.transcription import decode

        sets = preflight.read_manifests(cfg)
        ranks.on_first(lambda: checkpoints.clear_half_written(run_dir))
        resume_from, damaged = ranks.on_first(lambda: checkpoints.newest(run_dir / "checkpoints"))
        say.lines(damaged)
        resume_step = checkpoints.step_of(resume_from) if resume_from else 0
        run = Run(
            run_dir,
            command=command,
            config=cfg,
            manifests=preflight.manifest_paths(cfg),
            identity=preflight.identity_of(cfg),
            resumed_at_step=resume_step if resume_from else None,
            say=say.lines,
        )
        fine_tuner.seed_everything(cfg["seed"])
        data, optimization, evaluation = cfg["data"], cfg["optim"], cfg["evaluation"]
        normalizer = normalization.Normalizer(evaluation["language"])

        say.phase(f"restoring {cfg['model']['source']}")
        model = restore.restore(cfg["model"]["source"])
        say.lines([f"decoding: {model.cfg.decoding.strategy}"])
        attention.set_attention(model, **attention_arguments(cfg["model"]))
        objective.set_ctc_loss_weight(model, cfg["model"]["ctc_loss_weight"])
        spec_augment.set_spec_augment(model, **cfg["model"]["spec_augment"])
        devices = fine_tuner.resolve(**cfg["trainer"])
        model.to(devices["device"])
        attention.reserve_positions(model, seconds=preflight.longest_seconds(cfg, sets))

        if not cfg["smoke"]:
            say.phase("scoring the checkpoint as it is")
            before = run.once(
                "baseline",
                lambda: decode.transcribe_sets(
                    model, sets, batch_seconds=evaluation["batch_seconds"]
                ),
            )
            base = {
                key: wer.score([u.text for u in sets[key]], texts, normalizer=normalizer)
                for key, texts in before.items()
            }
            say.scores(base)

        say.phase(f"preparing: tokenizer {cfg['tokenizer']['mode']}, what learns, data")
        teacher = distillation.build_teacher(model, **cfg["distillation"])
        change = vocabulary.adapt_vocabulary(
            model, texts=[u.text for u in sets["train"]], workdir=own_dir, **cfg["tokenizer"]
        )
        say.lines(change.lines())
        learning = adaptation.set_learning(
            model, num_new_pieces=len(change.new), **cfg["adaptation"]
        )
        base_state = weight_selection.copy_state(model)
        loss = fine_tuner.use_loss_for(
            model, device=devices["device"], precision=devices["precision"]
        )
        utterances, augment = (
            sets["train"] + sets.get("replay", []),
            augmentation.build(seed=cfg["seed"], **data["augmentation"]),
        )
        batches = batch_size.choose(
            model,
            utterances,
            batch_seconds=data["batch_seconds"],
            effective_batch_seconds=data["effective_batch_seconds"],
            accumulate=optimization["accumulate"],
            augmentation=augment,
            devices=devices,
            once=run.once,
            copies=bool(teacher) + bool(evaluation["ema_decay"]) + (devices["num_ranks"] > 1),
        )
        optimization = optimization | {"accumulate": batches["accumulate"]}
        plan = loaders.Plan(
            utterances,
            num_domain=len(sets["train"]),
            replay_ratio=data["replay"]["ratio"],
            batch_seconds=batches["batch_seconds"],
            seed=cfg["seed"],
            num_ranks=devices["num_ranks"],
            augmentation=augment,
        )
        num_steps = budget.num_steps(plan, accumulate=optimization["accumulate"], **cfg["budget"])
        settings = optim.settings(
            model,
            hours_per_pass=plan.hours_of_pass,
            num_new_pieces=len(change.new),
            num_steps=num_steps,
            **optimization,
        )
        if cfg["smoke"]:
            from parakeet_ft.training import smoke

            say.phase("smoke test: learning one small batch by heart")
            return smoke.tell(
                smoke.overfit(
                    model,
                    smoke.choose(sets["train"]),
                    settings=settings,
                    precision=devices["precision"],
                ),
                say=say,
                run=run,
            )

        bad = bad_batches.BadBatches(
            run_dir / "bad_batches.jsonl", plan, most=optimization["max_bad_batches"], say=say.lines
        )
        loader = loaders.train_loader(
            plan,
            model,
            num_batches=num_steps * optimization["accumulate"],
            num_workers=data["num_workers"],
            rank=ranks.rank(),
            start=checkpoints.position_of(resume_from),
        )
        tuner = fine_tuner.FineTuner(
            model,
            settings=settings,
            sets=sets,
            base=base,
            guard_tolerance=evaluation["guard_tolerance"],
            batch_seconds=evaluation["batch_seconds"],
            teacher=teacher,
            bad_batches=bad,
            precision=devices["precision"],
            seed=cfg["seed"],
        )
        followed = teacher and teacher.follow(model)
        run.record(
            model=restore.describe(model),
            vocabulary=dataclasses.asdict(change),
            adaptation=learning.facts(num_steps=num_steps),
            loss=loss,
            distillation=followed,
            trainer=devices,
            batching=batches | plan.describe(),
            augmentation=loaders.augmentation_facts(loader),
            optimizer=settings | {"groups": optim.describe(tuner.optimizer)},
            budget=budget.describe(
                plan, num_steps=num_steps, accumulate=optimization["accumulate"]
            ),
        )
        say.facts(run.content["effective"])

        say.phase("fine-tuning")
        if resume_from:
            checkpoints.check_same_model(resume_from, model)
            say.lines([f"continuing from {resume_from.name}"])
        checkpointer = checkpoints.Checkpointer(
            run_dir / "checkpoints",
            **cfg["checkpoint"],
            keep_weights=evaluation["average_last"] or 1,
        )
        moving = (
            callbacks.MovingAverage(decay=evaluation["ema_decay"])
            if evaluation["ema_decay"]
            else None
        )
        watching = [
            callbacks.LossParts(say, run.record),
            callbacks.ProgressBar(say, num_steps=num_steps),
            callbacks.Watch(
                say,
                alarm_after=evaluation["alarm_after"],
                patience=evaluation["patience"],
                settling=len(change.new) > change.num_kept or base["validation"].wer >= 1,
            ),
            callbacks.Hypotheses(
                run_dir / "hypotheses.jsonl", sets["validation"], before=before["validation"]
            ),
        ]
        fine_tuner.fit(
            tuner,
            loader,
            num_steps=num_steps,
            validations=evaluation["validations"],
            gradient_clip=optimization["gradient_clip"],
            accumulate=optimization["accumulate"],
            devices=devices,
            callbacks=[
                adaptation.Unfreezing(learning),
                *([moving] if moving else []),
                *watching,
                checkpointer,
            ],
            loggers=loggers.build(
                **cfg["logger"], run_dir=run_dir, experiment=cfg["name"], resume_step=resume_step
            ),
            resume_from=resume_from,
        )

        say.phase("choosing between checkpoints and interpolations with the base")
        run.record(
            learned=adaptation.check_learned(
                base_state,
                model.state_dict(),
                learning=learning,
                step=tuner.global_step,
                num_steps=num_steps,
                precision=devices["precision"],
            ),
            bad_batches=bad.facts(),
            memory=memory.facts(
                cfg, utterances, num_ranks=devices["num_ranks"], peak_gb=callbacks.memory_gb()
            ),
        )
        say.lines([adaptation.learned_line(run.content["effective"]["learned"])])
        plain = lora.merge(model)
        ranks.on_first(lambda: nemo.save_nemo(model, run_dir / "last.nemo"))
        model.to(devices["device"])  # Lightning leaves it on the CPU
        best_step = checkpoints.best_step(tuner.history)
        last_state = weight_selection.copy_state(model)
        recent = [
            checkpoints.step_of(path)
            for path in checkpoints.find(run_dir / "checkpoints", "weights")
        ][-(evaluation["average_last"] or 1) :]
        candidates = weight_selection.choose_weights(
            model,
            weight_selection.candidates(
                base=plain(base_state),
                last=last_state,
                last_step=tuner.global_step,
                alphas=evaluation["interpolation"],
                best_step=best_step,
                recent_steps=recent,
                read=lambda step: plain(checkpoints.read_weights(run_dir / "checkpoints", step)),
                moving_average=moving
                and (moving.describe(), lambda: last_state | plain(moving.weights())),
            ),
            evaluate=tuner.evaluate,
        )
        say.candidates(candidates)
        if change.new and evaluation["interpolation"]:
            say.lines(
                [
                    "interpolation of checkpoints with new pieces works like a switch: the base "
                    "never wrote them, so one alpha may write",
                    "them all and the next none; if best.nemo lost what last.nemo has, compare "
                    "both with recipes/evaluate.py",
                ]
            )

        say.phase("exporting and scoring best.nemo, restored from disk")
        ranks.on_first(lambda: nemo.save_nemo(model, run_dir / "best.nemo"))
        ranks.on_first(lambda: adapters.save(model, run_dir / "adapters.pt"))
        tuned_model = restore.restore(str(run_dir / "best.nemo")).to(devices["device"])
        after = decode.transcribe_sets(tuned_model, sets, batch_seconds=evaluation["batch_seconds"])
        tuned = {
            key: wer.score([u.text for u in sets[key]], texts, normalizer=normalizer)
            for key, texts in after.items()
        }
        problem = report.problem(sets["validation"], before["validation"], after["validation"])
        problem = problem or nemo.irreproducible(
            tuned["validation"].wer, candidates[0]["val_wer"], words=tuned["validation"].words
        )
        result = ranks.on_first(
            lambda: report.build_report(
                name=cfg["name"],
                command=shlex.join(["python", *command]),
                run=run.content,
                sets=sets,
                before=before,
                after=after,
                base=base,
                tuned=tuned,
                history=tuner.history,
                candidates=candidates,
                best_step=best_step,
                steps=tuner.global_step,
                guard_tolerance=evaluation["guard_tolerance"],
                problem=problem,
            )
        )
        ranks.on_first(
            lambda: report.write_report(result, run_dir, examples=evaluation["examples"])
        )
        say.end_phase()
        if not problem:
            ranks.on_first(lambda: link_latest(run_dir))
        run.finish(say.phases)  # last: a run that is finished is not continued
        say.finish(result, run_dir)
    return result


@hydra.main(version_base="1.3", config_path="../conf", config_name="finetune")
def main(cfg) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    kept = f"What is finished is kept in {run_dir}."
    with (
        exit_on_user_error(),
        ranks.ending_together(run_dir),
        signals.ending_in_words(kept),
    ):
        result = finetune(OmegaConf.to_container(cfg, resolve=True), run_dir=run_dir, command=typed)
        if cfg.smoke and not result["passed"]:
            sys.exit(1)
        if result.get("problem"):
            raise NotBetter(result["problem"])


if __name__ == "__main__":
    typed = list(sys.argv)
    with exit_on_user_error(), signals.ending_in_words():
        with ranks.one_voice(), exit_on_user_error():
            preflight.prepare("finetune", __doc__)
        main()
