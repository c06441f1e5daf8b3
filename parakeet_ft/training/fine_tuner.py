"""Training: a Lightning module around a NeMo model, and the Trainer that fits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from parakeet_ft.batches.loaders import as_float
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.distributed import ranks, sharding
from parakeet_ft.errors import UserError
from parakeet_ft.model import checkpointing, parts
from parakeet_ft.model.objective import (
    prediction_network_runs_in_float32,
    training_loss,
)
from parakeet_ft.run import signals
from parakeet_ft.scoring import selection, wer
from parakeet_ft.scoring.forgotten import guard_wers, rates_of
from parakeet_ft.scoring.terms import validation_metrics
from parakeet_ft.settings.guards import roles
from parakeet_ft.training import bad_batches, budget, driver, lightning_2_4, watch
from parakeet_ft.training.bad_batches import BadBatches
from parakeet_ft.training.checkpoints import WholeFiles
from parakeet_ft.training.distillation import Teacher
from parakeet_ft.training.optim import build_optimizer
from parakeet_ft.training.verdicts import Known, Verdicts
from parakeet_ft.transcription.decode import transcribe
from parakeet_ft.transcription.encoding import float32_products


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, loader workers included."""
    pl.seed_everything(seed, workers=True, verbose=False)


PRECISIONS = {
    "32": "32-true",
    "32-true": "32-true",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
    "16-mixed": "16-mixed",
}


class Devices(TypedDict):
    """What runs where: `resolve`'s answer. devices are those of one node, devices_found what it
    has.
    """

    accelerator: str
    device: str
    devices: int
    num_nodes: int
    num_ranks: int
    devices_found: int
    strategy: str
    precision: str
    timeout_minutes: float
    tf32: bool
    activation_checkpointing: bool | str


def resolve(
    *,
    accelerator: str,
    devices: int | str,
    num_nodes: int | str,
    strategy: str,
    precision: str | int,
    timeout_minutes: float,
    tf32: bool,
    activation_checkpointing: bool | str,
) -> Devices:
    """What `auto` means here: accelerator, device, ranks, strategy and precision; of activation
    checkpointing parakeet_ft.training.memory says it. Raises UserError for what this machine or
    these ranks are not.
    """
    place = ranks.find_place()
    _check_started("devices", devices, place.ranks_per_node)
    _check_started("num_nodes", num_nodes, place.num_nodes)
    if accelerator == "auto":
        driver.check_seen(accelerator)
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator=gpu, but torch sees no GPU here. Use trainer=auto, or install a "
            "CUDA build of torch."
        )
    if precision == "auto":
        precision = (
            "32-true"
            if accelerator == "cpu"
            else "bf16-mixed"
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else "16-mixed"
        )
    precision = PRECISIONS[str(precision)]
    if precision == "16-mixed" and (accelerator == "cpu" or strategy == "fsdp"):
        raise UserError(
            f"trainer.precision=16-mixed works neither on a CPU nor with fsdp; found "
            f"{accelerator}, {strategy}. Use bf16-mixed or 32."
        )
    if strategy == "auto":
        strategy = "ddp" if place.num_ranks > 1 else "none"
    return {
        "accelerator": accelerator,
        "device": "cuda" if accelerator == "gpu" else "cpu",
        "devices": place.ranks_per_node,
        "num_nodes": place.num_nodes,
        "num_ranks": place.num_ranks,
        "devices_found": torch.cuda.device_count() if accelerator == "gpu" else 1,
        "strategy": strategy,
        "precision": precision,
        "timeout_minutes": timeout_minutes,
        "tf32": tf32 and accelerator == "gpu",
        "activation_checkpointing": activation_checkpointing,
    }


def _check_started(key: str, asked: int | str, found: int) -> None:
    """Raise UserError for another number of devices or nodes than what was started."""
    if asked not in ("auto", found):
        raise UserError(
            f"trainer.{key}={asked}, but srun, torchrun or the only process gives {found}. "
            f"Leave it out, or start as many."
        )


def use_loss_for(model, *, device: str, precision: str = "32-true") -> str | None:
    """Transducers get this project's exact loss (see model.joint_loss). Returns what was done, None
    for CTC.
    """
    if not parts.is_transducer(model):
        return None
    from parakeet_ft.model.transducer_loss import use_wavefront_loss

    said = use_wavefront_loss(model)
    if prediction_network_runs_in_float32(model, device_type=device, precision=precision):
        said = (
            f"{said}; prediction network in float32, as this {device.upper()} has no bfloat16 LSTM"
        )
    return said


class FineTuner(pl.LightningModule):
    """Trains `model` (a NeMo ASR model) and scores it at each validation with the project's own
    scorer.

    The NeMo model's own Lightning hooks are not used: its loaders, metrics and schedulers stay out
    of the run. sets and base are the utterances and the untouched checkpoint's scores by role.
    Under FSDP a divided copy of `model` learns; `whole` is `model`, and gets the copy's weights for
    each validation and at the end. A step with a bad batch changes nothing but the counts; without
    `bad_batches` the first one raises. Nothing in a step asks the device for a number: see
    parakeet_ft.training.verdicts.
    """

    def __init__(
        self,
        model,
        *,
        settings: dict[str, Any],
        sets: Mapping[str, Sequence[Utterance]],
        base: dict[str, wer.Score],
        batch_seconds: float,
        judge: selection.Judge | None = None,
        terms: Sequence[str] = (),
        teacher: Teacher | None = None,
        bad_batches: BadBatches | None = None,
        precision: str = "32-true",
        scoring_precision: str = "32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.scoring_precision = scoring_precision
        self.rounding_seed = seed if precision == "bf16-true" else None
        self.bad_batches, self.verdicts = bad_batches, Verdicts(bad_batches)
        self.step_is_lost = False  # known here already: memory ran out in the only rank
        self.verdicts.listeners.append(self._log)
        self.model, self.settings, self.sets, self.base = model, settings, sets, base
        self._whole = (model,)  # in a tuple, as Lightning would divide and save a second module too
        self.batch_seconds, self.teacher = batch_seconds, teacher
        self.judge, self.terms = judge, terms
        self._build_optimizer()
        self.history: list[dict[str, Any]] = []
        self.validation_steps: list[int] = []
        self.hypotheses: dict[str, list[str]] = {}

    @property
    def whole(self) -> torch.nn.Module:
        return self._whole[0]

    def _build_optimizer(self) -> None:
        keys = (
            "lr",
            "decoder_lr_ratio",
            "adapter_lr_ratio",
            "layer_decay",
            "betas",
            "weight_decay",
            "warmup_steps",
            "min_lr_ratio",
            "num_steps",
            "states",
        )
        self.optimizer, self.scheduler = build_optimizer(
            self.model,
            rounding_seed=self.rounding_seed,
            **{key: self.settings[key] for key in keys},
        )

    def configure_model(self) -> None:
        if self.device_mesh is not None and self.model is self.whole:
            self.model = sharding.sharded(self.whole, mesh=self.device_mesh["data_parallel"])
            self._build_optimizer()

    def on_fit_end(self) -> None:
        if self.model is not self.whole:
            sharding.gather(self.model, self.whole)
            self.model = self.whole
        self.model.float()  # after bf16-true
        # Lightning would take both to the CPU, and nothing needs them any more.
        self.optimizer.state.clear()
        self.whole.zero_grad(set_to_none=True)

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_index: int) -> torch.Tensor:
        self.statistics = bad_batches.statistics(self.model)
        losses = self._try(batch)
        self.batch_is_bad = self.verdicts.judge(losses, samples=batch[1].sum())
        if losses is not None:
            return losses["loss"]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if ranks.num_ranks() > 1:
            return self._nothing()
        self._lose_step()
        return torch.full((), torch.nan, device=self.device, requires_grad=True)

    def _try(self, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor] | None:
        """The losses of a batch; None if memory ran out, and this run can bear it."""
        try:
            return self._losses(batch)
        except Exception as error:
            bad_batches.check_bearable(error, num_ranks=ranks.num_ranks(), where="the forward pass")
            if not bad_batches.is_out_of_memory(error) or self.model is not self.whole:
                raise  # under FSDP the others wait in the middle of a forward pass
            if self.bad_batches is None:
                raise UserError(
                    f"At step {self.global_step} memory ran out (batch of {len(batch[1])})."
                ) from error
        return None

    def _nothing(self) -> torch.Tensor:
        """A loss whose gradients are zeros: what a rank without a loss gives the others, who wait
        for its gradients.
        """
        learning = [p for p in self.model.parameters() if p.requires_grad]
        return torch.stack([0 * p.flatten()[0].float() for p in learning]).sum()

    def _losses(self, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        losses = training_loss(self.model, *batch)
        if self.teacher:
            kept = self.teacher.loss(*batch[:2])
            losses |= {
                "loss": losses["loss"] + self.teacher.weight * kept,
                "distillation_loss": kept,
            }
        return losses

    def _lose_step(self) -> None:
        self.step_is_lost = True
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        """AdamW leaves what has no gradient alone, its moments and step count included."""
        for parameter in self.model.parameters():
            parameter.grad = None
        if (
            self._scales_gradients()
        ):  # GradScaler wants one gradient, to find there that it must not step
            parameter = self.optimizer.param_groups[0]["params"][0]
            parameter.grad = torch.full_like(parameter, torch.inf)

    def _scales_gradients(self) -> bool:
        return self.trainer.precision == "16-mixed"

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.step_is_lost and not self._went_backward(loss, *args, **kwargs):
            # Here and not where it was caught, as the exception holds the graph.
            self._lose_step()
            torch.cuda.empty_cache()
            self.verdicts.memory_ran_out()
        for buffer, before in self.statistics:  # not earlier: the backward pass reads them
            buffer.copy_(torch.where(self.batch_is_bad, before, buffer))

    def _went_backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
        """The backward pass; False if memory ran out, and this run can bear it."""
        try:
            super().backward(loss, *args, **kwargs)
        except Exception as error:
            bad_batches.check_bearable(
                error, num_ranks=ranks.num_ranks(), where="the backward pass"
            )
            # Of several ranks the others wait for this one's gradients: nothing can be skipped any
            # more.
            if (
                not bad_batches.is_out_of_memory(error)
                or not self.bad_batches
                or ranks.num_ranks() > 1
            ):
                raise
            return False
        return True

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        def closure() -> Any:
            result = optimizer_closure()
            if self.step_is_lost:
                self._drop_gradients()
            return result

        super().optimizer_step(epoch, batch_index, optimizer, closure)
        self.optimizer.lost = None
        if self._scales_gradients():
            lightning_2_4.skip_on_device(self.optimizer, False)
        self.step_is_lost = False

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        parameters = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        if self._scales_gradients():  # which overflow now and then: GradScaler sees to it
            lightning_2_4.skip_on_device(self.optimizer, True)
        elif not self.step_is_lost:
            self.verdicts.judge_gradient(_whole(norm))
        self.optimizer.lost = self.verdicts.lost

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        ends_step = lightning_2_4.ends_step(self.trainer)
        self.verdicts.end_batch(
            step=self.global_step - ends_step,
            position=lightning_2_4.current_batch(self.trainer),
            utterances=len(batch[1]),
            ends_step=ends_step,
        )

    def _log(self, known: Known) -> None:
        """Losses to the loggers, at the step that they are of."""
        step = known.place.step
        due = known.place.ends_step and (step + 1) % self.trainer.log_every_n_steps == 0
        if due and not known.lost:
            lightning_2_4.log(
                self.trainer,
                {f"train_{name}": value for name, value in known.losses.items()},
                step=step,
            )

    def on_validation_start(self) -> None:
        self.verdicts.flush()

    def on_train_end(self) -> None:
        self.verdicts.flush()

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        number = lightning_2_4.next_batch_number(self.trainer)
        step, rest = divmod(number, self.settings["accumulate"])
        due = not rest and step in self.validation_steps
        lightning_2_4.validate_after_this_batch(self.trainer, due)

    def configure_optimizers(self) -> dict[str, Any]:
        if self._scales_gradients():
            lightning_2_4.skip_on_device(self.optimizer, False)
        return {
            "optimizer": self.optimizer,
            "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"},
        }

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Samples become floats on the device: half as much has to get there."""
        return (as_float(batch[0]), *batch[1:]) if isinstance(batch, list | tuple) else batch

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Nothing: the validation sets are decoded whole at the end, sorted by length."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.verdicts.flush()
        checkpoint["history"] = self.history
        checkpoint["bad_batches"] = self.bad_batches.positions if self.bad_batches else []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        if self.bad_batches:
            self.bad_batches.positions = list(checkpoint["bad_batches"])

    def on_train_start(self) -> None:
        if self.bad_batches:
            self.bad_batches.forget_later()

    def on_validation_epoch_end(self) -> None:
        if self.history and self.history[-1]["step"] == self.global_step:
            lightning_2_4.uncount_repeated_validation(self.trainer)
            return
        if self.model is not self.whole:
            sharding.gather(self.model, self.whole)
        self._check_finite()
        ranks.share_buffers(
            self.whole
        )  # DDP makes BatchNorm's statistics equal before a forward pass, not after
        metrics = self.evaluate()
        self.log_dict(_plain(metrics))
        self.history.append({"step": self.global_step, **metrics})

    def _check_finite(self) -> None:
        """Raise UserError if a weight is NaN or infinite: nothing that follows could mend it."""
        norms = torch._foreach_norm([p.detach() for p in self.whole.parameters()])
        if not torch.isfinite(torch.stack([norm.float() for norm in norms])).all():
            raise UserError(
                f"At step {self.global_step} weights are not finite any more, so the run ends; "
                f"nothing was "
                "exported. Lower optim.lr, or look at optim.gradient_clip and the data."
            )

    def evaluate(self) -> dict[str, Any]:
        """Score the model as it stands on the validation sets of domain and guards, and the
        domain's terms; `judgement` is a selection.Judgement as a dict.
        """
        domain, signs = self._score("validation")
        metrics: dict[str, Any] = {"val_wer": domain.wer, "val_cer": domain.cer, **signs}
        references = [u.text for u in self.sets["validation"]]
        metrics |= validation_metrics(references, self.hypotheses["validation"], self.terms)
        guards = roles(self.sets, "validation")
        metrics |= rates_of({name: self._score(key)[0].wer for name, key in guards.items()})
        assert self.judge is not None, "what is evaluated can be judged"
        heard = {name: self.hypotheses[key] for name, key in guards.items()}
        found = self.judge(self.hypotheses["validation"], heard)
        return metrics | {
            "selection_score": found.score,
            "judgement": dataclasses.asdict(found),
        }

    def _score(self, key: str) -> tuple[wer.Score, dict[str, float]]:
        """Score a set and look for signs of a collapse, divided over the ranks; every rank gets the
        whole set's figures.
        """
        counts, references = [0, 0], [u.text for u in self.sets[key]]

        def count(silent: int, frames: int) -> None:
            counts[0], counts[1] = counts[0] + silent, counts[1] + frames

        texts = ranks.divide(
            lambda mine: transcribe(
                self.whole,
                mine,
                batch_seconds=self.batch_seconds,
                precision=self.scoring_precision,
                on_frames=count,
            ),
            self.sets[key],
        )
        self.hypotheses[key] = texts
        silent, frames = ranks.add(counts)
        return wer.score(references, texts), watch.signs(
            references, texts, silent_frames=silent, frames=frames
        )


def _plain(metrics: dict[str, Any]) -> dict[str, float]:
    """What loggers take of a validation: of several guards each by its name."""
    found = {key: value for key, value in metrics.items() if not isinstance(value, dict)}
    if "guard_wer" not in metrics:
        found |= {f"guard_wer/{name}": rate for name, rate in guard_wers(metrics).items()}
    return found


def _whole(norm: torch.Tensor) -> torch.Tensor:
    """A norm over what FSDP divides, on every rank."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def fit(
    tuner: FineTuner,
    loader: torch.utils.data.DataLoader,
    *,
    num_steps: int,
    validations: int,
    gradient_clip: float,
    accumulate: int,
    devices: Devices,
    loggers: list[pl.loggers.Logger],
    callbacks: list[pl.Callback],
    resume_from: Path | None,
) -> None:
    """Fit for num_steps optimiser steps with about `validations` validations, one of them at the
    end; from a checkpoint on, if one is given.
    """
    tuner.validation_steps = budget.validation_steps(num_steps, validations=validations)
    trainer = pl.Trainer(
        **{key: devices[key] for key in ("accelerator", "devices", "num_nodes")},
        strategy=_strategy(devices),
        max_steps=num_steps,
        max_epochs=1,
        val_check_interval=num_steps * accumulate,  # see FineTuner.on_train_batch_start
        check_val_every_n_epoch=None,
        gradient_clip_val=gradient_clip or None,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, tuner.validation_steps[0] // 10),
        logger=loggers,
        callbacks=[pl.callbacks.LearningRateMonitor("step"), *callbacks],
        plugins=[WholeFiles(), *_plugins(devices)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if rank := ranks.rank():
        torch.manual_seed(torch.initial_seed() + rank)  # other dropout and masks than rank 0's
    # Ranks would ask each other for the longest audio of each batch, and wait for the answer, to
    # make tables alike that need not be (NeMo 3.0.0, conformer_encoder.py, update_max_seq_length).
    encoder: Any = tuner.whole.encoder
    encoder.sync_max_audio_length = False
    if devices["strategy"] == "ddp":
        exclude_tables(tuner)
    twice = devices["activation_checkpointing"] is True
    with (
        signals.restored(),
        float32_products(tf32=devices["tf32"]),
        checkpointing.layers_computed_twice(tuner.whole, twice),
    ):
        # Lightning runs its validation hooks only with a loader; one dummy batch serves, as the
        # tuner decodes whole sets.
        dummy: Any = torch.utils.data.DataLoader([0], batch_size=None)  # type: ignore[arg-type]
        trainer.fit(tuner, loader, dummy, ckpt_path=resume_from)


def live(trainer: pl.Trainer, tuner: FineTuner) -> dict[str, Any]:
    """How a step is made, read from the objects that make it: for run.json."""
    ddp = trainer.strategy.model
    return {
        "optimizer": type(tuner.optimizer).__name__,
        "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "activation_checkpointing": checkpointing.is_on(tuner.model),
        "gradient_as_bucket_view": getattr(ddp, "gradient_as_bucket_view", None),
        "static_graph": getattr(ddp, "static_graph", None),
    }


def exclude_tables(tuner: FineTuner) -> None:
    """Keep DDP from exchanging buffers that no checkpoint holds, such as tables of positions.

    They are as long as the longest audio that a rank has seen, so ranks that scored other
    utterances have them in other sizes, and to broadcast them at each forward pass would be 41 MB
    for nothing.
    """
    saved = tuner.state_dict().keys()
    tables = [name for name, _ in tuner.named_buffers() if name not in saved]
    # The only way that torch has (distributed.py, 2.13).
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        tuner, tables
    )


def _strategy(devices: Devices) -> Any:
    if devices["strategy"] == "fsdp":
        return sharding.strategy(devices["num_ranks"])
    if devices["strategy"] == "ddp":
        # Gradients lie in the buckets that are exchanged: one copy less. No static graph: without
        # unused weights there is nothing that DDP looks for in each step.
        return DDPStrategy(gradient_as_bucket_view=True)
    return "auto"


def _plugins(devices: Devices) -> list[Any]:
    """Ranks as parakeet_ft.distributed.ranks found them, so that Lightning starts none, nor handles
    Slurm's signals; and the precision.
    """
    environment = TorchElasticEnvironment() if ranks.num_ranks() > 1 else LightningEnvironment()
    if devices["precision"] == "bf16-true":
        return [environment, lightning_2_4.BFloat16Weights(devices["device"])]
    if devices["precision"].endswith("mixed"):
        return [environment, MixedPrecision(devices["precision"], devices["device"])]
    return [environment, Precision()]
