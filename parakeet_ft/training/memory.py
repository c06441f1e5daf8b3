"""What a run will need in memory, computed from the checkpoint's configuration before anything is
loaded.

    python -m parakeet_ft.training.memory        the table of the published checkpoints

Weights, gradients and optimiser states are counted; activations are counted tensor by tensor for
one FastConformer layer in training, and held against measurements (tests/training/test_memory.py,
benchmarks/README.md). Neither torch nor NeMo is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import subprocess
from collections.abc import Sequence
from typing import Any, Literal

from parakeet_ft.data.corpus import durations_of, most_characters_of
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.memory import free_bytes
from parakeet_ft.model.checkpoints import resolve
from parakeet_ft.model.replicas import REPLICAS, Architecture
from parakeet_ft.model.source import check_archive, locate

FRAMES_PER_SECOND = 12.5  # after eightfold subsampling of 10 ms
CHARACTERS_PER_TOKEN = 3.0  # a cautious guess: English with 1,024 pieces has about 4
SOFTWARE_GB = {
    "cpu": 0.95,
    "gpu": 0.8,
}  # Python with torch and NeMo; a CUDA context with its kernels
# tensors of d_model per frame that one layer keeps for the backward pass, feed-forwards (4 d_model)
# included
PER_LAYER = 50
PER_HEAD = 3  # tensors of frames x frames per head
PER_SUBSAMPLING = 5  # tensors as large as the first convolution's output
# The loss has the joint inside (model.joint_loss): measured bytes of a node of its lattice, and
# what each duration adds.
BYTES_PER_NODE, BYTES_PER_DURATION = 250, 85
# On a CPU, logits it holds at once (128 MB are kept, and three pieces), and tensors of joint_hidden
# beside them. A GPU's pieces take a tenth of what is free, however little, and are not counted.
HELD_LOGITS = (128 << 20) // 4 + 3 * (1 << 22)
PER_HELD_NODE = 3
BATCH_SECONDS = 120.0  # where none are given and none are tried out
STATE_BYTES = 1 + 4 / 256  # of a moment in 8 bits: its code, and its share of a block's scale


@dataclasses.dataclass(frozen=True)
class Estimate:
    """GB by part, on one device."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    software: float

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))

    def facts(self) -> dict[str, float]:
        """For run.json."""
        return {
            f"{name}_gb": round(value, 3)
            for name, value in (dataclasses.asdict(self) | {"total": self.total}).items()
        }


def num_weights(a: Architecture) -> int:
    """Parameters of a Parakeet, counted from its widths."""
    d, c, bias, labels = a.d_model, a.conv_channels, int(a.use_bias), a.vocab_size + 1
    mels = math.ceil(math.ceil(math.ceil(a.n_mels / 2) / 2) / 2)
    subsampling = 10 * c + 2 * (10 * c + c * c + c) + c * mels * d + d
    feed_forward = 8 * d * d + bias * 5 * d
    attention = 5 * d * d + bias * 4 * d + 2 * d
    convolution = 3 * d * d + a.conv_kernel_size * d + bias * 4 * d + 2 * d
    total = subsampling + a.n_layers * (2 * feed_forward + attention + convolution + 10 * d)
    if a.family in ("ctc", "hybrid", "hybrid_rnnt"):
        total += (d + 1) * labels
    if a.family != "ctc":
        outputs = labels + (len(a.durations) if a.family in ("tdt", "hybrid") else 0)
        total += labels * a.pred_hidden + a.pred_layers * 8 * (a.pred_hidden**2 + a.pred_hidden)
        total += (
            (d + 1) * a.joint_hidden
            + (a.pred_hidden + 1) * a.joint_hidden
            + (a.joint_hidden + 1) * outputs
        )
    return total


def estimate(
    a: Architecture,
    *,
    device: str,
    precision: str,
    strategy: str,
    num_ranks: int,
    batch_seconds: float,
    longest_seconds: float,
    most_tokens: float,
    learning_share: float = 1.0,
    full_attention: bool = True,
    checkpointing: bool = False,
    states: int | str = 32,
) -> Estimate:
    """The peak on one device while training on batches of batch_seconds whose utterances are all as
    long as the longest.

    device: cpu or gpu. precision: as trainer.precision without auto. learning_share: of the
    weights, by number; what is frozen still keeps activations. checkpointing, states: as
    trainer.activation_checkpointing without auto, and optim.states. Under fsdp the undivided model
    stays beside its divided copy, as parakeet_ft.training.fine_tuner keeps it.
    """
    weights, size = num_weights(a), 2 if precision == "bf16-true" else 4
    share = 1 / num_ranks if strategy == "fsdp" else 1.0
    learning = weights * learning_share * share
    copies = 0.0
    # Under ddp gradients lie in the buckets that are exchanged.
    if strategy == "fsdp":
        copies += 4 * weights + size * weights / a.n_layers  # the whole model; the layer at hand
    if precision.endswith("mixed"):
        copies += 2 * weights * share  # autocast keeps the weights it has cast
    activations = activation_bytes(
        a,
        device=device,
        size=_activation_size(precision, device=device),
        batch_seconds=batch_seconds,
        longest_seconds=longest_seconds,
        most_tokens=most_tokens,
        full_attention=full_attention,
        checkpointing=checkpointing,
    )
    moment = STATE_BYTES if str(states) == "8bit" else size
    return Estimate(
        weights=weights * size * share / 1e9,
        gradients=learning * size / 1e9,
        optimizer=2 * learning * moment / 1e9,
        copies=copies / 1e9,
        activations=activations / 1e9,
        software=SOFTWARE_GB[device],
    )


def _activation_size(precision: str, *, device: str) -> float:
    """Bytes of a kept value. In mixed precision a GPU keeps halves but for a few (two replicas of
    0.6b on an H200: 1.9 to 2.0 by the slope over 120 to 1,200 s), a CPU keeps floats beside them.
    """
    if precision == "bf16-true":
        return 2.0
    if precision.endswith("mixed"):
        return 2.0 if device == "gpu" else 3.0
    return 4.0


def activation_bytes(
    a: Architecture,
    *,
    device: str,
    size: float,
    batch_seconds: float,
    longest_seconds: float,
    most_tokens: float,
    full_attention: bool,
    checkpointing: bool = False,
) -> float:
    """What the forward pass keeps for the backward pass; `size` in bytes a number. checkpointing:
    of the encoder's layers it keeps inputs alone, and one layer at a time is computed again.
    """
    seconds = max(batch_seconds, longest_seconds)
    frames, longest, rows = (
        seconds * FRAMES_PER_SECOND,
        longest_seconds * FRAMES_PER_SECOND,
        max(1, seconds // longest_seconds),
    )
    seen = longest if full_attention else min(longest, 257)
    layer = frames * (PER_LAYER * a.d_model + PER_HEAD * a.n_heads * seen)
    numbers = a.n_layers * layer
    if checkpointing:
        numbers = a.n_layers * frames * a.d_model + layer
    numbers += PER_SUBSAMPLING * seconds * 50 * a.conv_channels * a.n_mels / 2
    if a.family in ("ctc", "hybrid", "hybrid_rnnt"):
        numbers += 3 * frames * (a.vocab_size + 1)
    nodes = 0.0 if a.family == "ctc" else rows * longest * (most_tokens + 1)
    return size * numbers + joint_bytes(a, nodes=nodes, device=device)


def joint_bytes(a: Architecture, *, nodes: float, device: str) -> float:
    """What the loss holds of its lattice and, on a CPU, of hidden vectors and logits."""
    durations = len(a.durations) if a.family in ("tdt", "hybrid") else 0
    lattice = nodes * (BYTES_PER_NODE + BYTES_PER_DURATION * durations)
    if device != "cpu":
        return lattice
    outputs = a.vocab_size + 1 + durations
    held = min(nodes, HELD_LOGITS / outputs)
    return lattice + 4 * held * (outputs + PER_HELD_NODE * a.joint_hidden)


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The architecture in the configuration of a .nemo. Raises UserError for one that has not the
    sections of a Parakeet.
    """
    try:
        encoder, decoder = config["encoder"], config["decoder"]
        loss, head = config.get("loss") or {}, (config.get("aux_ctc") or {}).get("decoder", decoder)
        found = {
            "family": "ctc",
            "d_model": encoder["d_model"],
            "n_layers": encoder["n_layers"],
            "n_heads": encoder["n_heads"],
            "conv_channels": encoder["subsampling_conv_channels"],
            "n_mels": encoder["feat_in"],
            "conv_kernel_size": encoder["conv_kernel_size"],
            "use_bias": encoder.get("use_bias", True),
            "vocab_size": head.get("num_classes", -1),
        }
        if "joint" in config:
            tdt = bool(config["joint"].get("num_extra_outputs"))
            found["family"] = (
                ("hybrid" if tdt else "hybrid_rnnt")
                if "aux_ctc" in config
                else "tdt"
                if tdt
                else "rnnt"
            )
            found |= {
                "pred_hidden": decoder["prednet"]["pred_hidden"],
                "pred_layers": decoder["prednet"]["pred_rnn_layers"],
                "joint_hidden": config["joint"]["jointnet"]["joint_hidden"],
                "vocab_size": config["joint"].get("num_classes", found["vocab_size"]),
            }
            if tdt:
                found["durations"] = tuple(
                    (loss.get("tdt_kwargs") or {}).get(
                        "durations", range(config["joint"]["num_extra_outputs"])
                    )
                )
        if found["vocab_size"] < 1:
            found["vocab_size"] = len(head.get("vocabulary") or config["joint"]["vocabulary"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The configuration of this checkpoint lacks {error}: its memory cannot be estimated. "
            f"Expected a FastConformer of NeMo."
        ) from None
    return Architecture(**found)


def architecture_at(source: str) -> Architecture | None:
    """The architecture of model.source: read from its .nemo, else that of a published checkpoint by
    name; None for another hub id.
    """
    archive = locate(source)
    if archive:
        return architecture_of(check_archive(archive))
    by_source = {resolve(name): architecture for name, architecture in REPLICAS.items()}
    return by_source.get(resolve(source))


def gpu_bytes() -> int | None:
    """Memory of the smallest GPU, as nvidia-smi says; None without one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        return min(int(line) for line in done.stdout.splitlines()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def estimate_run(
    config: dict[str, Any], utterances: Sequence[Utterance], *, num_ranks: int
) -> tuple[Estimate, str, float, bool] | None:
    """(estimate, "cpu" or "gpu", GB that the device has, with activation checkpointing) for a run
    of recipes/finetune.py; None if the checkpoint's architecture is not known.

    With data.batch_seconds=auto the smallest batch, one utterance, is assumed; whether
    trainer.activation_checkpointing=auto is needed is asked of batches of BATCH_SECONDS.
    """
    architecture = architecture_at(config["model"]["source"])
    if architecture is None:
        return None
    trainer, adaptation = config["trainer"], config["adaptation"]
    gpu = None if trainer["accelerator"] == "cpu" else gpu_bytes()
    precision = str(trainer["precision"])
    if precision == "auto":
        precision = "bf16-mixed" if gpu else "32"
    strategy = (
        ("ddp" if num_ranks > 1 else "none")
        if trainer["strategy"] == "auto"
        else trainer["strategy"]
    )
    longest = float(durations_of(utterances).max())
    batch_seconds = batch_seconds_on(
        config["data"]["batch_seconds"], device="gpu" if gpu else "cpu", strategy=strategy
    )
    usual = BATCH_SECONDS if batch_seconds == "auto" else batch_seconds
    estimated = functools.partial(
        estimate,
        architecture,
        device="gpu" if gpu else "cpu",
        precision=precision,
        strategy=strategy,
        num_ranks=num_ranks,
        longest_seconds=longest,
        most_tokens=most_characters_of(utterances) / CHARACTERS_PER_TOKEN,
        learning_share=learning_share(architecture, adaptation),
        full_attention=config["model"]["attention"] == "full",
        states=config["optim"]["states"],
    )
    has = (gpu or free_bytes()) / 1e9
    twice = trainer["activation_checkpointing"]
    if twice == "auto":
        twice = estimated(batch_seconds=usual).total > has
    seconds = longest if batch_seconds == "auto" else batch_seconds
    found = estimated(batch_seconds=seconds, checkpointing=twice)
    return found, "gpu" if gpu else "cpu", has, twice


def batch_seconds_on(
    asked: float | str | None, *, device: str, strategy: str
) -> float | Literal["auto"]:
    """What data.batch_seconds means on a device (gpu or cpu): a number of seconds or auto."""
    if asked is None:
        asked = "auto" if device == "gpu" and strategy != "fsdp" else BATCH_SECONDS
    return "auto" if asked == "auto" else float(asked)


def computes_twice(
    config: dict[str, Any], utterances: Sequence[Utterance], *, num_ranks: int
) -> bool:
    """What trainer.activation_checkpointing means here. auto: whether the estimate without it is
    more than the device has; not for a checkpoint of which nothing is known.
    """
    found = estimate_run(config, utterances, num_ranks=num_ranks)
    return found[3] if found else config["trainer"]["activation_checkpointing"] is True


def facts(
    config: dict[str, Any], utterances: Sequence[Utterance], *, num_ranks: int, peak_gb: float
) -> dict[str, Any]:
    """For run.json: what was estimated before the run, and what it took."""
    found = estimate_run(config, utterances, num_ranks=num_ranks)
    return {"estimate": found and found[0].facts(), "peak_gb": round(peak_gb, 3)}


def learning_share(a: Architecture, adaptation: dict[str, Any]) -> float:
    """The share of the weights that gets gradients and optimiser states: of LoRA and adapters what
    they add, else all that is not in the encoder if the encoder is frozen, else all.
    """
    if adaptation["mode"] == "lora":
        return a.n_layers * adaptation["lora_rank"] * 28 * a.d_model / num_weights(a)
    if adaptation["mode"] == "adapters":
        return a.n_layers * 2 * adaptation["adapter_dim"] * a.d_model / num_weights(a)
    if "encoder" in adaptation["frozen"]:
        return 1 - encoder_weights(a) / num_weights(a)
    return 1.0


def encoder_weights(a: Architecture) -> int:
    """Parameters of the encoder."""
    return num_weights(dataclasses.replace(a, family="ctc")) - (a.d_model + 1) * (a.vocab_size + 1)


def check(config: dict[str, Any], utterances: Sequence[Utterance], *, num_ranks: int) -> str:
    """A line that says what a run will need. Raises UserError if weights, gradients and optimiser
    states alone are more than the device has.
    """
    found = estimate_run(config, utterances, num_ranks=num_ranks)
    if found is None:
        return (
            f"memory: not estimated, as nothing is known of {config['model']['source']} before "
            f"it is here"
        )
    need, device, has, twice = found
    where = "the GPU has" if device == "gpu" else "this machine has free"
    parts = (
        f"about {need.total:.1f} GB on each of {num_ranks} devices"
        if num_ranks > 1
        else f"about {need.total:.1f} GB"
    ) + (
        f" (weights {need.weights:.2f}, gradients {need.gradients:.2f}, optimiser "
        f"{need.optimizer:.2f}, copies {need.copies:.2f}, "
        f"activations {need.activations:.2f}, software {need.software:.1f}); {where} {has:.1f} GB"
    )
    if twice:
        parts += "; encoder layers are computed twice"
    cures = (
        "adaptation=lora, trainer.precision=bf16-true, optim.states=8bit, "
        "trainer.activation_checkpointing=true, a smaller data.batch_seconds (or auto), "
        "model.attention=local, or several GPUs with trainer=fsdp"
    )
    if need.weights + need.gradients + need.optimizer > has:
        raise UserError(f"This run does not fit: {parts}. Use {cures}.")
    return f"memory: {parts}" + (f". It may not fit: use {cures}" if need.total > has else "")


def table(
    *, batch_seconds: float = 120.0, longest_seconds: float = 20.0, most_tokens: float = 100.0
) -> list[dict[str, Any]]:
    """Estimates for GPUs of the 0.6B and 1.1B checkpoints by strategy, precision and what learns:
    rows of computed, not measured, GB.
    """
    rows = []
    for name in (
        "parakeet_ctc_0.6b",
        "parakeet_tdt_0.6b_v3",
        "parakeet_ctc_1.1b",
        "parakeet_tdt_ctc_1.1b",
    ):
        for strategy, num_ranks in (("one GPU", 1), ("ddp", 8), ("fsdp", 8)):
            for precision in ("32", "bf16-mixed", "bf16-true"):
                for learns in ("all", "lora"):
                    share = learning_share(
                        REPLICAS[name],
                        {
                            "mode": "lora" if learns == "lora" else "weights",
                            "lora_rank": 16,
                            "frozen": [],
                        },
                    )
                    found = estimate(
                        REPLICAS[name],
                        device="gpu",
                        precision=precision,
                        strategy=strategy,
                        num_ranks=num_ranks,
                        batch_seconds=batch_seconds,
                        longest_seconds=longest_seconds,
                        most_tokens=most_tokens,
                        learning_share=share,
                    )
                    rows.append(
                        {
                            "checkpoint": name,
                            "strategy": strategy,
                            "num_ranks": num_ranks,
                            "precision": precision,
                            "learns": learns,
                        }
                        | found.facts()
                    )
    return rows


def lean(name: str, *, strategy: str, num_ranks: int) -> float | None:
    """GB in all with weights in bfloat16, moments in 8 bits and layers computed twice, on the
    batches of `table`; None for what fsdp cannot do.
    """
    if strategy == "fsdp":
        return None
    return estimate(
        REPLICAS[name],
        device="gpu",
        precision="bf16-true",
        strategy=strategy,
        num_ranks=num_ranks,
        batch_seconds=120.0,
        longest_seconds=20.0,
        most_tokens=100.0,
        checkpointing=True,
        states="8bit",
    ).total


def main() -> None:
    """Print the table as Markdown: GB on each GPU, without and with the activations of 120 s in
    utterances of 20 s.
    """
    rows = table()
    print(
        "| checkpoint | strategy | 32 | bf16-mixed | bf16-true | bf16-mixed, LoRA | lean "
        "|\n|---|---|---|---|---|---|---|"
    )
    for name, strategy in dict.fromkeys((row["checkpoint"], row["strategy"]) for row in rows):
        cells = [
            next(
                row["total_gb"]
                for row in rows
                if (row["checkpoint"], row["strategy"], row["precision"], row["learns"])
                == (name, strategy, *wanted)
            )
            for wanted in (
                ("32", "all"),
                ("bf16-mixed", "all"),
                ("bf16-true", "all"),
                ("bf16-mixed", "lora"),
            )
        ]
        ranks = "" if strategy == "one GPU" else " on 8"
        least = lean(name, strategy=strategy, num_ranks=8)
        shown = [f"{cell:.0f}" for cell in cells] + [f"{least:.0f}" if least else "-"]
        print(f"| {name} | {strategy}{ranks} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
