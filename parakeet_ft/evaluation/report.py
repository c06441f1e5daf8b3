"""Figures to report.json, report.md and report.html; pure until write_report()."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance, atomic_path
from parakeet_ft.evaluation import wer
from parakeet_ft.provenance import write_json

AUDIO_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".opus": "audio/ogg", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
LARGEST_PLAYER_BYTES = 400_000


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def verdict(report: dict[str, Any]) -> str:
    """One sentence: what was gained, what was forgotten, and whether either is more than chance."""
    before, after = report["baseline"]["domain"]["wer"], report["tuned"]["domain"]["wer"]
    domain = f"Domain WER {percent(before)} -> {percent(after)} ({report['comparison']['domain']['verdict']})"
    if "guard" not in report["baseline"]:
        return f"{domain}; no guard set was given, so what was forgotten is not known."
    before, after = report["baseline"]["guard"]["wer"], report["tuned"]["guard"]["wer"]
    points = 100 * (after - before)
    kept = f"guard WER {percent(before)} -> {percent(after)} ({report['comparison']['guard']['verdict']}, {points:+.1f} points)"
    tolerance = report.get("guard_tolerance")
    warning = f": MORE THAN THE TOLERANCE of {100 * tolerance:.1f} points was forgotten" if tolerance is not None and points > 100 * tolerance else ""
    return f"{domain}; {kept}{warning}."


def summary_line(report: dict[str, Any], model: str) -> str:
    """The last line on the terminal."""
    parts = [f"{name} WER {100 * report['baseline'][name]['wer']:.1f}% -> {100 * report['tuned'][name]['wer']:.1f}%"
             for name in ("domain", "guard") if name in report["baseline"]]
    return " | ".join([*parts, model])


def utterance_rows(utterances: Sequence[Utterance], before: Sequence[str], after: Sequence[str]) -> list[dict[str, Any]]:
    """One row per utterance with its errors before and after, most errors after first."""
    rows = []
    for utterance, old, new in zip(utterances, before, after, strict=True):
        errors = [wer.score([utterance.text], [text]) for text in (old, new)]
        rows.append({"audio_filepath": utterance.audio_filepath, "speaker": utterance.speaker, "reference": utterance.text,
                     "before": old, "after": new, "wer_before": errors[0].wer, "wer_after": errors[1].wer})
    return sorted(rows, key=lambda row: (-row["wer_after"], -row["wer_before"]))


def by_speaker(utterances: Sequence[Utterance], before: Sequence[str], after: Sequence[str]) -> list[dict[str, Any]]:
    """WER before and after per speaker, worst after first; empty if the manifest names no speakers."""
    rows = []
    for speaker in sorted({u.speaker for u in utterances if u.speaker}):
        chosen = [i for i, u in enumerate(utterances) if u.speaker == speaker]
        scores = [wer.score([utterances[i].text for i in chosen], [texts[i] for i in chosen]) for texts in (before, after)]
        rows.append({"speaker": speaker, "words": scores[0].words, "wer_before": scores[0].wer, "wer_after": scores[1].wer})
    return sorted(rows, key=lambda row: -row["wer_after"])


def learning_curve(history: Sequence[dict[str, float]], *, best_step: int) -> str:
    """Inline SVG of domain and guard WER over the steps, the exported step marked. Step 0 is the untouched checkpoint."""
    width, height, left, bottom, top = 640, 260, 46, 30, 14
    last = max(point["step"] for point in history) or 1
    highest = max(value for point in history for key, value in point.items() if key in ("val_wer", "guard_wer")) * 1.05 or 1.0

    def x(step: float) -> float:
        return left + (width - left - 90) * step / last

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / highest

    parts = [f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" aria-label="WER over training steps">']
    for k in range(5):
        value = highest * k / 4
        parts.append(f'<line x1="{left}" x2="{width - 90}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>'
                     f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.0f} %</text>')
    for step in sorted({0, last, best_step}):
        parts.append(f'<text x="{x(step):.1f}" y="{height - 8}" text-anchor="middle">{int(step)}</text>')
    parts.append(f'<line x1="{x(best_step):.1f}" x2="{x(best_step):.1f}" y1="{top}" y2="{height - bottom}" class="best"/>')
    for key, label in (("val_wer", "domain"), ("guard_wer", "guard")):
        points = [(x(p["step"]), y(p[key])) for p in history if key in p]
        if points:
            parts.append(f'<polyline class="{label}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
                         f'<text class="{label}" x="{points[-1][0] + 6:.1f}" y="{points[-1][1] + 4:.1f}">{label}</text>')
            parts += [f'<circle class="{label}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
    return "".join(parts) + "</svg>"


def diff_html(reference: str, hypothesis: str) -> str:
    """Words of a hypothesis against its reference: substituted, inserted and deleted words are marked."""
    parts = []
    for expected, heard in wer.word_diff(reference, hypothesis):
        if expected == heard:
            parts.append(html.escape(heard))
        elif not heard:
            parts.append(f"<del>{html.escape(expected)}</del>")
        elif not expected:
            parts.append(f"<ins>{html.escape(heard)}</ins>")
        else:
            parts.append(f'<span class="sub" title="{html.escape(expected)}">{html.escape(heard)}</span>')
    return " ".join(parts) or "<i>nothing</i>"


def player(utterance_path: str) -> str:
    """An audio player with the file inside the page; a note where the browser could not play it or it is too large."""
    path = Path(utterance_path)
    kind = AUDIO_TYPES.get(path.suffix.lower())
    if kind is None or not path.is_file() or path.stat().st_size > LARGEST_PLAYER_BYTES:
        return f"<small>{html.escape(path.name)}</small>"
    return f'<audio controls preload="none" src="data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"></audio>'


def build_report(*, name: str, command: str, run: dict[str, Any], sets: dict[str, list[Utterance]], before: dict[str, list[str]],
                 after: dict[str, list[str]], base: dict[str, wer.Score], tuned: dict[str, wer.Score], history: list[dict[str, float]],
                 candidates: list[dict[str, Any]], best_step: int, steps: int, guard_tolerance: float | None) -> dict[str, Any]:
    """What report.json holds. "domain" is the test set and "guard" the guard's test set; the validation sets chose the checkpoint."""
    roles = {"domain": "test"} | ({"guard": "guard_test"} if "guard_test" in sets else {})
    references = [u.text for u in sets["test"]]
    notes = []
    if sets["test"] is sets["validation"]:
        notes.append("No test set was given: these figures are of the validation set, which also chose the checkpoint, so they flatter.")
    notes += [f"At the last validation, step {history[-1]['step']}: {remark}" for remark in history[-1].get("remarks", [])]
    best = candidates[0]
    rule = "gain on the domain times what is left of the guard's tolerance" if "guard_wer" in best and guard_tolerance is not None else "gain on the domain"
    selection = f"Chosen: {best['description']}, the best of {len(history)} validations and {len(candidates) - 1} interpolations and averages "
    selection += f"(score {best['selection_score']:.3f}: {rule})."
    if best["selection_score"] <= 0:
        selection = f"NOTHING was better than the checkpoint within the guard's tolerance; {best['description']} lost least."
    start = {"step": 0, "val_wer": base["validation"].wer, "selection_score": 0.0} | (
        {"guard_wer": base["guard_validation"].wer} if "guard_validation" in base else {})
    report = {
        "name": name, "command": command, "model": "best.nemo", "best_step": best_step, "steps": steps, "selection": selection, "notes": notes,
        "guard_tolerance": guard_tolerance, "baseline": {role: dataclasses.asdict(base[key]) for role, key in roles.items()},
        "tuned": {role: dataclasses.asdict(tuned[key]) for role, key in roles.items()},
        "comparison": {role: wer.compare([u.text for u in sets[key]], before[key], after[key]) for role, key in roles.items()},
        "history": [start, *history], "candidates": candidates, "speakers": by_speaker(sets["test"], before["test"], after["test"]),
        "confusions": wer.confusions(references, after["test"]),
        "utterances": utterance_rows(sets["test"], before["test"], after["test"]),
        "commit": run["commit"], "manifests": run["manifests"], "config": run["config"], "effective": run["effective"]}
    return report | {"verdict": verdict(report)}


def _dev_scores(row: dict[str, Any]) -> str:
    return f"{percent(row['val_wer'])} | {percent(row['guard_wer']) if 'guard_wer' in row else '-'} | {row['selection_score']:.3f}"


def render_markdown(report: dict[str, Any]) -> str:
    """report.md: verdict, before and after, validations, candidates, the ten worst utterances."""
    lines = [f"# {report['name']}", "", report["verdict"], "",
             "| set | words | WER before | WER after | CER before | CER after |", "|---|---|---|---|---|---|"]
    for name in report["baseline"]:
        before, after = report["baseline"][name], report["tuned"][name]
        rates = (percent(scores[rate]) for rate in ("wer", "cer") for scores in (before, after))
        lines.append(f"| {name} | {before['words']} | {' | '.join(rates)} |")
    lines += ["", f"`{report['command']}`", "", f"{report['model']}: {report['selection']}", "",
              "| step | domain WER (dev) | guard WER (dev) | score |", "|---|---|---|---|"]
    lines += [f"| {p['step']} | {_dev_scores(p)} |" for p in report["history"]]
    lines += ["", "| weights | alpha | domain WER (dev) | guard WER (dev) | score |", "|---|---|---|---|---|"]
    lines += [f"| {c['weights']} | {c['alpha']:g} | {_dev_scores(c)} |" for c in report["candidates"]]
    lines += ["", "Worst utterances:", ""]
    lines += [f"- `{row['reference']}` -> `{row['after']}` (before: `{row['before']}`)" for row in report["utterances"][:10]]
    return "\n".join(lines) + "\n"


def render_html(report: dict[str, Any], *, examples: int) -> str:
    """The self-contained page: no network, readable on a phone."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    shown = [row | {"player": player(row["audio_filepath"]), "diff_before": diff_html(row["reference"], row["before"]),
                    "diff_after": diff_html(row["reference"], row["after"])} for row in report["utterances"][:examples]]
    return environment.get_template("report.html.jinja").render(
        report=report, shown=shown, curve=learning_curve(report["history"], best_step=report["best_step"]))


def write_report(report: dict[str, Any], run_dir: Path, *, examples: int) -> None:
    """Write report.json, report.md and report.html into run_dir, each whole or not at all."""
    for name, text in (("report.md", render_markdown(report)), ("report.html", render_html(report, examples=examples))):
        with atomic_path(run_dir / name) as path:
            path.write_text(text, encoding="utf-8")
    write_json(run_dir / "report.json", report)
