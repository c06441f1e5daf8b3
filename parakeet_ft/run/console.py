"""What the user sees: phases, facts, tables. What libraries print goes to run.log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parakeet_ft.distributed import ranks
from parakeet_ft.run import signals
from parakeet_ft.run.columns import candidate_lines, wrapped
from parakeet_ft.scoring.words import percent, shortened, summary_line
from parakeet_ft.settings.guards import roles, title_of


def set_name(key: str) -> str:
    """What a set that is scored is called."""
    for kind, words in (("validation", "dev"), ("test", "test")):
        for name in ["domain"] if key == kind else roles([key], kind):
            return f"{title_of(name)} ({words})"
    return key


@contextlib.contextmanager
def libraries_to(path: Path) -> Iterator[TextIO]:
    """Inside, what anything writes to stdout or stderr goes to `path`, C libraries and child
    processes included.

    Yields a stream that still reaches the terminal. An exception leaves the redirection first, so
    its message is seen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    # Before NeMo is imported: OneLogger's two warnings are of no use to anybody who did not
    # configure it.
    for name in (
        "nv_one_logger.api.config",
        "nv_one_logger.training_telemetry.api.training_telemetry_provider",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        # Of several ranks the first alone talks.
        seen = os.open(os.devnull, os.O_WRONLY) if ranks.rank() else os.dup(saved[0])
        with os.fdopen(seen, "w", buffering=1, encoding="utf-8") as terminal:
            yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk must not hide what comes next
                stream.flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)


class Narrator:
    """Prints phases with their seconds, effective settings, scores and the last line."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
        self.started = time.monotonic()
        self.phase_started: float | None = None
        self.phases: dict[str, float] = {}
        self._name = ""

    def phase(self, name: str) -> None:
        """Begin a phase; the one before ends."""
        signals.raise_swallowed()
        self.end_phase()
        self._name = name
        self.phase_started = time.monotonic()
        self.console.print(f"[bold]{name}[/bold]")

    def end_phase(self) -> None:
        """Note how long the phase took that is under way."""
        if self.phase_started is not None:
            self.phases[self._name] = round(time.monotonic() - self.phase_started, 2)
            self.phase_started = None

    def lines(self, lines: list[str]) -> None:
        """Print lines, indented."""
        for line in lines:
            self.console.print(f"  {line}", markup=False)

    def scores(self, scores: dict[str, Any]) -> None:
        """One line of WER per set."""
        names = {key: set_name(key) for key in scores}
        width = max(14, *map(len, names.values()))
        self.lines(
            [
                f"{names[key]:<{width}} WER {100 * score.wer:5.1f} %   {score.words} words"
                for key, score in scores.items()
            ]
        )

    def tables(self, tables: list[tuple[str, list[str], list[list[str]]]]) -> None:
        """Titles with heads and rows of cells, the first two columns to the left; outside a
        terminal nothing is wrapped.
        """
        console = self.console
        if not console.is_terminal:
            console = Console(file=console.file, highlight=False, width=240)
        for title, head, rows in tables:
            table = Table(
                *head,
                title=title,
                title_justify="left",
                title_style="bold",
                box=None,
                padding=(0, 2),
            )
            for column in table.columns[2:]:
                column.justify = "right"
                column.no_wrap = True
            for row in rows:
                table.add_row(*(escape(cell) for cell in row))
            console.print()
            console.print(table)

    def candidates(self, rows: list[dict[str, Any]]) -> None:
        """The table of what was tried for best.nemo, the winner first."""
        self.lines(candidate_lines(rows))

    def facts(self, effective: dict[str, Any]) -> None:
        """The effective settings that decide a run, as read back from the live objects."""
        model = effective["model"]
        budget = effective["budget"]
        lines = [
            model_line(model, effective["adaptation"]),
            data_line(budget),
            batches_line(effective["batching"], budget),
            f"augment    {augmentation_line(model['spec_augment'], effective['augmentation'])}",
            *optimizer_lines(effective["optimizer"]),
            *begins_lines(effective["adaptation"]["begins_at_step"]),
            f"device     {devices_line(effective['trainer'])}",
        ]
        lines += guards_lines(effective.get("guards") or {})
        if effective["distillation"]:
            lines.append(distillation_line(effective["distillation"]))
        self.lines([part for line in lines for part in wrapped(line)])

    def finish(self, report: dict[str, Any], run_dir: Path) -> None:
        """The table before and after, the verdict, and the last line."""
        head = ("set", "words", "WER before", "WER after", "CER before", "CER after")
        table = Table(*head, box=None, padding=(0, 1))
        for name, before in report["baseline"].items():
            after = report["tuned"][name]
            table.add_row(
                escape(shortened(title_of(name), 22)),
                str(before["words"]),
                percent(before["wer"]),
                percent(after["wer"]),
                percent(before["cer"]),
                percent(after["cer"]),
            )
        self.console.print(table)
        folder = run_dir if report["problem"] else latest_or(run_dir)
        self.lines(
            [
                *report["warnings"],
                *report["notes"],
                f"best.nemo: {report['selection']}",
                report["verdict"],
                *([report["terms"]["verdict"]] if report.get("terms") else []),
                f"report: {run_dir / 'report.html'}",
                f"done in {time.monotonic() - self.started:.0f} s: {folder / report['model']}",
            ]
        )
        self.console.print(summary_line(report), markup=False)


def model_line(model: dict[str, Any], learning: dict[str, Any]) -> str:
    """What the model is and how much of it learns."""
    return (
        f"model      {model['class']}, {model['num_weights'] / 1e6:.1f} M weights, "
        f"{learning['learning'] / 1e6:.1f} M learn; {model['vocab_size']} pieces"
    )


def data_line(budget: dict[str, Any]) -> str:
    """How much audio a pass and the run are."""
    hours, ratio = budget["hours_per_pass"], budget["replay_ratio"]
    audio = f"{hours:.2f} h of audio"
    if ratio:
        domain = hours / (1 + ratio)
        audio = f"{domain:.2f} h of the domain + {hours - domain:.2f} h of replay"
    return (
        f"data       1 pass = {budget['steps_per_pass']} steps of at most "
        f"{budget['batch_seconds']:g} s on {budget['num_ranks']} device(s), "
        f"{audio}; this run = {budget['passes']:.1f} "
        f"passes, {budget['steps']} steps"
    )


def batches_line(batching: dict[str, Any], budget: dict[str, Any]) -> str:
    """How the batches are made and how large the largest is."""
    return (
        f"batches    {batching['reason']}: {batching['batches']} a pass, padding "
        f"{batching['padding_share']:.1%}, the largest {batching['largest_batch_seconds']:g} s or "
        f"{batching['largest_batch_utterances']} utterances; {budget['accumulate']} a step"
    )


def optimizer_lines(optimizer: dict[str, Any]) -> list[str]:
    """The learning rate, and what each group of weights has of it."""
    lines = [
        f"optimiser  AdamW, peak lr {optimizer['lr']:g} ({optimizer['lr_reason']}), "
        f"{optimizer['warmup_steps']} warm-up steps, cosine"
    ]
    lines += [
        f"           {group['name']:<18} lr {group['lr']:.1e}  decay {group['weight_decay']:<5g} "
        f"{group['tensors']:4} tensors {group['weights'] / 1e6:8.3f} M"
        for group in optimizer["groups"]
    ]
    return lines


def guards_lines(guards: dict[str, Any]) -> list[str]:
    """What each guard may lose, and how much speech like it is mixed in."""
    lines: list[str] = []
    for name, found in guards.items():
        may = "may lose whatever it does"
        if found["tolerance"] is not None:
            may = f"{100 * found['tolerance']:g} points are the limit, the less lost the better"
        mixed = "no speech like it is mixed in"
        if ratio := found["replay_ratio"]:
            mixed = f"{ratio:g} s of speech like it for each second of the domain"
        lines.append(f"{'' if lines else 'guards':<10} {name}: {may}; {mixed}")
    return lines


def begins_lines(begins_at_step: dict[str, int]) -> list[str]:
    """Which modules begin to learn later; nothing if all learn from the first step."""
    if not begins_at_step:
        return []
    names = {"encoder": "the rest of it"}
    parts = [f"{names.get(name, name)} at step {step}" for name, step in begins_at_step.items()]
    return [f"           begins: {', '.join(parts)}"]


def distillation_line(distillation: dict[str, Any]) -> str:
    """What is compared with the teacher, and how much that counts."""
    return (
        f"distil     {distillation['compares']}, weight {distillation['weight']:g}, temperature "
        f"{distillation['temperature']:g}"
    )


def devices_line(devices: dict[str, Any]) -> str:
    """What runs where, from what trainer.resolve returns."""
    several = f" on each of {devices['num_nodes']} nodes" if devices["num_nodes"] > 1 else ""
    idle = devices["devices_found"] - devices["devices"]
    line = (
        f"{devices['devices']} {devices['accelerator'].upper()} rank(s){several}, strategy "
        f"{devices['strategy']}, precision {devices['precision']}"
    )
    if devices.get("tf32"):
        line += ", TF32"
    if devices.get("activation_checkpointing") is True:
        line += ", encoder layers computed twice, not kept"
    if idle > 0:
        line += f"; {idle} of this node's {devices['devices_found']} GPUs are not used"
    return line


def augmentation_line(masks: dict[str, float] | None, audio: dict[str, Any] | None) -> str:
    """What training does to spectrograms and audio, from model.parts.spec_augment_facts and
    Augmentation.facts.
    """
    masked = _masks(masks) if masks else "no SpecAugment"
    if not audio:
        return f"{masked}; audio as it is"
    parts = [masked]
    if audio["speeds"] != [1.0]:
        parts.append(f"speed {', '.join(f'{speed:g}' for speed in audio['speeds'])}")
    if audio["noises"]:
        low, high = audio["noise_snr_db"]
        parts.append(f"noise at {low:g} to {high:g} dB in {audio['noise_probability']:.0%}")
    if audio["codec_probability"]:
        parts.append(f"telephone in {audio['codec_probability']:.0%}")
    return "; ".join(parts)


def _masks(masks: dict[str, float]) -> str:
    """The masks of SpecAugment; a time width is a share of the time or a number of frames."""
    width = f"{masks['time_width']} frames"
    if isinstance(masks["time_width"], float):
        width = f"{masks['time_width']:.0%} of the time"
    return (
        f"SpecAugment {masks['freq_masks']} x {masks['freq_width']} mels, {masks['time_masks']} x "
        f"{width}"
    )


def latest_or(run_dir: Path) -> Path:
    """`latest` beside run_dir where it is a link, else run_dir."""
    latest = run_dir.parent / "latest"
    return latest if latest.is_symlink() else run_dir


def link_latest(run_dir: Path) -> None:
    """Point `latest` beside run_dir at it; a file or folder of the user's that has this name
    stays.
    """
    latest = run_dir.parent / "latest"
    if latest.exists() and not latest.is_symlink():
        return
    link = run_dir.parent / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(run_dir.name)
    os.replace(link, latest)
