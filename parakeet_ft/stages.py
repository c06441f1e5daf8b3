"""The stages of a fine-tuning run, each from what the one before it found.

recipes/finetune.py calls them in order. What only rank 0 does is inside the stage that does it.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from parakeet_ft import preflight
from parakeet_ft.batches import augmentation, loaders
from parakeet_ft.batches.plan import Plan, Replayed
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.distributed import ranks
from parakeet_ft.export import nemo
from parakeet_ft.model import attention, objective, parts, restore, spec_augment, vocabulary
from parakeet_ft.report import report
from parakeet_ft.report.terms import compare_terms
from parakeet_ft.run import terms
from parakeet_ft.run.console import Narrator, link_latest
from parakeet_ft.run.directory import hide_secrets
from parakeet_ft.run.provenance import Run
from parakeet_ft.scoring import normalization, selection, wer
from parakeet_ft.scoring.terms import validation_metrics
from parakeet_ft.settings import guards
from parakeet_ft.settings.finetune import Finetune
from parakeet_ft.training import (
    adaptation,
    adapters,
    bad_batches,
    batch_size,
    budget,
    callbacks,
    checkpointer,
    checkpoints,
    distillation,
    feeding,
    fine_tuner,
    loggers,
    lora,
    memory,
    optim,
    smoke,
    states,
    validation_subset,
    weight_selection,
)
from parakeet_ft.transcription import decode, encoding
from parakeet_ft.urls import masked

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

Sets = dict[str, Corpus]


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage needs: the settings, the run's directory and its record, who speaks."""

    settings: Finetune
    run_dir: Path
    run: Run
    say: Narrator
    resume_from: Path | None

    @property
    def own_dir(self) -> Path:
        """Where this rank writes what it does not share."""
        return ranks.own_directory(self.run_dir)

    @property
    def checkpoint_dir(self) -> Path:
        """Where checkpoints of all ranks are."""
        return self.run_dir / "checkpoints"

    @property
    def base_file(self) -> Path:
        """The student before any step, until best.nemo is chosen."""
        return self.checkpoint_dir / "base.ckpt"


@dataclasses.dataclass(frozen=True)
class Student:
    """The restored model on its device, and where it learns."""

    model: ASRModel
    devices: fine_tuner.Devices


@dataclasses.dataclass(frozen=True)
class Scored:
    """Transcripts and scores by set."""

    texts: dict[str, list[str]]
    scores: dict[str, wer.Score]


@dataclasses.dataclass(frozen=True)
class Watched:
    """What is scored while training and choosing: sets, the checkpoint's scores on them, the
    encoder's precision, and the domain's terms.
    """

    sets: Sets
    indices: dict[str, Sequence[int] | None]
    before: Scored
    precision: str
    terms: terms.Terms | None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What was changed of the student before it learns, and how it was until then."""

    change: vocabulary.VocabularyChange
    learning: adaptation.Learning
    teacher: distillation.Teacher | None
    base_state: states.State
    loss: str | None


@dataclasses.dataclass(frozen=True)
class Course:
    """What is learnt from, in which batches, for how long and at which rates."""

    utterances: Corpus
    plan: Plan
    batching: dict[str, Any]
    num_steps: int
    optimizer: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The trained model in its Lightning module, and its moving average where one was kept."""

    tuner: fine_tuner.FineTuner
    moving: callbacks.MovingAverage | None
    watched: Watched


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was tried for best.nemo, the winner first; the student holds its weights."""

    candidates: list[dict[str, Any]]
    best_step: int
    val_wer: float  # of the winner, in float32


def begin(settings: Finetune, *, run_dir: Path, command: list[str], say: Narrator) -> Job:
    """The run's record, and the checkpoint that it continues from, if there is one."""
    ranks.on_first(lambda: checkpoints.clear_half_written(run_dir))
    ranks.on_first(lambda: hide_secrets(run_dir))
    resume_from, damaged = ranks.on_first(
        lambda: checkpoints.newest(run_dir / "checkpoints"), patient=True
    )
    say.lines(damaged)
    run = Run(
        run_dir,
        command=list(map(masked, command)),
        config=settings.as_config(),
        manifests=preflight.set_facts(settings.data),
        identity=preflight.identity_of(settings),
        resumed_at_step=checkpoints.step_of(resume_from) if resume_from else None,
        say=say.lines,
    )
    fine_tuner.seed_everything(settings.seed)
    return Job(settings, run_dir, run, say, resume_from)


def restore_student(job: Job, sets: Sets) -> Student:
    """The checkpoint as a model on its device, with the attention and masks of the settings."""
    settings, say = job.settings.model, job.say
    say.phase(f"restoring {settings.source}")
    model = restore.restore(settings.source)
    say.lines([f"decoding: {model.cfg.decoding.strategy}"])
    attention.set_attention(model, **settings.attention_arguments())
    objective.set_ctc_loss_weight(model, settings.ctc_loss_weight)
    spec_augment.set_spec_augment(model, **settings.spec_augment.arguments())
    devices = fine_tuner.resolve(**job.settings.trainer.arguments())
    model.to(devices["device"])
    attention.reserve_positions(model, seconds=preflight.longest_seconds(job.settings.data, sets))
    return Student(model, devices)


def score_before(job: Job, student: Student, sets: Sets) -> Scored:
    """The checkpoint as it is; decoded once, also for a run that is continued."""
    job.say.phase("scoring the checkpoint as it is")
    texts = job.run.once("baseline", lambda: _decode(job, student.model, sets))
    found = _score(job, texts, sets)
    job.say.scores(found.scores)
    return found


def _decode(job: Job, model: ASRModel, sets: Sets) -> dict[str, list[str]]:
    return decode.transcribe_sets(model, sets, batch_seconds=job.settings.evaluation.batch_seconds)


def _score(job: Job, texts: dict[str, list[str]], sets: Sets) -> Scored:
    normalizer = normalization.Normalizer(job.settings.evaluation.language)
    scores = {
        key: wer.score([u.text for u in sets[key]], found, normalizer=normalizer)
        for key, found in texts.items()
    }
    return Scored(texts, scores)


def prepare_student(job: Job, student: Student, sets: Sets) -> Prepared:
    """Vocabulary, what learns and the loss, in place.

    The order matters: the teacher is a copy of the untouched checkpoint; what learns is decided on
    the new vocabulary's layers; the state that is interpolated with has all of them, and is the one
    before any step; the loss reads the final size of the joint.
    """
    settings, model = job.settings, student.model
    job.say.phase(f"preparing: tokenizer {settings.tokenizer.mode}, what learns, data")
    teacher = distillation.build_teacher(model, **settings.distillation.arguments())
    texts = sets["train"].spoken()
    change = vocabulary.adapt_vocabulary(
        model,
        texts=texts,
        workdir=job.own_dir,
        **settings.tokenizer.arguments(),
    )
    job.say.lines(change.lines(texts=texts))
    learning = adaptation.set_learning(
        model, num_new_pieces=len(change.new), **settings.adaptation.arguments()
    )
    # A smoke test compares with nothing.
    kept = {} if settings.smoke else checkpoints.keep_base(model, job.base_file)
    loss = fine_tuner.use_loss_for(
        model, device=student.devices["device"], precision=student.devices["precision"]
    )
    job.say.lines([f"trained with: {loss or 'the same loss'}"])
    return Prepared(change, learning, teacher, kept, loss)


def plan_course(job: Job, student: Student, prepared: Prepared, sets: Sets) -> Course:
    """Batches, steps and rates."""
    settings, model, devices = job.settings, student.model, student.devices
    utterances = preflight.learnt_from(sets)
    augment = augmentation.build(seed=settings.seed, **settings.data.augmentation.arguments())
    config, num_ranks = settings.as_config(), devices["num_ranks"]
    devices["activation_checkpointing"] = ranks.on_first(
        lambda: memory.computes_twice(config, utterances, num_ranks=num_ranks)
    )
    copies = [prepared.teacher, settings.evaluation.ema_decay]
    batching = batch_size.choose(
        model,
        utterances,
        batch_seconds=memory.batch_seconds_on(
            settings.data.batch_seconds,
            device=devices["accelerator"],
            strategy=devices["strategy"],
        ),
        effective_batch_seconds=settings.data.effective_batch_seconds,
        accumulate=settings.optim.accumulate,
        augmentation=augment,
        devices=devices,
        once=job.run.once,
        states=settings.optim.states,
        copies=sum(map(bool, copies)),
    )
    ratios = settings.data.replay_ratios()
    plan = Plan(
        utterances,
        num_domain=len(sets["train"]),
        replays=[
            Replayed(len(corpus), ratios[key], name=key)
            for key, corpus in preflight.replayed(sets).items()
        ],
        batch_seconds=batching["batch_seconds"],
        seed=settings.seed,
        num_ranks=devices["num_ranks"],
        augmentation=augment,
    )
    accumulate = batching["accumulate"]
    num_steps = budget.num_steps(plan, accumulate=accumulate, **settings.budget.arguments())
    optimizer = optim.settings(
        model,
        hours_per_pass=plan.hours_of_pass,
        num_new_pieces=len(prepared.change.new),
        num_steps=num_steps,
        **settings.optim.arguments() | {"accumulate": accumulate},
    )
    return Course(utterances, plan, batching, num_steps, optimizer)


def smoke_test(job: Job, student: Student, course: Course, sets: Sets) -> dict[str, Any]:
    """One small batch by heart, instead of a run; returns what was found."""
    job.say.phase("smoke test: learning one small batch by heart")
    found = smoke.overfit(
        student.model,
        smoke.choose(sets["train"]),
        settings=course.optimizer,
        precision=student.devices["precision"],
    )
    return smoke.tell(found, say=job.say, run=job.run)


def fit(
    job: Job,
    student: Student,
    prepared: Prepared,
    course: Course,
    before: Scored,
    sets: Sets,
    extra_callbacks: Sequence[pl.Callback] = (),
) -> Fitted:
    """Training, from where it was stopped if it was."""
    settings, devices = job.settings, student.devices
    watched = _watched(job, student, before, sets)
    tuner = _build_tuner(job, student, prepared, course, watched)
    reading = feeding.choose_workers(
        settings.data.num_workers, course.plan, student.model, course.batching
    )
    loader = loaders.train_loader(
        course.plan,
        student.model,
        num_batches=course.num_steps * course.optimizer["accumulate"],
        num_workers=reading.num_workers,
        rank=ranks.rank(),
        start=checkpoints.position_of(job.resume_from),
    )
    _record_course(job, student, prepared, course, tuner, loader)
    job.run.record(feeding=reading.facts())
    job.say.lines([reading.line()])
    job.say.phase("fine-tuning")
    if job.resume_from:
        checkpoints.check_same_model(job.resume_from, student.model)
        job.say.lines([f"continuing from {job.resume_from.name}"])
    decay = settings.evaluation.ema_decay
    moving = callbacks.MovingAverage(decay=decay) if decay else None
    saver = checkpointer.Checkpointer(
        job.checkpoint_dir,
        **settings.checkpoint.arguments(),
        keep_weights=settings.evaluation.average_last or 1,
        timeout_minutes=settings.trainer.timeout_minutes,
        say=job.say.lines,
    )
    fine_tuner.fit(
        tuner,
        loader,
        num_steps=course.num_steps,
        validations=settings.evaluation.validations,
        gradient_clip=settings.optim.gradient_clip,
        accumulate=course.optimizer["accumulate"],
        devices=devices,
        callbacks=[
            adaptation.Unfreezing(prepared.learning),
            *([moving] if moving else []),
            *_watching(job, devices, prepared, course, watched),
            feeding.Waiting(job.say, job.run.record, loader, reading),
            *extra_callbacks,
            saver,
        ],
        loggers=loggers.build(
            **settings.logger.arguments(),
            run_dir=job.run_dir,
            experiment=settings.name,
            resume_step=checkpoints.step_of(job.resume_from) if job.resume_from else 0,
        ),
        resume_from=job.resume_from,
    )
    job.run.record(checkpoints=saver.facts())
    return Fitted(tuner, moving, watched)


def _watched(job: Job, student: Student, before: Scored, sets: Sets) -> Watched:
    """What validations score, said and recorded; the checkpoint's texts of it are there already."""
    asked = job.settings.evaluation
    precision = encoding.resolve_precision(str(asked.precision), parts.device(student.model))
    indices = validation_subset.choose_all(sets, hours=asked.subset_hours, seed=job.settings.seed)
    part = {
        key: sets[key] if taken is None else Corpus.of(sets[key][i] for i in taken)
        for key, taken in indices.items()
    }
    texts = {key: _taken(before.texts[key], taken) for key, taken in indices.items()}
    subset = validation_subset.facts(sets, indices)
    job.run.record(evaluation={"precision": precision, "final_precision": "32", "subset": subset})
    references = [u.text for u in part["validation"]]
    named = terms.resolve(asked, sets, references=references)
    if named:
        job.run.record(terms=named.facts())
        job.say.lines(named.lines())
    if precision != "32":
        job.say.lines([f"validations in {precision}, the figures before and after in float32"])
    if subset:
        job.say.lines([validation_subset.line(subset)])
    return Watched(part, indices, _score(job, texts, part), precision, named)


def _taken(texts: Sequence[str], indices: Sequence[int] | None) -> list[str]:
    """Those of a subset; None: all."""
    return list(texts) if indices is None else [texts[i] for i in indices]


def _build_tuner(
    job: Job, student: Student, prepared: Prepared, course: Course, watched: Watched
) -> fine_tuner.FineTuner:
    settings = job.settings
    bad = bad_batches.BadBatches(
        job.run_dir / "bad_batches.jsonl",
        course.plan,
        most=settings.optim.max_bad_batches,
        say=job.say.lines,
    )
    return fine_tuner.FineTuner(
        student.model,
        settings=course.optimizer,
        sets=watched.sets,
        base=watched.before.scores,
        batch_seconds=settings.evaluation.batch_seconds,
        judge=_judge(settings, watched),
        terms=watched.terms.terms if watched.terms else (),
        teacher=prepared.teacher,
        bad_batches=bad,
        precision=student.devices["precision"],
        scoring_precision=watched.precision,
        seed=settings.seed,
    )


def _judge(settings: Finetune, watched: Watched) -> selection.Judge:
    """Who decides between weights, by the checkpoint's transcripts of the validation sets."""
    found = {
        key: selection.Reference.of(watched.sets[key], texts)
        for key, texts in watched.before.texts.items()
    }
    if watched.terms:
        found["validation"] = dataclasses.replace(
            found["validation"], terms=watched.terms.terms, terms_weight=watched.terms.weight
        )
    tolerances = settings.guard_tolerances()
    return selection.Judge(
        domain=found["validation"],
        guards={
            name: (found[key], tolerances[name])
            for name, key in guards.roles(found, "validation").items()
        },
        most_risk=settings.evaluation.guard_risk,
    )


def _record_course(
    job: Job,
    student: Student,
    prepared: Prepared,
    course: Course,
    tuner: fine_tuner.FineTuner,
    loader: Any,
) -> None:
    """Store and print the effective settings, read back from the live objects."""
    plan, num_steps, teacher = course.plan, course.num_steps, prepared.teacher
    job.run.record(
        model=restore.describe(student.model),
        vocabulary=dataclasses.asdict(prepared.change),
        adaptation=prepared.learning.facts(num_steps=num_steps),
        loss=prepared.loss,
        distillation=teacher and teacher.follow(student.model),
        trainer=student.devices,
        batching=course.batching | plan.describe(),
        augmentation=loaders.augmentation_facts(loader),
        guards=_guard_facts(tuner.judge, plan),
        optimizer=course.optimizer | {"groups": optim.describe(tuner.optimizer)},
        budget=budget.describe(
            plan, num_steps=num_steps, accumulate=course.optimizer["accumulate"]
        ),
    )
    job.say.facts(job.run.content["effective"])


def _guard_facts(judge: selection.Judge | None, plan: Plan) -> dict[str, Any]:
    """Tolerance and replay of each guard that is watched, as judge and plan have them."""
    ratios = plan.replay_ratios()
    return {
        name: {"tolerance": tolerance, "replay_ratio": ratios.get(guards.role(name, "replay"), 0.0)}
        for name, (_, tolerance) in (judge.guards if judge else {}).items()
    }


def _watching(
    job: Job,
    devices: fine_tuner.Devices,
    prepared: Prepared,
    course: Course,
    watched: Watched,
) -> list[pl.Callback]:
    """What looks on and tells, and may end the run early."""
    evaluation, change, before = job.settings.evaluation, prepared.change, watched.before
    return [
        callbacks.Recorded(devices, job.run.record),
        callbacks.LossParts(job.say, job.run.record),
        callbacks.ProgressBar(job.say, num_steps=course.num_steps),
        callbacks.Watch(
            job.say,
            alarm_after=evaluation.alarm_after,
            patience=evaluation.patience,
            settling=len(change.new) > change.num_kept or before.scores["validation"].wer >= 1,
            tolerances=job.settings.guard_tolerances(),
        ),
        callbacks.Hypotheses(
            job.run_dir / "hypotheses.jsonl",
            watched.sets["validation"],
            before=before.texts["validation"],
        ),
    ]


def choose_weights(
    job: Job, student: Student, prepared: Prepared, course: Course, fitted: Fitted
) -> Chosen:
    """The weights of the best validation, the base, or between; in the student afterwards.

    last.nemo is saved first: whatever is chosen, the end of training is kept.
    """
    say, model, tuner = job.say, student.model, fitted.tuner
    say.phase("choosing between checkpoints and interpolations with the base")
    _record_training(job, student, prepared, course, tuner)
    plain = lora.merge(model)
    ranks.on_first(lambda: nemo.save_nemo(model, job.run_dir / "last.nemo"), patient=True)
    model.to(student.devices["device"])  # Lightning leaves it on the CPU
    best_step = checkpoints.best_step(tuner.history)
    last = _last_weights(job, fitted, plain)
    at = functools.partial(
        weight_selection.interpolated,
        plain(prepared.base_state),
        last,
        last_step=tuner.global_step,
    )
    candidates = weight_selection.choose_weights(
        model,
        _candidates(job, fitted, plain, best_step, at=at, last=last),
        evaluate=tuner.evaluate,
        at=at,
        step=job.settings.evaluation.interpolation_step,
    )
    val_wer = candidates[0]["val_wer"]
    if tuner.scoring_precision != "32":
        tuner.scoring_precision = "32"
        val_wer = tuner.evaluate()["val_wer"]
    ranks.add([])  # no rank reads it any more
    ranks.on_first(lambda: job.base_file.unlink(missing_ok=True))
    say.candidates(candidates)
    if prepared.change.new and job.settings.evaluation.interpolation:
        say.lines(
            [
                "interpolation of checkpoints with new pieces works like a switch: the base "
                "never wrote them, so one alpha may write",
                "them all and the next none; if best.nemo lost what last.nemo has, compare "
                "both with recipes/evaluate.py",
            ]
        )
    return Chosen(candidates, best_step, val_wer)


def _record_training(
    job: Job,
    student: Student,
    prepared: Prepared,
    course: Course,
    tuner: fine_tuner.FineTuner,
) -> None:
    """Store what training moved, skipped and took. Raises UserError if it moved too little."""
    learned = adaptation.check_learned(
        prepared.base_state,
        student.model.state_dict(),
        learning=prepared.learning,
        step=tuner.global_step,
        num_steps=course.num_steps,
        precision=student.devices["precision"],
    )
    assert tuner.bad_batches is not None
    job.run.record(
        learned=learned,
        bad_batches=tuner.bad_batches.facts(),
        memory=memory.facts(
            job.settings.as_config(),
            course.utterances,
            num_ranks=student.devices["num_ranks"],
            peak_gb=callbacks.memory_gb(),
        ),
    )
    job.say.lines([adaptation.learned_line(learned)])


def _candidates(
    job: Job,
    fitted: Fitted,
    plain: Callable[[states.State], states.State],
    best_step: int,
    *,
    at: Callable[[float], weight_selection.Candidate],
    last: states.State,
) -> list[weight_selection.Candidate]:
    """All weights that could be best.nemo, in their files until they are tried. plain: gives what
    was added for learning its place in the checkpoint's own weights.
    """
    evaluation, moving = job.settings.evaluation, fitted.moving
    read = functools.cache(lambda step: plain(checkpoints.read_weights(job.checkpoint_dir, step)))
    average = plain(moving.weights()) if moving else {}
    recent = [checkpoints.step_of(path) for path in checkpoints.find(job.checkpoint_dir, "weights")]
    return weight_selection.candidates(
        at=at,
        alphas=evaluation.interpolation,
        best_step=best_step,
        recent_steps=recent[-(evaluation.average_last or 1) :],
        read=read,
        moving_average=moving and (moving.describe(), lambda: states.over(average, last)),
    )


def _last_weights(
    job: Job, fitted: Fitted, plain: Callable[[states.State], states.State]
) -> states.State:
    """Those of the last step, from its checkpoint, in the precision that the student is left in."""
    name = f"resume-step={fitted.tuner.global_step:06d}.ckpt"
    return plain(states.float32(checkpoints.model_state(job.checkpoint_dir / name)))


def export_and_rescore(job: Job, student: Student, sets: Sets) -> Scored:
    """best.nemo, restored from disk and scored as anyone would find it."""
    job.say.phase("exporting and scoring best.nemo, restored from disk")
    best = job.run_dir / "best.nemo"
    ranks.on_first(lambda: nemo.save_nemo(student.model, best), patient=True)
    beside = job.run_dir / "adapters.pt"
    ranks.on_first(lambda: adapters.save(student.model, beside), patient=True)
    exported = restore.restore(str(best)).to(student.devices["device"])
    return _score(job, _decode(job, exported, sets), sets)


def write_report(
    job: Job, fitted: Fitted, chosen: Chosen, before: Scored, after: Scored, sets: Sets
) -> dict[str, Any]:
    """The report, `latest`, and the end of the run's record; returns what report.json holds.

    A run that is worse than its checkpoint, or whose export is not what was chosen, is reported but
    does not become `latest`.
    """
    evaluation, run, say = job.settings.evaluation, job.run, job.say
    result = ranks.on_first(
        lambda: report.build_report(
            name=job.settings.name,
            command=shlex.join(["python", *run.content["command"]]),
            run=run.content,
            sets=sets,
            before=before.texts,
            after=after.texts,
            base=before.scores,
            base_watched=fitted.watched.before.scores,
            tuned=after.scores,
            history=fitted.tuner.history,
            candidates=chosen.candidates,
            best_step=chosen.best_step,
            steps=fitted.tuner.global_step,
            guard_tolerance=evaluation.guard_tolerance,
            guard_tolerances=job.settings.guard_tolerances(),
            problem=_problem(job, fitted.watched, chosen, before, after, sets),
            terms=_terms(fitted.watched, before, after, sets),
        )
    )
    ranks.on_first(lambda: report.write_report(result, job.run_dir, examples=evaluation.examples))
    say.end_phase()
    if not result["problem"]:
        ranks.on_first(lambda: link_latest(job.run_dir))
    run.finish(say.phases)  # last: a run that is finished is not continued
    say.finish(result, job.run_dir)
    return result


def _terms(watched: Watched, before: Scored, after: Scored, sets: Sets) -> dict[str, Any] | None:
    """What was won of the domain's terms, for the report; None without terms."""
    if watched.terms is None or not watched.terms.terms:
        return None
    named = watched.terms.terms
    references = [u.text for u in watched.sets["validation"]]
    found = compare_terms(sets["test"], before.texts["test"], after.texts["test"], terms=named)
    seen = validation_metrics(references, watched.before.texts["validation"], named)
    return found | {"watched": seen, "weight": watched.terms.weight, "origin": watched.terms.origin}


def _problem(
    job: Job, watched: Watched, chosen: Chosen, before: Scored, after: Scored, sets: Sets
) -> str | None:
    """Why the exported model shall not be used, or None."""
    worse = report.problem(
        sets["validation"], before.texts["validation"], after.texts["validation"]
    )
    texts = _taken(after.texts["validation"], watched.indices["validation"])
    found = _score(job, {"validation": texts}, watched.sets).scores["validation"]
    return worse or nemo.irreproducible(found.wer, chosen.val_wer, words=found.words)
