"""Seconds of audio per batch, found on the device: the worst batch of the data is tried out,
forward, backward and optimiser step, and all is put back.

On a GPU the batch grows until memory runs out; on a CPU until it is no faster, or takes half of the
memory that is free. What was found is kept in a cache by model, device and data, and in the run's
directory, where a resume reads it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parakeet_ft.batches.augmentation import Augmentation
from parakeet_ft.data.corpus import as_corpus, durations_of
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.distributed import ranks
from parakeet_ft.errors import UserError
from parakeet_ft.files import atomic_path
from parakeet_ft.memory import free_bytes
from parakeet_ft.model import checkpointing, parts
from parakeet_ft.model.objective import training_loss
from parakeet_ft.training import lightning_2_4
from parakeet_ft.training.adamw import AdamW, LeanAdamW
from parakeet_ft.training.bad_batches import is_out_of_memory
from parakeet_ft.training.random_states import random_states, restore_random_states

# of what fits on a GPU: real batches are cut otherwise than the worst one, and fragment its memory
MARGIN = 0.9
# batches that a pass shall keep, all ranks together: fuller ones learn less from the same data
LEAST_STEPS = 50
LEAST_GAIN = 1.05  # a CPU's batch doubles only for so much more audio a second
CPU_SHARE = 0.5  # of the free memory
TRIED_TEXTS = 20_000


def choose(
    model: Any,
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float | str,
    effective_batch_seconds: float | None,
    accumulate: int,
    augmentation: Augmentation | None,
    devices: Mapping[str, Any],
    copies: int,
    once: Callable[[str, Callable[[], Any]], Any],
    states: int | str = 32,
) -> dict[str, Any]:
    """{"batch_seconds", "accumulate", "effective_batch_seconds", "reason", ...}: what the plan of a
    run is made with.

    batch_seconds: a number stands, `auto` is found. effective_batch_seconds: wanted per optimiser
    step over all ranks, None for what `accumulate` gives. copies: further sets of weights that
    training will hold on the device. states: as optim.states. once: keeps a value in the run's
    directory. Raises UserError if not even the longest utterance fits, or for FSDP.
    """
    found: dict[str, Any] = {"batch_seconds": batch_seconds, "reason": "given"}
    if batch_seconds == "auto":
        if devices["strategy"] == "fsdp":
            raise UserError(
                "data.batch_seconds=auto tries batches on the whole model, which fsdp never holds. "
                "Give a number of seconds, such as 120."
            )
        most = most_seconds(
            utterances,
            effective_batch_seconds=effective_batch_seconds,
            num_ranks=devices["num_ranks"],
        )
        found = once(
            "batching",
            lambda: find(
                model,
                utterances,
                augmentation=augmentation,
                devices=devices,
                states=states,
                copies=copies,
                most=most,
            ),
        )
    seconds = found["batch_seconds"] * devices["num_ranks"]
    if effective_batch_seconds:
        accumulate = max(1, math.ceil(effective_batch_seconds / seconds - 1e-9))
    return found | {"accumulate": accumulate, "effective_batch_seconds": seconds * accumulate}


def line(found: dict[str, Any]) -> str:
    """What `choose` found, in words."""
    return (
        f"batches of at most {found['batch_seconds']:g} s ({found['reason']}), "
        f"{found['accumulate']} a step: {found['effective_batch_seconds']:g} s a step"
    )


def most_seconds(
    utterances: Sequence[Utterance], *, effective_batch_seconds: float | None, num_ranks: int
) -> float:
    """The largest batch of one rank worth having: LEAST_STEPS batches a pass, no more than the
    wanted step, no less than the longest utterance.
    """
    durations = durations_of(utterances)
    wanted = float(durations.sum()) / LEAST_STEPS
    if effective_batch_seconds:
        wanted = min(wanted, effective_batch_seconds)
    return max(wanted / num_ranks, float(durations.max()))


def find(
    model: Any,
    utterances: Sequence[Utterance],
    *,
    augmentation: Augmentation | None,
    devices: Mapping[str, Any],
    states: int | str,
    copies: int,
    most: float,
) -> dict[str, Any]:
    """Seconds per batch for this model and data on its device, the smallest of all ranks'; from the
    cache, or tried out.
    """
    device = parts.device(model)
    slowest = min(augmentation.speeds) if augmentation else 1.0
    longest = float(durations_of(utterances).max()) / slowest
    tokens = most_tokens(model, utterances)
    trial = Trial(
        model,
        seconds=longest,
        tokens=tokens,
        precision=devices["precision"],
        copies=copies,
        states=states,
        twice=devices["activation_checkpointing"] is True,
    )
    facts = trial.facts() | {
        "most": round(most, 3),
        "data": as_corpus(utterances).key,
    }
    cache = Cache(cache_path())
    kept = cache.read(facts)
    missing = any(ranks.add([kept is None]))
    if kept is None or missing:  # all ranks try, or none
        with untouched(model), trial.as_in_training():
            found = trial.on_gpu(most) if device.type == "cuda" else trial.on_cpu(most)
        cache.write(facts, found)
    else:
        found = kept | {"reason": f"{kept['reason']}, from the cache"}
    seconds = min(
        ranks.divide(lambda mine: [found["batch_seconds"] for _ in mine], range(ranks.num_ranks()))
    )
    return found | {"batch_seconds": seconds, "longest_seconds": longest, "most_tokens": tokens}


def most_tokens(model: Any, utterances: Sequence[Utterance]) -> int:
    """Tokens of the longest text; of very many texts those of most bytes are tried."""
    corpus = as_corpus(utterances)
    longest = np.argsort(-corpus.text_sizes, kind="stable")[:TRIED_TEXTS]
    texts = dict.fromkeys(corpus[int(index)].text for index in longest)
    return max(len(model.tokenizer.text_to_ids(text)) for text in texts)


class Trial:
    """Trains `model` on batches as bad as the data can make them: its longest audio (`seconds`),
    each with its longest text (`tokens` pieces).
    """

    def __init__(
        self,
        model: Any,
        *,
        seconds: float,
        tokens: int,
        precision: str,
        copies: int,
        states: int | str = 32,
        twice: bool = False,
    ) -> None:
        self.model, self.seconds, self.tokens, self.precision, self.copies = (
            model,
            seconds,
            tokens,
            precision,
            copies,
        )
        self.states, self.twice = str(states), twice
        self.device = parts.device(model)
        self.optimizer: torch.optim.Optimizer | None = None
        self.forward_context: Callable[[], Any] = contextlib.nullcontext

    @contextlib.contextmanager
    def as_in_training(self) -> Iterator[None]:
        """Inside, the model has the weights' type and the checkpointing of the run; what it was is
        for `untouched` to put back.
        """
        if self.precision == "bf16-true":
            plugin = lightning_2_4.BFloat16Weights(self.device.type)
            holder = torch.nn.Module()
            holder.model = self.model
            plugin.convert_module(holder)
            self.forward_context = plugin.forward_context
        with checkpointing.layers_computed_twice(self.model, self.twice):
            yield

    def _make_optimizer(self) -> torch.optim.Optimizer:
        # What waits to be unfrozen has gradients from the first step on
        # (parakeet_ft.training.adaptation), so this is the most that will learn.
        learning = [p for p in self.model.parameters() if p.requires_grad]
        if self.precision == "bf16-true" or self.states == "8bit":
            return LeanAdamW(learning, lr=1e-6, in_8_bits=self.states == "8bit")
        return AdamW(learning, lr=1e-6)

    def facts(self) -> dict[str, Any]:
        """What the result depends on, besides the data."""
        name, memory = "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            name, memory = properties.name, properties.total_memory
        learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return {
            "model": parts.describe(self.model),
            "learning": learning,
            "device": name,
            "memory": memory,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "copies": self.copies,
            "states": self.states,
            "twice": self.twice,
            "torch": torch.__version__,
            "seconds": self.seconds,
            "tokens": self.tokens,
        }

    def step(self, batch_seconds: float) -> float:
        """One optimiser step on at most batch_seconds, or one utterance; returns the seconds of
        audio in it.
        """
        rows, rate_hz = (
            max(1, int(batch_seconds / self.seconds + 1e-9)),
            parts.rate_hz(self.model),
        )
        audio = 0.1 * torch.randn(rows, round(self.seconds * rate_hz), device=self.device)
        tokens = torch.randint(
            0, self.model.tokenizer.vocab_size, (rows, max(1, self.tokens)), device=self.device
        )
        lengths = (
            torch.full((rows,), audio.shape[1], device=self.device),
            torch.full((rows,), self.tokens, device=self.device),
        )
        if self.optimizer is None:
            self.optimizer = self._make_optimizer()
        self.optimizer.zero_grad(set_to_none=True)
        kind = torch.float16 if self.precision == "16-mixed" else torch.bfloat16
        mixed = self.precision.endswith("mixed")
        with self.forward_context(), torch.autocast(self.device.type, kind, enabled=mixed):
            loss = training_loss(self.model, audio, lengths[0], tokens, lengths[1])["loss"]
        loss.backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return rows * self.seconds

    def on_gpu(self, most: float) -> dict[str, Any]:
        """The largest batch that fits, less a margin."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        kept = torch.empty(self.copies * weights, dtype=torch.uint8, device=self.device)
        tried: list[dict[str, Any]] = []

        def fits(seconds: float) -> bool:
            torch.cuda.reset_peak_memory_stats()
            audio, started = 0.0, time.perf_counter()
            try:
                audio = self.step(seconds)
                fitted = True
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                fitted = False
            taken = time.perf_counter() - started
            if not fitted:  # outside, as the exception holds the graph
                self.model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
            tried.append(
                {
                    "seconds": round(seconds, 2),
                    "fits": fitted,
                    "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
                }
                | ({"audio_per_second": round(audio / taken, 1)} if fitted else {})
            )
            return fitted

        found = largest(fits, least=self.seconds, most=most / MARGIN)
        del kept
        if found is None:
            raise UserError(
                f"Not even one utterance fits on {torch.cuda.get_device_name()}: "
                f"{self.seconds:.1f} s with {self.tokens} tokens. Cut long "
                "utterances, use adaptation=lora, model.attention=local, "
                "trainer.precision=bf16-true, or several GPUs with trainer=fsdp."
            )
        return {
            "batch_seconds": round(max(self.seconds, MARGIN * found), 2),
            "tried": tried,
            "reason": f"auto: {len(tried)} trials, {MARGIN:.0%} of what fits",
        }

    def on_cpu(self, most: float) -> dict[str, Any]:
        """The smallest batch beyond which audio a second hardly rises, within a share of the free
        memory.
        """
        tried: list[dict[str, Any]] = []

        def measure(seconds: float) -> tuple[float, float]:
            before, started = resident_bytes(reset=True), time.perf_counter()
            audio = self.step(seconds)
            speed, peak = audio / (time.perf_counter() - started), peak_bytes() - before
            tried.append(
                {
                    "seconds": round(seconds, 2),
                    "audio_per_second": round(speed, 1),
                    "peak_gb": round(peak / 1e9, 3),
                }
            )
            return speed, peak

        self.step(self.seconds)  # the first step is slower, and makes the optimiser's states
        found = fastest(measure, least=self.seconds, most=most, memory=CPU_SHARE * free_bytes())
        speed = max(trial["audio_per_second"] for trial in tried)
        return {
            "batch_seconds": round(found, 2),
            "tried": tried,
            "reason": f"auto: {len(tried)} trials, {speed:g} s of audio a second",
        }


def largest(
    fits: Callable[[float], bool], *, least: float, most: float, ratio: float = 1.1
) -> float | None:
    """The largest value in [least, most] that fits, to within `ratio`: doubling, then bisection;
    None if `least` does not fit.
    """
    if not fits(least):
        return None
    good, bad = least, None
    while bad is None and good < most:
        tried = min(2 * good, most)
        good, bad = (tried, None) if fits(tried) else (good, tried)
    while bad is not None and bad / good > ratio:
        tried = math.sqrt(good * bad)
        good, bad = (tried, bad) if fits(tried) else (good, tried)
    return good


def fastest(
    measure: Callable[[float], tuple[float, float]], *, least: float, most: float, memory: float
) -> float:
    """`least`, doubled while measure's speed rises by LEAST_GAIN and twice its peak (the second
    value) stays within `memory`; at most `most`.
    """
    seconds = least
    speed, peak = measure(seconds)
    while seconds < most and 2 * peak <= memory:
        larger = min(2 * seconds, most)
        new_speed, peak = measure(larger)
        if new_speed < LEAST_GAIN * speed:
            break
        seconds, speed = larger, new_speed
    return seconds


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Inside, a model may be trained; after, its weights, buffers, gradients and all random
    generators are bit for bit what they were.
    """
    weights = [(p, p.detach().to("cpu", copy=True), p.grad) for p in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().to("cpu", copy=True))
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for parameter, _, _ in weights:
        parameter.grad = None  # or a change of type inside would change the gradient's as well
    random = random_states()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value, gradient in weights:
                if parameter.dtype == value.dtype:
                    parameter.copy_(value)
                else:
                    parameter.data = value.to(parameter.device)
                parameter.grad = gradient
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                module._buffers[name] = buffer  # tables of positions are made anew for longer audio
        restore_random_states(random)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def resident_bytes(*, reset: bool = False) -> int:
    """What this process occupies now. reset: forget its peak (Linux; where that is forbidden, the
    peak stays that of its life).

    What was freed is given back first: glibc keeps it, and what is used again would not count.
    """
    if reset:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most that this process occupied since the peak was forgotten."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith("VmHWM"):
            return int(text.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cache_path() -> Path:
    """Where results are kept between runs: $XDG_CACHE_HOME or ~/.cache."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "parakeet-ft"
        / "batching.json"
    )


class Cache:
    """Results by what they depend on, in one JSON file. A file that cannot be read or written is no
    error: batches are then tried out again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def read(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """What was found for these facts, if anything."""
        return self._content().get(key_of(facts))

    def write(self, facts: dict[str, Any], found: dict[str, Any]) -> None:
        """Keep what was found; rank 0 alone writes."""
        if not ranks.rank():
            with contextlib.suppress(OSError), atomic_path(self.path) as temporary:
                temporary.write_text(
                    json.dumps(self._content() | {key_of(facts): found}, indent=1), encoding="utf-8"
                )


def key_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
