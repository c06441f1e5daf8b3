"""The settings of recipes/finetune.py: conf/finetune.yaml and the groups it is made of.

What each key means stands in conf/, beside its default.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from parakeet_ft.errors import UserError
from parakeet_ft.settings.guards import (
    GUARDS,
    RATIO,
    SHORT,
    Guard,
    Mixed,
    key_of,
    read_guards,
    role,
    scored,
)
from parakeet_ft.settings.manifests import (
    MANIFESTS,
    NO_MANIFESTS,
    WeightedManifest,
    as_given,
    check_unweighted,
    weighted,
)
from parakeet_ft.settings.rules import (
    FLAG,
    LANGUAGE,
    LINES,
    NAME,
    PATH,
    TEXT,
    Group,
    Rule,
    any_of,
    choice,
    either,
    listing,
    number,
    optional,
    read,
    setting,
    whole,
)
from parakeet_ft.urls import without_secrets

PRECISIONS = ("auto", "32", "32-true", "bf16-mixed", "bf16-true", "16-mixed")
SCORING_PRECISIONS = ("auto", "32", "tf32", "bf16")
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
# The keys of conf/data that name utterances, beside data.replay.manifest and data.guards.
SETS = ("train", "validation", "test", "guard_validation", "guard_test")


def _is_whole_or_share(value: Any) -> bool:
    return number(low=0, most=10_000).fits(value) and (value < 1 or value == int(value))


def _is_power_of_two(value: Any) -> bool:
    return whole(most=1024).fits(value) and not value & (value - 1)


def _ascending(rule: Rule) -> Rule:
    """A list of two whose first is not the larger."""
    return Rule(
        f"{rule.expected}, the first not the larger",
        lambda value: rule.fits(value) and value[0] <= value[1],
    )


SHARE = number(low=0, most=1)
CONTEXT = Rule(
    "two equal whole numbers above 0, such as [128,128] (frames of 80 ms to the left and right)",
    lambda value: (
        listing(whole(most=100_000), example="", length=2).fits(value) and value[0] == value[1]
    ),
    lambda value: [value[0]] * 2 if value and isinstance(value, list | tuple) else None,
)
UNFREEZE = Rule(
    "[] or two shares of the run below 1, such as [0.1,0.5]",
    lambda value: (
        isinstance(value, list | tuple)
        and (
            not value
            or _ascending(listing(number(low=0, below=1), example="", length=2)).fits(value)
        )
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugment(Group):
    KEY: ClassVar[str] = "model.spec_augment"
    freq_masks: int | None = setting(optional(whole(low=0, most=100)))
    freq_width: int | None = setting(optional(whole(low=0, most=1000)))
    time_masks: int | None = setting(optional(whole(low=0, most=1000)))
    time_width: float | None = setting(
        optional(Rule("a whole number of frames, or a share below 1", _is_whole_or_share))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Group):
    KEY: ClassVar[str] = "model"
    source: str = setting(Rule("a bundled name, a .nemo file or a hub id", TEXT.fits))
    attention: str = setting(choice("full", "local"))
    attention_context: list[int] = setting(CONTEXT)
    global_tokens: int = setting(whole(low=0, most=1000))
    subsampling_chunking: int = setting(
        Rule("1 (as memory needs) or a power of 2 up to 1024", _is_power_of_two)
    )
    ctc_loss_weight: float | None = setting(optional(SHARE))
    spec_augment: SpecAugment

    def attention_arguments(self) -> dict[str, Any]:
        """Arguments of parakeet_ft.model.attention.set_attention."""
        left, right = self.attention_context
        return {
            "kind": self.attention,
            "left_context": left,
            "right_context": right,
            "global_tokens": self.global_tokens,
            "subsampling_chunking": self.subsampling_chunking,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay(Group):
    KEY: ClassVar[str] = "data.replay"
    manifest: tuple[WeightedManifest, ...] = setting(NO_MANIFESTS, into=weighted)
    ratio: float = setting(RATIO)

    def as_config(self) -> dict[str, Any]:
        return super().as_config() | {"manifest": as_given(self.manifest)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(Group):
    KEY: ClassVar[str] = "data.augmentation"
    speed: list[float] | None = setting(
        optional(listing(number(low=0.5, most=2), example="[0.9,1.0,1.1]", least=1))
    )
    noise_manifest: str | None = setting(
        optional(PATH), into=lambda name: name and without_secrets(name)
    )
    noise_snr_db: list[float] = setting(
        _ascending(listing(number(low=-100, most=100), example="[5,20]", length=2))
    )
    noise_probability: float = setting(SHARE)
    codec_probability: float = setting(SHARE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Group):
    KEY: ClassVar[str] = "data"
    name: str = setting(NAME)
    train: tuple[WeightedManifest, ...] = setting(MANIFESTS, into=weighted)
    validation: tuple[WeightedManifest, ...] = setting(MANIFESTS, into=weighted)
    test: tuple[WeightedManifest, ...] = setting(NO_MANIFESTS, into=weighted)
    guard_validation: tuple[WeightedManifest, ...] = setting(NO_MANIFESTS, into=weighted)
    guard_test: tuple[WeightedManifest, ...] = setting(NO_MANIFESTS, into=weighted)
    replay: Replay
    # "guard" included, which guard_validation, guard_test and replay name.
    guards: dict[str, Guard] = setting(GUARDS, into=read_guards)
    allow_overlap: bool = setting(FLAG)
    batch_seconds: float | str | None = setting(
        optional(either("auto", number(above=0, most=100_000)))
    )
    effective_batch_seconds: float | None = setting(optional(number(above=0, most=10_000_000)))
    num_workers: int | str = setting(either("auto", whole(low=0, most=1024)))
    augmentation: Augmentation

    def __post_init__(self) -> None:
        super().__post_init__()
        short = Guard(
            name=SHORT,
            validation=self.guard_validation,
            test=self.guard_test,
            tolerance=None,
            replay=Mixed(self.replay.manifest, self.replay.ratio),
        )
        named = {name: guard for name, guard in self.guards.items() if name != SHORT}
        first = {SHORT: short} if short.named_sets() else {}
        object.__setattr__(self, "guards", first | named)
        for key in scored(sets := self.named_sets()):
            check_unweighted(key_of(key), sets[key])

    def named_sets(self) -> dict[str, tuple[WeightedManifest, ...]]:
        """What conf/ names, by role."""
        found = {key: getattr(self, key) for key in ("train", "validation", "test")}
        for guard in self.guards.values():
            found |= guard.named_sets()
        return {key: manifests for key, manifests in found.items() if manifests}

    def replay_ratios(self) -> dict[str, float]:
        """Seconds of each replay for each second of the domain, by role."""
        mixed = {name: guard.replay for name, guard in self.guards.items()}
        return {
            role(name, "replay"): self.replay.ratio if replay.ratio is None else replay.ratio
            for name, replay in mixed.items()
            if replay and replay.manifest
        }

    def as_config(self) -> dict[str, Any]:
        named = {name: guard for name, guard in self.guards.items() if name != SHORT}
        return (
            super().as_config()
            | {key: as_given(getattr(self, key)) for key in SETS}
            | {"guards": {name: guard.as_config() for name, guard in named.items()}}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer(Group):
    KEY: ClassVar[str] = "tokenizer"
    mode: str = setting(choice("keep", "extend", "replace"))
    max_unknown_share: float = setting(SHARE)
    num_pieces: int | None = setting(optional(whole(most=1_000_000)))
    pieces: list[str] | str | None = setting(optional(any_of(listing(TEXT, example="[%,(]"), PATH)))
    vocab_size: int | None = setting(optional(whole(low=2, most=1_000_000)))
    model_type: str = setting(choice("bpe", "unigram"))
    tokenizer_dir: str | None = setting(optional(Rule("the path of a folder", TEXT.fits)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation(Group):
    KEY: ClassVar[str] = "adaptation"
    mode: str = setting(choice("weights", "lora", "adapters"))
    frozen: list[str] = setting(listing(TEXT, example="[encoder.pre_encode]"))
    first_layers: float = setting(Rule("a whole number, or a share below 1", _is_whole_or_share))
    freeze_batch_norm: bool = setting(FLAG)
    unfreeze: list[float] = setting(UNFREEZE)
    learn_decoder: bool | str = setting(either("auto", FLAG))
    lora_rank: int = setting(whole(most=4096))
    lora_alpha: float = setting(number(above=0, most=100_000))
    adapter_dim: int = setting(whole(most=65_536))
    adapter_name: str = setting(NAME)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateRow(Group):
    KEY: ClassVar[str] = "optim.lr_table"
    max_million_weights: float = setting(number(above=0))
    min_hours: float = setting(number(low=0))
    lr: float = setting(number(above=0, most=1))


def _is_rate_table(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    try:
        return all(read(RateRow, row) for row in value)
    except UserError:
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim(Group):
    KEY: ClassVar[str] = "optim"
    # AdamW moves every weight by about lr a step: nothing is left of a checkpoint beyond 1.
    lr: float | str = setting(either("auto", number(above=0, most=1)))
    lr_table: list[dict[str, float]] = setting(
        Rule(
            "rows such as {max_million_weights: 20, min_hours: 0, lr: 5e-4}, each above 0 "
            "(min_hours from 0) and lr up to 1",
            _is_rate_table,
        )
    )
    decoder_lr_ratio: float = setting(number(above=0, most=10_000))
    new_pieces_lr_ratio: float = setting(number(above=0, most=10_000))
    adapter_lr_ratio: float = setting(number(above=0, most=10_000))
    layer_decay: float = setting(number(above=0, most=1))
    betas: list[float] = setting(listing(number(low=0, below=1), example="[0.9,0.98]", length=2))
    weight_decay: float = setting(number(low=0, most=1))
    warmup_ratio: float = setting(number(low=0, below=1))
    min_lr_ratio: float = setting(SHARE)
    states: int | str = setting(Rule("32 or 8bit", lambda value: str(value) in ("32", "8bit")))
    gradient_clip: float = setting(number(low=0, most=1_000_000))
    accumulate: int = setting(whole(most=100_000))
    max_bad_batches: int = setting(whole(low=0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Group):
    KEY: ClassVar[str] = "budget"
    epochs: float | None = setting(optional(number(above=0, most=1_000_000)))
    hours: float | None = setting(optional(number(above=0, most=100_000_000)))
    steps: int | None = setting(optional(whole()))

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(value is not None for value in (self.epochs, self.hours, self.steps)) != 1:
            raise UserError("No budget: give one of budget.epochs, budget.hours or budget.steps.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer(Group):
    KEY: ClassVar[str] = "trainer"
    accelerator: str = setting(choice("auto", "cpu", "gpu"))
    devices: int | str = setting(either("auto", whole(most=100_000)))
    num_nodes: int | str = setting(either("auto", whole(most=100_000)))
    strategy: str = setting(choice("auto", "ddp", "fsdp"))
    precision: str | int = setting(
        Rule(
            choice(*PRECISIONS).expected,
            lambda value: not isinstance(value, bool) and str(value) in PRECISIONS,
            lambda value: (
                "bf16-mixed" if str(value).startswith("bf") else choice(*PRECISIONS).nearest(value)
            ),
        )
    )
    timeout_minutes: float = setting(number(above=0, most=100_000))
    tf32: bool = setting(FLAG)
    activation_checkpointing: bool | str = setting(either("auto", FLAG))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launcher(Group):
    KEY: ClassVar[str] = "launcher"
    kind: str = setting(choice("local", "slurm"))
    nodes: int | None = setting(optional(whole(most=100_000)))
    gpus_per_node: int = setting(whole(low=0, most=1024))
    tasks_per_node: int | None = setting(optional(whole(most=1024)))
    cpus_per_task: int = setting(whole(most=4096))
    memory_gb: float | None = setting(optional(number(above=0, most=1_000_000)))
    hours: float = setting(number(above=0, most=100_000))
    partition: str | None = setting(optional(TEXT))
    account: str | None = setting(optional(TEXT))
    seeds: list[int] | None = setting(
        optional(listing(whole(low=0, most=2**32 - 1), example="[1,2,3]", least=1))
    )
    folder: str = setting(Rule("the path of a folder", TEXT.fits))
    sbatch: list[str] = setting(listing(TEXT, example='["qos=low","exclusive"]'))

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [name for name in ("nodes", "seeds") if getattr(self, name) is not None]
        if self.kind == "local" and asked:
            raise UserError(
                f"launcher.{asked[0]} is of a Slurm job, and this run is local. Give "
                f"launcher=slurm "
                f"too, or leave launcher.{asked[0]} out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(Group):
    KEY: ClassVar[str] = "checkpoint"
    every_minutes: float | None = setting(optional(number(above=0, most=1_000_000)))
    every_steps: int | None = setting(optional(whole()))
    keep: int = setting(whole(most=10_000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logger(Group):
    KEY: ClassVar[str] = "logger"
    names: list[str] = setting(listing(choice(*LOGGERS), example="[csv,tensorboard]", least=1))
    project: str = setting(TEXT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Group):
    KEY: ClassVar[str] = "evaluation"
    validations: int = setting(whole(most=100_000))
    guard_tolerance: float | None = setting(optional(SHARE))
    guard_risk: float = setting(SHARE)
    alarm_after: int = setting(whole(most=100_000))
    patience: int | None = setting(optional(whole(most=100_000)))
    language: str = setting(LANGUAGE)
    batch_seconds: float = setting(number(above=0, most=1_000_000))
    precision: str | int = setting(
        Rule(
            choice(*SCORING_PRECISIONS).expected,
            lambda value: not isinstance(value, bool) and str(value) in SCORING_PRECISIONS,
            choice(*SCORING_PRECISIONS).nearest,
        )
    )
    subset_hours: float | None = setting(optional(number(above=0, most=1_000_000)))
    examples: int = setting(whole(low=0, most=1_000_000))
    interpolation: list[float] = setting(listing(SHARE, example="[0.4,0.6,0.8]"))
    interpolation_step: float | None = setting(optional(number(above=0, most=1)))
    average_last: int | None = setting(optional(whole(most=1000)))
    ema_decay: float | None = setting(optional(number(above=0, below=1)))
    terms: list[str] | str | None = setting(optional(either("auto", LINES)))
    terms_weight: float = setting(SHARE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms is None and self.terms_weight:
            raise UserError(
                f"evaluation.terms_weight={self.terms_weight:g} weighs terms, and none are given. "
                "Name them with evaluation.terms (a list, a file, or auto), or leave the weight 0."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Group):
    KEY: ClassVar[str] = "distillation"
    weight: float = setting(number(low=0, most=10_000))
    temperature: float = setting(number(above=0, most=1000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Group):
    """All settings of a run."""

    model: Model
    data: Data
    tokenizer: Tokenizer
    adaptation: Adaptation
    optim: Optim
    budget: Budget
    trainer: Trainer
    launcher: Launcher
    checkpoint: Checkpoint
    logger: Logger
    evaluation: Evaluation
    distillation: Distillation
    name: str = setting(NAME)
    seed: int = setting(whole(low=0, most=2**32 - 1))
    smoke: bool = setting(FLAG)
    resume: str = setting(choice("auto", "changed", "never"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_accumulation()
        self._check_replaced_vocabulary()
        self._check_fsdp()
        self._check_batches()

    def guard_tolerances(self) -> dict[str, float | None]:
        """The absolute WER that each guard may lose; None: as much as it will."""
        own = {name: guard.tolerance for name, guard in self.data.guards.items()}
        general = self.evaluation.guard_tolerance
        return {name: general if found is None else found for name, found in own.items()}

    def _check_accumulation(self) -> None:
        if self.data.effective_batch_seconds and self.optim.accumulate != 1:
            raise UserError(
                "data.effective_batch_seconds and optim.accumulate both say how many batches make "
                "a "
                "step: give one of them."
            )

    def _check_replaced_vocabulary(self) -> None:
        if self.distillation.weight and self.tokenizer.mode == "replace":
            raise UserError(
                "distillation.weight is above 0 with tokenizer=replace: the checkpoint's pieces "
                "are "
                "gone, so its outputs are no measure. Use tokenizer=keep or extend, or "
                "distillation.weight=0."
            )

    def _check_fsdp(self) -> None:
        wanted = {
            "evaluation.ema_decay": self.evaluation.ema_decay,
            "distillation.weight": self.distillation.weight,
        }
        asked = [key for key, value in wanted.items() if value]
        if self.trainer.strategy == "fsdp" and str(self.optim.states) == "8bit":
            raise UserError(
                "optim.states=8bit with trainer.strategy=fsdp: not supported, as fsdp divides "
                "tensors within their blocks of 256. Use optim.states=32: each rank holds its "
                "share of the states only."
            )
        if self.trainer.strategy == "fsdp" and asked:
            raise UserError(
                f"{' and '.join(asked)} with trainer.strategy=fsdp: not supported, as no rank "
                f"holds "
                "all weights. Use trainer=ddp, or leave it off."
            )

    def _check_batches(self) -> None:
        if self.trainer.strategy == "fsdp" and self.data.batch_seconds == "auto":
            raise UserError(
                "data.batch_seconds=auto tries batches on the whole model, which fsdp never holds. "
                "Give a number of seconds, such as 120."
            )


def read_finetune(config: dict[str, Any]) -> Finetune:
    """A composed conf/finetune.yaml, checked. Raises UserError."""
    return read(Finetune, config)
