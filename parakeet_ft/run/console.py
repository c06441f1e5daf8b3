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

NAMES = {
    "validation": "domain (dev)",
    "test": "domain (test)",
    "guard_validation": "guard (dev)",
    "guard_test": "guard (test)",
}


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
        with os.fdopen(
            os.open(os.devnull, os.O_WRONLY) if ranks.rank() else os.dup(saved[0]),
            "w",
            buffering=1,
            encoding="utf-8",
        ) as terminal:
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
        self._name, self.phase_started = name, time.monotonic()
        self.console.print(f"[bold]{name}[/bold]")

    def end_phase(self) -> None:
        if self.phase_started is not None:
            self.phases[self._name] = round(time.monotonic() - self.phase_started, 2)
            self.phase_started = None

    def lines(self, lines: list[str]) -> None:
        for line in lines:
            self.console.print(f"  {line}", markup=False)

    def scores(self, scores: dict[str, Any]) -> None:
        """One line of WER per set."""
        self.lines(
            [
                f"{NAMES[key]:<14} WER {100 * score.wer:5.1f} %   {score.words} words"
                for key, score in scores.items()
            ]
        )

    def tables(self, tables: list[tuple[str, list[str], list[list[str]]]]) -> None:
        """Titles with heads and rows of cells, the first two columns to the left; outside a
        terminal nothing is wrapped.
        """
        console = (
            self.console
            if self.console.is_terminal
            else Console(file=self.console.file, highlight=False, width=240)
        )
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
                column.justify, column.no_wrap = "right", True
            for row in rows:
                table.add_row(*(escape(cell) for cell in row))
            console.print()
            console.print(table)

    def candidates(self, rows: list[dict[str, Any]]) -> None:
        """What was tried for best.nemo, the winner first."""
        width = max(len(row["description"]) for row in rows)
        self.lines(
            [
                f"{'->' if row is rows[0] else '  '} {row['description']:<{width}}  domain "
                f"{100 * row['val_wer']:5.1f} %"
                + (f"  guard {100 * row['guard_wer']:5.1f} %" if "guard_wer" in row else "")
                + f"  score {row['selection_score']:6.3f}"
                for row in rows
            ]
        )

    def facts(self, effective: dict[str, Any]) -> None:
        """The effective settings that decide a run, as read back from the live objects."""
        model, budget, optimizer, learning, batching = (
            effective[key] for key in ("model", "budget", "optimizer", "adaptation", "batching")
        )
        self.lines(
            [
                f"model      {model['class']}, {model['num_weights'] / 1e6:.1f} M weights, "
                f"{learning['learning'] / 1e6:.1f} M learn; "
                f"{model['vocab_size']} pieces, loss {model['loss']['class']}, blank "
                f"{model['loss']['blank']}",
                f"data       1 pass = {budget['steps_per_pass']} steps of at most "
                f"{budget['batch_seconds']:g} s on {budget['num_ranks']} device(s), "
                f"{budget['hours_per_pass']:.2f} h of audio; this run = {budget['passes']:.1f} "
                f"passes, {budget['steps']} steps",
                f"batches    {batching['reason']}: {batching['batches']} a pass, padding "
                f"{batching['padding_share']:.1%}, the largest "
                f"{batching['largest_batch_seconds']:g} s or "
                f"{batching['largest_batch_utterances']} utterances; {budget['accumulate']} a step",
                f"augment    {augmentation_line(model['spec_augment'], effective['augmentation'])}",
                f"optimiser  AdamW, peak lr {optimizer['lr']:g} ({optimizer['lr_reason']}), "
                f"{optimizer['warmup_steps']} warm-up steps, cosine",
                *(
                    f"           {group['name']:<28} lr {group['lr']:.1e}  weight decay "
                    f"{group['weight_decay']:g}  {group['tensors']:4} tensors "
                    f"{group['weights'] / 1e6:8.3f} M weights"
                    for group in optimizer["groups"]
                ),
                *(
                    [
                        "           begins: "
                        + ", ".join(
                            f"{'the rest of it' if module == 'encoder' else module} at step {step}"
                            for module, step in learning["begins_at_step"].items()
                        )
                    ]
                    if learning["begins_at_step"]
                    else []
                ),
                f"device     {devices_line(effective['trainer'])}",
            ]
            + ([f"loss       {effective['loss']}"] if effective["loss"] else [])
            + (
                [
                    f"distil     {effective['distillation']['compares']}, weight "
                    f"{effective['distillation']['weight']:g}, temperature "
                    f"{effective['distillation']['temperature']:g}"
                ]
                if effective["distillation"]
                else []
            )
        )

    def finish(self, report: dict[str, Any], run_dir: Path) -> None:
        """The table before and after, the verdict, and the last line."""
        from parakeet_ft.scoring.words import percent, summary_line

        table = Table(
            "set",
            "words",
            "WER before",
            "WER after",
            "CER before",
            "CER after",
            box=None,
            padding=(0, 2),
        )
        for name, before in report["baseline"].items():
            after = report["tuned"][name]
            table.add_row(
                name,
                str(before["words"]),
                *(percent(s[rate]) for rate in ("wer", "cer") for s in (before, after)),
            )
        self.console.print(table)
        self.lines(
            [
                *report["warnings"],
                *report["notes"],
                f"best.nemo: {report['selection']}",
                report["verdict"],
                f"report: {run_dir / 'report.html'}",
                f"done in {time.monotonic() - self.started:.0f} s",
            ]
        )
        self.console.print(
            summary_line(
                report,
                str((run_dir if report["problem"] else latest_or(run_dir)) / report["model"]),
            ),
            markup=False,
        )


def devices_line(devices: dict[str, Any]) -> str:
    """What runs where, from what trainer.resolve returns."""
    several = f" on each of {devices['num_nodes']} nodes" if devices["num_nodes"] > 1 else ""
    idle = devices["devices_found"] - devices["devices"]
    return (
        f"{devices['devices']} {devices['accelerator'].upper()} rank(s){several}, strategy "
        f"{devices['strategy']}, precision {devices['precision']}"
        + (
            f"; {idle} of this node's {devices['devices_found']} GPUs are not used"
            if idle > 0
            else ""
        )
    )


def augmentation_line(masks: dict[str, float] | None, audio: dict[str, Any] | None) -> str:
    """What training does to spectrograms and audio, from model.parts.spec_augment_facts and
    Augmentation.facts.
    """
    parts = ["no SpecAugment"]
    if masks:
        width = (
            f"{masks['time_width']:.0%} of the time"
            if isinstance(masks["time_width"], float)
            else f"{masks['time_width']} frames"
        )
        parts = [
            f"SpecAugment {masks['freq_masks']} x {masks['freq_width']} mels, "
            f"{masks['time_masks']} x {width}"
        ]
    if audio:
        parts += (
            [f"speed {', '.join(f'{speed:g}' for speed in audio['speeds'])}"]
            if audio["speeds"] != [1.0]
            else []
        )
        parts += (
            [
                f"noise at {audio['noise_snr_db'][0]:g} to {audio['noise_snr_db'][1]:g} dB in "
                f"{audio['noise_probability']:.0%}"
            ]
            if audio["noises"]
            else []
        )
        parts += (
            [f"telephone in {audio['codec_probability']:.0%}"] if audio["codec_probability"] else []
        )
    return "; ".join(parts) + ("" if audio else "; audio as it is")


def latest_or(run_dir: Path) -> Path:
    """`latest` beside run_dir where it is a link, else run_dir."""
    latest = run_dir.parent / "latest"
    return latest if latest.is_symlink() else run_dir


def link_latest(run_dir: Path) -> None:
    """Point `latest` beside run_dir at it; a file or folder of the user's that has this name
    stays.
    """
    link, latest = run_dir.parent / f".latest.{os.getpid()}", run_dir.parent / "latest"
    if latest.exists() and not latest.is_symlink():
        return
    link.unlink(missing_ok=True)
    link.symlink_to(run_dir.name)
    os.replace(link, latest)
