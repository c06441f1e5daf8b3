"""Figures of a run to report.json, report.md and report.html; pure until write_report()."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.files import atomic_path, write_json
from parakeet_ft.report.markdown import code, plain, table_row
from parakeet_ft.scoring import breakdown, wer
from parakeet_ft.scoring.words import interval_words, percent

# With fewer speakers an interval over them is wide, and one over their utterances is blind to what
# other voices would do.
FEW_SPEAKERS = 5


def verdict(report: dict[str, Any]) -> str:
    """One sentence: what was gained, what was forgotten, and whether either is more than chance."""
    before, after = (report[when]["domain"]["wer"] for when in ("baseline", "tuned"))
    found = report["comparison"]["domain"]["verdict"]
    domain = f"Domain WER {_movement(before, after, found)} ({found})"
    if "guard" not in report["baseline"]:
        return f"{domain}; no guard set was given, so what was forgotten is not known."
    before, after = (report[when]["guard"]["wer"] for when in ("baseline", "tuned"))
    points = 100 * (after - before)
    found = report["comparison"]["guard"]["verdict"]
    kept = f"guard WER {_movement(before, after, found)} ({found}, {points:+.1f} points)"
    tolerance = report.get("guard_tolerance")
    warning = (
        f": MORE THAN THE TOLERANCE of {100 * tolerance:.1f} points was forgotten"
        if tolerance is not None and points > 100 * tolerance
        else ""
    )
    return f"{domain}; {kept}{warning}."


def _movement(before: float, after: float, found: str) -> str:
    if percent(before) == percent(after):
        return f"stayed at {percent(after)}"
    return (
        f"{'went' if found == 'not distinguishable' else 'fell' if after < before else 'rose'} "
        f"from {percent(before)} to {percent(after)}"
    )


def utterance_rows(
    utterances: Sequence[Utterance], before: Sequence[str], after: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per utterance with its word errors before and after, most errors a word after
    first.
    """
    references = [u.text for u in utterances]
    errors = [
        wer.word_errors(references, texts)[:, :3].sum(axis=1).tolist() for texts in (before, after)
    ]
    rows = []
    for utterance, old, new, errors_before, errors_after in zip(
        utterances, before, after, *errors, strict=True
    ):
        words = max(len(utterance.text.split()), 1)
        rows.append(
            {
                "audio_filepath": utterance.audio_filepath,
                "offset": utterance.offset,
                "duration": utterance.duration,
                "speaker": utterance.speaker,
                "reference": utterance.text,
                "before": old,
                "after": new,
                "errors_before": errors_before,
                "errors_after": errors_after,
                "wer_before": errors_before / words,
                "wer_after": errors_after / words,
            }
        )
    return sorted(rows, key=lambda row: (-row["wer_after"], -row["wer_before"]))


def groups_before_after(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Two breakdowns of the same utterances as one: group, utterances, words, wer_before,
    wer_after; in the order of `after`.
    """
    old = {row["group"]: row["wer"] for row in before}
    return [
        {
            "group": row["group"],
            "utterances": row["utterances"],
            "words": row["words"],
            "wer_before": old[row["group"]],
            "wer_after": row["wer"],
        }
        for row in after
    ]


def remarks(
    history: Sequence[dict[str, Any]], effective: dict[str, Any], *, ended_well: bool
) -> list[str]:
    """What happened on the way that a reader should know: remarks of the validations, each with its
    first and last step, and bad batches. Alarms of a run that ended well were false.
    """
    steps: dict[str, list[int]] = {}
    for point in history:
        alarms = point.get("alarms", {}).values() if ended_well else ()
        for remark in point.get("remarks", []):
            if remark not in alarms:
                steps.setdefault(remark, []).append(point["step"])
    found = [
        f"While training, at step {seen[0]}: {remark}"
        if len(seen) == 1
        else f"While training, at {len(seen)} validations, steps {seen[0]} to {seen[-1]}: {remark}"
        for remark, seen in steps.items()
    ]
    found += (
        [
            "This is about the weights during training; the figures are of best.nemo, which was "
            "chosen after it."
        ]
        if found
        else []
    )
    bad = (effective.get("bad_batches") or {}).get("count", 0)
    return found + (
        [
            f"{bad} training batch{'es' if bad > 1 else ''} had no finite loss or gradient and "
            f"taught nothing: see bad_batches.jsonl."
        ]
        if bad
        else []
    )


def num_speakers(speakers: Sequence[str | None]) -> int | None:
    """How many there are; None where that is not known of every utterance."""
    return len(set(speakers)) if speakers and all(speakers) else None


def few_speakers(speakers: Sequence[str | None]) -> list[str]:
    """A warning if all of a test set's speakers are known and they are few."""
    count = num_speakers(speakers)
    if count is None or count >= FEW_SPEAKERS:
        return []
    people = "one speaker" if count == 1 else f"{count} speakers"
    return [
        f"The test set has {people}: the figures and their interval say little of other voices."
    ]


def problem(
    utterances: Sequence[Utterance], before: Sequence[str], after: Sequence[str]
) -> str | None:
    """What to tell if the chosen weights are worse on the validation set than the checkpoint was,
    and not by chance; else None.
    """
    references = [u.text for u in utterances]
    speakers = [u.speaker for u in utterances]
    if wer.compare(references, before, after, speakers=speakers)["verdict"] != "worse":
        return None
    old, new = (100 * wer.score(references, texts).wer for texts in (before, after))
    return (
        f"The run made the model worse: on the validation set {old:.1f} % WER before, {new:.1f} % "
        "after. best.nemo should not be used, and `latest` stays where it was. Lower optim.lr, "
        "train "
        "longer, or look at the data (report.html, hypotheses.jsonl)."
    )


def build_report(
    *,
    name: str,
    command: str,
    run: dict[str, Any],
    sets: dict[str, list[Utterance]],
    before: dict[str, list[str]],
    after: dict[str, list[str]],
    base: dict[str, wer.Score],
    tuned: dict[str, wer.Score],
    history: list[dict[str, float]],
    candidates: list[dict[str, Any]],
    best_step: int,
    steps: int,
    guard_tolerance: float | None,
    problem: str | None = None,
) -> dict[str, Any]:
    """What report.json holds. problem: why the model should not be used, if so. "domain" is the
    test set and "guard" the guard's test set; the validation sets chose the checkpoint.
    """
    roles = {"domain": "test"} | ({"guard": "guard_test"} if "guard_test" in sets else {})
    test, old, new = sets["test"], before["test"], after["test"]
    warnings = [problem] if problem else []
    warnings += few_speakers([u.speaker for u in test])
    if sets["test"] is sets["validation"]:
        warnings.append(
            "No test set was given: these figures are of the validation set, which also chose the "
            "checkpoint, so they flatter."
        )
    rose = "guard" in roles and tuned["guard_test"].wer - base["guard_test"].wer
    forgot = guard_tolerance is not None and rose > guard_tolerance
    notes = remarks(history, run["effective"], ended_well=not (problem or forgot))
    if learned := run["effective"].get("learned"):
        notes.append(
            f"{learned['moved_share_of_weights']:.1%} of the weights that learn have moved."
        )
    best = candidates[0]
    rule = (
        "gain on the domain, less the more of the guard's tolerance is used"
        if "guard_wer" in best and guard_tolerance is not None
        else "gain on the domain"
    )
    selection = (
        f"Chosen: {best['description']}, the best of {len(history)} validations and "
        f"{len(candidates) - 1} interpolations and averages "
    )
    selection += f"(score {best['selection_score']:.3f}: {rule})."
    if best["selection_score"] <= 0:
        selection = (
            f"NOTHING was better than the checkpoint within the guard's tolerance; "
            f"{best['description']} lost least."
        )
    start = {"step": 0, "val_wer": base["validation"].wer, "selection_score": 0.0} | (
        {"guard_wer": base["guard_validation"].wer} if "guard_validation" in base else {}
    )
    report = {
        "name": name,
        "command": command,
        "model": "best.nemo",
        "best_step": best_step,
        "steps": steps,
        "selection": selection,
        "problem": problem,
        "warnings": warnings,
        "notes": notes,
        "guard_tolerance": guard_tolerance,
        "baseline": {role: dataclasses.asdict(base[key]) for role, key in roles.items()},
        "tuned": {role: dataclasses.asdict(tuned[key]) for role, key in roles.items()},
        "comparison": {
            role: wer.compare(
                [u.text for u in sets[key]],
                before[key],
                after[key],
                speakers=[u.speaker for u in sets[key]],
            )
            | {"speakers": num_speakers([u.speaker for u in sets[key]])}
            for role, key in roles.items()
        },
        "history": [start, *history],
        "candidates": candidates,
        "durations": groups_before_after(
            *(breakdown.by_duration(test, texts) for texts in (old, new))
        ),
        "speakers": groups_before_after(
            *(breakdown.by_field(test, texts, "speaker") for texts in (old, new))
        ),
        "confusions": breakdown.confusions([u.text for u in test], new),
        "utterances": utterance_rows(test, old, new),
        "commit": run["commit"],
        "manifests": run["manifests"],
        "config": run["config"],
        "effective": run["effective"],
    }
    return report | {"verdict": verdict(report)}


def _dev_scores(row: dict[str, Any]) -> str:
    return (
        f"{percent(row['val_wer'])} | "
        f"{percent(row['guard_wer']) if 'guard_wer' in row else '-'} | "
        f"{row['selection_score']:.3f}"
    )


def render_markdown(report: dict[str, Any]) -> str:
    """report.md: verdict, before and after, notes, validations, candidates, breakdowns, the ten
    worst utterances.
    """
    lines = [
        f"# {plain(report['name'])}",
        "",
        plain(report["verdict"]),
        *(f"\n**{plain(warning)}**" for warning in report["warnings"]),
        "",
        "| set | words | WER before | WER after | sub/del/ins after | normalised before | after | "
        "CER before | after | change of WER [95 %] in points |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in report["baseline"]:
        before, after = report["baseline"][name], report["tuned"][name]
        wers, normalized, cers = (
            [percent(scores[rate]) for scores in (before, after)]
            for rate in ("wer", "wer_normalized", "cer")
        )
        if reason := wer.joined(after):
            normalized = [reason, "-"]
        kinds = "/".join(str(after[kind]) for kind in ("substitutions", "deletions", "insertions"))
        lines.append(
            table_row(
                [
                    name,
                    str(before["words"]),
                    *wers,
                    kinds,
                    *normalized,
                    *cers,
                    interval_words(report["comparison"][name]),
                ]
            )
        )
    if report["notes"]:
        lines += ["", "Notes:", "", *(f"- {plain(note)}" for note in report["notes"])]
    lines += [
        "",
        code(report["command"]),
        "",
        f"{report['model']}: {plain(report['selection'])}",
        "",
        "| step | domain WER (dev) | guard WER (dev) | score |",
        "|---|---|---|---|",
    ]
    lines += [f"| {p['step']} | {_dev_scores(p)} |" for p in report["history"]]
    lines += ["", "| weights | domain WER (dev) | guard WER (dev) | score |", "|---|---|---|---|"]
    lines += [f"| {plain(c['description'])} | {_dev_scores(c)} |" for c in report["candidates"]]
    for title, rows in (("duration", report["durations"]), ("speaker", report["speakers"])):
        if rows:
            lines += ["", f"| {title} | words | WER before | WER after |", "|---|---|---|---|"]
            lines += [
                table_row(
                    [
                        plain(row["group"]),
                        str(row["words"]),
                        *(percent(row[f"wer_{when}"]) for when in ("before", "after")),
                    ]
                )
                for row in rows
            ]
    lines += ["", "Worst utterances:", ""]
    lines += [
        f'- said "{plain(row["reference"])}", heard "{plain(row["after"])}", '
        f'before "{plain(row["before"])}"'
        for row in report["utterances"][:10]
    ]
    return "\n".join(lines) + "\n"


def write_report(report: dict[str, Any], run_dir: Path, *, examples: int) -> None:
    """Write report.json, report.md and report.html into run_dir, each whole or not at all."""
    from parakeet_ft.report.page import render_page

    for name, text in (
        ("report.md", render_markdown(report)),
        ("report.html", render_page(report, examples=examples)),
    ):
        with atomic_path(run_dir / name) as path:
            path.write_text(text, encoding="utf-8")
    write_json(run_dir / "report.json", report)
