"""Figures of a run to report.json, report.md and report.html; pure until write_report()."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.data.voices import known_voices
from parakeet_ft.files import atomic_path, write_json
from parakeet_ft.report import terms as terms_of_report
from parakeet_ft.report.headline import size_of_change
from parakeet_ft.report.markdown import code, plain, table_row
from parakeet_ft.scoring import breakdown, forgotten, wer
from parakeet_ft.scoring.words import interval_words, percent
from parakeet_ft.settings import guards
from parakeet_ft.settings.guards import SHORT, title_of

# With fewer speakers an interval over them is wide, and one over their utterances is blind to what
# other voices would do.
FEW_SPEAKERS = 5
TERMS_MISSED = "terms missed (dev)"


def verdict(report: dict[str, Any]) -> str:
    """One sentence: what was gained, what was forgotten, and whether either is more than chance."""
    before, after = (report[when]["domain"]["wer"] for when in ("baseline", "tuned"))
    found = report["comparison"]["domain"]["verdict"]
    domain = f"Domain WER {_movement(before, after, found)} ({found})"
    tolerances = forgotten.tolerances(report)
    if not tolerances:
        return f"{domain}; no guard set was given, so what was forgotten is not known."
    kept = [_kept(report, name, tolerance) for name, tolerance in tolerances.items()]
    return f"{'; '.join([domain, *kept])}."


def _kept(report: dict[str, Any], name: str, tolerance: float | None) -> str:
    """What was forgotten of a guard."""
    before, after = (report[when][name]["wer"] for when in ("baseline", "tuned"))
    points = 100 * (after - before)
    found = report["comparison"][name]["verdict"]
    kept = f"{title_of(name)} WER {_movement(before, after, found)} ({found}, {points:+.1f} points)"
    if tolerance is not None and points > 100 * tolerance:
        kept += f": MORE THAN THE TOLERANCE of {100 * tolerance:.1f} points was forgotten"
    return kept


def _movement(before: float, after: float, found: str) -> str:
    """How a rate moved, in words that claim a direction only where it is no chance."""
    if percent(before) == percent(after):
        return f"stayed at {percent(after)}"
    verb = "fell" if after < before else "rose"
    if found == "not distinguishable":
        verb = "went"
    return f"{verb} from {percent(before)} to {percent(after)}"


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
        member = {"member": dataclasses.astuple(utterance.member)} if utterance.member else {}
        rows.append(
            member
            | {
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
    found = _validation_remarks(history, ended_well=ended_well)
    if found:
        found.append(
            "This is about the weights during training; the figures are of best.nemo, which was "
            "chosen after it."
        )
    bad = (effective.get("bad_batches") or {}).get("count", 0)
    if bad:
        batches = "batches" if bad > 1 else "batch"
        found.append(
            f"{bad} training {batches} had no finite loss or gradient and taught nothing: see "
            "bad_batches.jsonl."
        )
    return found


def _validation_remarks(history: Sequence[dict[str, Any]], *, ended_well: bool) -> list[str]:
    """Each remark once, with its first and last step."""
    steps: dict[str, list[int]] = {}
    for point in history:
        alarms = point.get("alarms", {}).values() if ended_well else ()
        for remark in point.get("remarks", []):
            if remark not in alarms:
                steps.setdefault(remark, []).append(point["step"])
    return [f"While training, at {_span(seen)}: {remark}" for remark, seen in steps.items()]


def _span(steps: Sequence[int]) -> str:
    """The steps of a remark in words."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    return f"{len(steps)} validations, steps {steps[0]} to {steps[-1]}"


def num_speakers(speakers: Sequence[str | None]) -> int | None:
    """How many there are; None where that is not known of every utterance."""
    return len(set(speakers)) if speakers and all(speakers) else None


def few_speakers(speakers: Sequence[str | None]) -> list[str]:
    """What to know if all of a test set's speakers are known and they are few."""
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
        "train longer, or look at the data (report.html, hypotheses.jsonl)."
    )


def build_report(
    *,
    name: str,
    command: str,
    run: dict[str, Any],
    sets: Mapping[str, Sequence[Utterance]],
    before: dict[str, list[str]],
    after: dict[str, list[str]],
    base: dict[str, wer.Score],
    base_watched: dict[str, wer.Score],
    tuned: dict[str, wer.Score],
    history: list[dict[str, float]],
    candidates: list[dict[str, Any]],
    best_step: int,
    steps: int,
    guard_tolerance: float | None,
    guard_tolerances: Mapping[str, float | None],
    problem: str | None = None,
    terms: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What report.json holds. problem: why the model should not be used, if so. terms: those of the
    domain, as compare_terms has them, their `weight` in the choice, and `watched`, what the
    checkpoint made of them in validation. "domain" is the test set, and each guard's name its test
    set; the validation sets chose the checkpoint. guard_tolerance: the general one;
    guard_tolerances: what is in force, by guard.
    """
    roles = {"domain": "test"} | guards.roles(sets, "test")
    scores: dict[str, Any] = {
        "baseline": {role: dataclasses.asdict(base[key]) for role, key in roles.items()},
        "tuned": {role: dataclasses.asdict(tuned[key]) for role, key in roles.items()},
        "guard_tolerances": {name: guard_tolerances[name] for name in roles if name != "domain"},
    }
    ended_well = not problem and not forgotten.exceeded(scores)
    report = {
        "name": name,
        "command": command,
        "model": "best.nemo",
        "best_step": best_step,
        "steps": steps,
        "selection": _selection(
            candidates,
            len(history),
            tolerances=scores["guard_tolerances"],
            terms_weight=(terms or {}).get("weight", 0.0),
        ),
        "problem": problem,
        "warnings": _warnings(sets, problem),
        "notes": known_voices(sets)
        + _notes(
            history,
            run["effective"],
            ended_well=ended_well,
            speakers=[u.speaker for u in sets["test"]],
        ),
        "guard_tolerance": guard_tolerance,
        **scores,
        "comparison": {
            role: _comparison(sets[key], before[key], after[key]) for role, key in roles.items()
        },
        "terms": terms,
        "history": [_start(base_watched) | (terms or {}).get("watched", {}), *history],
        "candidates": candidates,
        **_breakdowns(sets["test"], before["test"], after["test"]),
        "commit": run["commit"],
        "manifests": run["manifests"],
        "config": run["config"],
        "effective": run["effective"],
    }
    return report | {"verdict": verdict(report)}


def _warnings(sets: Mapping[str, Sequence[Utterance]], problem: str | None) -> list[str]:
    """What is wrong, each with what is to be done."""
    warnings = [problem] if problem else []
    if sets["test"] is sets["validation"]:
        warnings.append(
            "No test set was given: these figures are of the validation set, which also chose the "
            "checkpoint, so they flatter. Give data.test."
        )
    return warnings


def _notes(
    history: Sequence[dict[str, Any]],
    effective: dict[str, Any],
    *,
    ended_well: bool,
    speakers: Sequence[str | None],
) -> list[str]:
    """What the figures are of, of which `speakers`, and the remarks."""
    notes = few_speakers(speakers) + remarks(history, effective, ended_well=ended_well)
    if subset := (effective.get("evaluation") or {}).get("subset"):
        shares = (f"{row['hours']:.2f} of {row['of_hours']:.2f} h" for row in subset.values())
        notes.append(
            f"The validations, and the choice between checkpoints, are of {' and '.join(shares)} "
            "of the validation sets (evaluation.subset_hours); the figures before and after are "
            "of all."
        )
    return notes


def _selection(
    candidates: Sequence[dict[str, Any]],
    validations: int,
    *,
    tolerances: Mapping[str, float | None],
    terms_weight: float = 0.0,
) -> str:
    """Which weights were exported, and by what rule; the best candidate comes first."""
    best = candidates[0]
    refused = sum(bool(row["judgement"]["refused"]) for row in candidates)
    if best["selection_score"] <= 0:
        return (
            f"NOTHING was better than the checkpoint within {_whose(tolerances)} tolerance; "
            f"{best['description']} lost least."
        )
    rule = "the share of the domain's errors that is removed"
    if terms_weight:
        rule += f" ({100 * terms_weight:g} % of it the gain on terms)"
    if any(tolerance is not None for tolerance in tolerances.values()):
        rule += f", reduced by how much of {_whose(tolerances)} tolerance is used"
    told = (
        f"Chosen: {best['description']}, the best of {validations} validations and "
        f"{len(candidates) - 1} interpolations and averages (score {best['selection_score']:.3f}: "
        f"{rule})."
    )
    if len(tolerances) > 1:
        told += f" Of the guards, {forgotten.worst_guard(best)} came nearest to its tolerance."
    told += _allowed(candidates, tolerances)
    if not refused:
        return told
    reason = "they probably forget more than is tolerated"
    were = "was" if refused == 1 else "were"
    return f"{told} {refused} {were} refused: {reason}{_by_guard(candidates, tolerances)}."


def _allowed(candidates: Sequence[dict[str, Any]], tolerances: Mapping[str, float | None]) -> str:
    """How far the tolerance would have let the domain go, where the choice stopped short of it."""
    best, *others = (row["judgement"] for row in candidates if not row["judgement"]["refused"])
    if all(tolerance is None for tolerance in tolerances.values()):
        return ""
    most = max(others, key=lambda judgement: judgement["gain"], default=best)
    if most["gain"] <= best["gain"]:
        return " No candidate within the tolerance gained more."
    whose = "the worst guard" if len(tolerances) > 1 else "the guard"
    return (
        f" It gained {percent(best['gain'])} in validation, {whose} at {_points(best['loss'])}; "
        f"the most that a candidate within the tolerance gained is {percent(most['gain'])}, "
        f"{whose} at {_points(most['loss'])}. The tolerance is a limit, not a budget: the nearer "
        "to it, the less a gain counts."
    )


def _points(loss: float) -> str:
    """A rise of the WER in points."""
    return f"{100 * loss:+.1f} points"


def _whose(tolerances: Mapping[str, float | None]) -> str:
    """Whose tolerance it is that weights must keep within."""
    return "each guard's" if len(tolerances) > 1 else "the guard's"


def _by_guard(candidates: Sequence[dict[str, Any]], tolerances: Mapping[str, float | None]) -> str:
    """How many candidates each guard refused, where there are several."""
    if len(tolerances) < 2:
        return ""
    refused = (row for row in candidates if row["judgement"]["refused"])
    counts = collections.Counter(forgotten.worst_guard(row) for row in refused)
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})"


def _start(base: dict[str, wer.Score]) -> dict[str, Any]:
    """The untouched checkpoint as the first point of the history."""
    start = {"step": 0, "val_wer": base["validation"].wer, "selection_score": 0.0}
    watched = guards.roles(base, "validation")
    return start | forgotten.rates_of({name: base[key].wer for name, key in watched.items()})


def _comparison(
    utterances: Sequence[Utterance], before: Sequence[str], after: Sequence[str]
) -> dict[str, Any]:
    """The change of a set's WER with its interval, and how many speakers that is over."""
    references = [u.text for u in utterances]
    speakers = [u.speaker for u in utterances]
    found = wer.compare(references, before, after, speakers=speakers)
    return found | {"speakers": num_speakers(speakers)}


def _breakdowns(
    test: Sequence[Utterance], before: Sequence[str], after: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The test set by duration, by speaker, by confusion and utterance by utterance."""
    return {
        "durations": groups_before_after(
            breakdown.by_duration(test, before),
            breakdown.by_duration(test, after),
        ),
        "speakers": groups_before_after(
            breakdown.by_field(test, before, "speaker"),
            breakdown.by_field(test, after, "speaker"),
        ),
        "confusions": breakdown.confusions([u.text for u in test], after),
        "utterances": utterance_rows(test, before, after),
    }


def render_markdown(report: dict[str, Any]) -> str:
    """report.md: verdict, before and after, notes, validations, candidates, breakdowns, the ten
    worst utterances.
    """
    lines = [f"# {plain(report['name'])}", "", plain(report["verdict"])]
    lines += [f"\n**{plain(warning)}**" for warning in report["warnings"]]
    lines += _sets_table(report)
    lines += terms_of_report.markdown(report["terms"])
    if report["notes"]:
        lines += ["", "Notes:", ""]
        lines += [f"- {plain(note)}" for note in report["notes"]]
    lines += ["", code(report["command"])]
    lines += ["", f"{report['model']}: {plain(report['selection'])}"]
    if changed := size_of_change(report):
        lines += ["", f"Weights that learned: {plain('; '.join(changed))}."]
    lines += _dev_table("step", [(str(p["step"]), p) for p in report["history"]])
    lines += _dev_table("weights", [(plain(c["description"]), c) for c in report["candidates"]])
    lines += _groups_table("duration", report["durations"])
    lines += _groups_table("speaker", report["speakers"])
    lines += ["", "Worst utterances:", ""]
    lines += [
        f'- said "{plain(row["reference"])}", heard "{plain(row["after"])}", '
        f'before "{plain(row["before"])}"'
        for row in report["utterances"][:10]
    ]
    return "\n".join(lines) + "\n"


def _sets_table(report: dict[str, Any]) -> list[str]:
    """The table of the test sets before and after."""
    rows = [
        _set_row(
            plain(title_of(name)),
            before,
            report["tuned"][name],
            report["comparison"][name],
            tolerated=_tolerated(report, name),
        )
        for name, before in report["baseline"].items()
    ]
    return [
        "",
        "| set | words | WER before | WER after | sub/del/ins after | normalised before | after | "
        "CER before | after | change of WER [95 %] in points | tolerated |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _tolerated(report: dict[str, Any], name: str) -> str:
    """What a guard may lose in points, and whether it kept within that."""
    tolerance = forgotten.tolerances(report).get(name)
    if tolerance is None:
        return "-"
    return f"{forgotten.tolerance_words(tolerance)}: {forgotten.outcome(report, name)}"


def _set_row(
    name: str,
    before: dict[str, Any],
    after: dict[str, Any],
    comparison: dict[str, Any],
    *,
    tolerated: str,
) -> str:
    """A row of the table of test sets."""
    normalized = [percent(before["wer_normalized"]), percent(after["wer_normalized"])]
    if reason := wer.joined(after):
        normalized = [reason, "-"]
    kinds = [after["substitutions"], after["deletions"], after["insertions"]]
    return table_row(
        [
            name,
            str(before["words"]),
            percent(before["wer"]),
            percent(after["wer"]),
            "/".join(map(str, kinds)),
            *normalized,
            percent(before["cer"]),
            percent(after["cer"]),
            interval_words(comparison),
            tolerated,
        ]
    )


def _dev_table(heading: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """What each of the named weights scores on the validation sets."""
    watched = list(dict.fromkeys(name for _, row in rows for name in forgotten.guard_wers(row)))
    sets = ["domain", *(title_of(name) for name in watched or [SHORT])]
    rates = [f"{plain(name)} WER (dev)" for name in sets]
    if any("val_ker" in row for _, row in rows):
        rates.append(TERMS_MISSED)
    return [
        "",
        table_row([heading, *rates, "score"]),
        "|---" * (len(rates) + 2) + "|",
        *(
            _dev_row(name, row, watched or [SHORT], terms=TERMS_MISSED in rates)
            for name, row in rows
        ),
    ]


def _dev_row(name: str, row: dict[str, Any], watched: Sequence[str], *, terms: bool) -> str:
    """A row of the tables of validation scores."""
    rates = forgotten.guard_wers(row)
    cells = [percent(rates[guard]) if guard in rates else "-" for guard in watched]
    if terms:
        cells.append(percent(row["val_ker"]) if "val_ker" in row else "-")
    return table_row([name, percent(row["val_wer"]), *cells, f"{row['selection_score']:.3f}"])


def _groups_table(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A breakdown of the test set; nothing if it has no groups."""
    if not rows:
        return []
    lines = ["", f"| {title} | words | WER before | WER after |", "|---|---|---|---|"]
    for row in rows:
        rates = [percent(row["wer_before"]), percent(row["wer_after"])]
        lines.append(table_row([plain(row["group"]), str(row["words"]), *rates]))
    return lines


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
