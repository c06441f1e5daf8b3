"""What models made of sets to evaluation.json, evaluation.md and the tables on the terminal. Pure
until write_comparison().
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.files import atomic_path, write_json
from parakeet_ft.report.markdown import code, plain, table_row
from parakeet_ft.report.report import few_speakers
from parakeet_ft.scoring import breakdown, wer
from parakeet_ft.scoring.normalization import Normalizer
from parakeet_ft.scoring.terms import term_scores

Transcribed = dict[str, dict[str, dict[str, Any]]]


def assess(
    utterances: Sequence[Utterance],
    transcribed: dict[str, Any],
    *,
    normalizer: Normalizer,
    scored: str,
    fields: Sequence[str],
    terms: Sequence[str],
    confusions: int,
) -> dict[str, Any]:
    """All figures of one model on one set. `transcribed` has texts, levels_dbfs, seconds and rtfx;
    `scored`, raw or normalized, is what breakdowns, confusions and terms are of.
    """
    texts = transcribed["texts"]
    references = [u.text for u in utterances]
    form: Callable[[str], str] = str if scored == "raw" else normalizer
    by = {
        "duration": breakdown.by_duration(utterances, texts, normalizer=form),
        "level": breakdown.by_level(utterances, texts, transcribed["levels_dbfs"], normalizer=form),
    }
    by |= {field: breakdown.by_field(utterances, texts, field, normalizer=form) for field in fields}
    heard_terms = None
    if terms:
        in_form = [[form(text) for text in some] for some in (references, texts, terms)]
        heard_terms = term_scores(*in_form)
    return {
        "score": dataclasses.asdict(wer.score(references, texts, normalizer=normalizer)),
        "by": {name: rows for name, rows in by.items() if rows},
        "confusions": breakdown.confusions(references, texts, top=confusions, normalizer=form),
        "non_speech": breakdown.non_speech(utterances, texts),
        "terms": heard_terms,
        **{key: transcribed[key] for key in ("seconds", "rtfx", "decoding", "device")},
    }


def against(
    utterances: Sequence[Utterance],
    base: Sequence[str],
    other: Sequence[str],
    *,
    normalizer: Normalizer,
) -> dict[str, Any]:
    """Is `other` different from the base: of texts as they are and normalised, by bootstrap over
    utterances, and over speakers if all are known.
    """
    speakers = [u.speaker for u in utterances]
    known = all(speakers) and len(set(speakers)) > 1
    forms = {"raw": [[u.text for u in utterances], base, other]}
    forms["normalized"] = [[normalizer(text) for text in texts] for texts in forms["raw"]]
    return {
        form: {
            "utterances": wer.compare(*texts),
            "speakers": wer.compare(*texts, speakers=speakers) if known else None,
        }
        for form, texts in forms.items()
    }


def compare_models(
    transcribed: Transcribed,
    sets: dict[str, list[Utterance]],
    *,
    normalizer: Normalizer,
    scored: str,
    fields: Sequence[str],
    terms: Sequence[str],
    confusions: int,
) -> dict[str, Any]:
    """Figures of transcribed[model][set], each model against the first, and the plain mean over
    the sets.

    Errors of different sets are never added up: domain and guard are there to be told apart.
    """
    base = next(iter(transcribed))

    def assessed(name: str, model: str) -> dict[str, Any]:
        """All figures of a model on a set."""
        row = {"model": model, "set": name} | assess(
            sets[name],
            transcribed[model][name],
            normalizer=normalizer,
            scored=scored,
            fields=fields,
            terms=terms,
            confusions=confusions,
        )
        row["against_base"] = None
        if model != base:
            texts = [transcribed[one][name]["texts"] for one in (base, model)]
            row["against_base"] = against(sets[name], *texts, normalizer=normalizer)
        return row

    results = [assessed(name, model) for name in sets for model in transcribed]
    content = {
        "base": base,
        "scored": scored,
        "normalizer": normalizer.describe(),
        "sets": {name: _size(utterances) for name, utterances in sets.items()},
        "results": results,
        "pooled": [_pooled(model, results) for model in transcribed],
        "terms": list(terms),
    }
    return content | {"remarks": remarks(content, sets)}


def _size(utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Utterances and hours of a set."""
    hours = sum(utterance.duration for utterance in utterances) / 3600
    return {"utterances": len(utterances), "hours": hours}


def _pooled(model: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A model's plain means over the sets, and its speed over all of them."""
    own = [row for row in results if row["model"] == model]
    audio = sum(row["rtfx"] * row["seconds"] for row in own)
    seconds = sum(row["seconds"] for row in own)
    return {
        "model": model,
        "rtfx": audio / seconds,
        "mean_wer": sum(row["score"]["wer"] for row in own) / len(own),
        "mean_wer_normalized": sum(row["score"]["wer_normalized"] for row in own) / len(own),
    }


def percent(rate: float | None) -> str:
    """A rate in percent; a dash if there is none."""
    return "-" if rate is None else f"{100 * rate:.1f}"


def difference(comparison: dict[str, Any] | None, *, scored: str) -> str:
    """A difference in points, its interval and the verdict; that over speakers where there is
    one.
    """
    if comparison is None:
        return "base"
    found = comparison[scored]["speakers"] or comparison[scored]["utterances"]
    points = f"{100 * found['difference']:+.1f}"
    if found["low"] is not None:
        points += f" [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    return f"{points} {found['verdict']}"


Table = tuple[str, list[str], list[list[str]]]


def score_table(content: dict[str, Any]) -> Table:
    """Models side by side, set for set."""
    head = [
        "set",
        "model",
        "words",
        "WER",
        "normalised",
        "CER",
        "sub/del/ins",
        "RTFx",
        f"{content['scored']} WER against base [95 %]",
    ]
    rows = []
    for row in content["results"]:
        form = "raw" if wer.joined(row["score"]) else content["scored"]
        mark = " (raw)" if form != content["scored"] and row["against_base"] else ""
        change = difference(row["against_base"], scored=form) + mark
        rows.append([row["set"], *_figures(row), change])
    weights = [_language_model_weight(row) for row in content["results"]]
    if any(weights):
        head = [*head, "LM weight"]
        rows = [[*row, weight or "-"] for row, weight in zip(rows, weights, strict=True)]
    return "Error rates in percent", head, rows


def _language_model_weight(row: dict[str, Any]) -> str:
    """The weight, "" without a language model."""
    found = row["decoding"].get("language_model")
    return f"{found['weight']:g}" if found else ""


def remarks(content: dict[str, Any], sets: dict[str, list[Utterance]]) -> list[str]:
    """What a reader of the tables must know: rates that are of something else, and tests of few
    speakers.
    """
    found = []
    for name, utterances in sets.items():
        score = next(row["score"] for row in content["results"] if row["set"] == name)
        if reason := wer.joined(score):
            found.append(f"{name}: normalised WER is {reason}.")
        found += [f"{name}: {warning}" for warning in few_speakers([u.speaker for u in utterances])]
    return found


def _figures(row: dict[str, Any]) -> list[str]:
    """A row of the table of scores, from its model on."""
    score = row["score"]
    return [
        row["model"],
        str(score["words"]),
        percent(score["wer"]),
        "-" if wer.joined(score) else percent(score["wer_normalized"]),
        percent(score["cer"]),
        "/".join(str(score[kind]) for kind in ("substitutions", "deletions", "insertions")),
        f"{row['rtfx']:.1f}",
    ]


def leaderboard_table(content: dict[str, Any]) -> Table:
    """As the Open ASR Leaderboard shows it: WER of normalised text, its plain mean, RTFx over all
    sets.
    """
    head = ["model", "average", "RTFx", *content["sets"]]
    rows = []
    for pooled in content["pooled"]:
        own = [row["score"] for row in content["results"] if row["model"] == pooled["model"]]
        rates = [pooled["mean_wer_normalized"], *(score["wer_normalized"] for score in own)]
        average, *others = [f"{100 * rate:.2f}" for rate in rates]
        rows.append([pooled["model"], average, f"{pooled['rtfx']:.1f}", *others])
    return "WER of normalised text", head, rows


def breakdown_tables(content: dict[str, Any], *, most: int = 10) -> list[Table]:
    """For each set, every breakdown with the models' WER in columns; of many groups those with most
    errors.
    """
    found: list[Table] = []
    for name in content["sets"]:
        own = {row["model"]: row for row in content["results"] if row["set"] == name}
        for by, groups in next(iter(own.values()))["by"].items():
            shown = groups if by in ("duration", "level") else groups[:most]
            title = f"{name}: {content['scored']} WER by {by}"
            if len(groups) > len(shown):
                title += f" ({most} of {len(groups)}, most errors first)"
            rates = [{g["group"]: g["wer"] for g in row["by"][by]} for row in own.values()]
            rows = [_group_row(group, rates) for group in shown]
            found.append((title, [by, "utterances", "words", *own], rows))
    return found


def _group_row(group: dict[str, Any], rates: Sequence[dict[str, float]]) -> list[str]:
    """A group's size and the WER of each model in it."""
    name = group["group"]
    size = [str(group["utterances"]), str(group["words"])]
    return [name, *size, *(percent(found[name]) for found in rates)]


def term_tables(content: dict[str, Any]) -> list[Table]:
    """Recall and F-score of the domain's terms, if there are any."""
    if not content["terms"]:
        return []
    head = ["set", "model", "occurrences", "recall", "precision", "F-score"]
    rows = []
    for row in content["results"]:
        found = row["terms"]
        rates = [percent(found[key]) for key in ("recall", "precision", "f_score")]
        rows.append([row["set"], row["model"], str(found["occurrences"]), *rates])
    return [("Terms of the domain", head, rows)]


def silence_tables(content: dict[str, Any]) -> list[Table]:
    """What is heard where the reference is empty, if there are such utterances."""
    rows = [
        [
            row["set"],
            row["model"],
            str(found["utterances"]),
            f"{found['minutes']:.1f}",
            str(found["with_words"]),
            f"{found['words_per_minute']:.2f}",
        ]
        for row in content["results"]
        if (found := row["non_speech"])
    ]
    if not rows:
        return []
    head = ["set", "model", "utterances", "minutes", "with words", "words a minute"]
    return [("Words heard where there is no speech", head, rows)]


def confusion_tables(content: dict[str, Any]) -> list[Table]:
    """The most frequent confusions of each model on each set."""
    found: list[Table] = []
    for row in content["results"]:
        if row["confusions"]:
            title = f"{row['set']}, {row['model']}: most frequent confusions"
            rows = [_confusion_row(confusion) for confusion in row["confusions"]]
            found.append((title, ["reference", "heard", "times"], rows))
    return found


def _confusion_row(confusion: dict[str, Any]) -> list[str]:
    """What stands for what, and how often."""
    reference = confusion["reference"] or "(nothing)"
    heard = confusion["hypothesis"] or "(nothing)"
    return [reference, heard, str(confusion["count"])]


def main_tables(content: dict[str, Any]) -> list[Table]:
    """What the terminal shows."""
    tables = [score_table(content)]
    if content["benchmark"]:
        tables.append(leaderboard_table(content))
    return tables + term_tables(content) + silence_tables(content)


def render_markdown(content: dict[str, Any]) -> str:
    """evaluation.md."""
    lines = [
        "# Evaluation",
        "",
        code(content["command"]),
        "",
        f"Normaliser: {plain(content['normalizer'])}. Base: {plain(content['base'])}. Intervals "
        "are of a paired bootstrap over speakers where all are known, else over utterances.",
        *(f"\n{plain(remark)}" for remark in content["remarks"]),
    ]
    for title, head, rows in [
        *main_tables(content),
        *breakdown_tables(content),
        *confusion_tables(content),
    ]:
        lines += ["", f"## {plain(title)}", "", table_row([plain(cell) for cell in head])]
        lines += ["|" + "---|" * len(head)]
        lines += [table_row([plain(cell) for cell in row]) for row in rows]
    return "\n".join(lines) + "\n"


def write_comparison(content: dict[str, Any], folder: Path) -> None:
    """Write evaluation.json and evaluation.md, each whole or not at all."""
    write_json(folder / "evaluation.json", content)
    with atomic_path(folder / "evaluation.md") as path:
        path.write_text(render_markdown(content), encoding="utf-8")
