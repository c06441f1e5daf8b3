"""What a run measured to a model card of the Hugging Face Hub, without anything of the machine that
ran it. Pure but for data_facts().
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet_ft.data import sources
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.errors import UserError
from parakeet_ft.export.record import Exported
from parakeet_ft.model import checkpoints
from parakeet_ft.model.checkpoints import BUNDLED, CHECKPOINTS, PUBLISHED
from parakeet_ft.model.source import HUB_ID
from parakeet_ft.publishing.ways import ways
from parakeet_ft.report.headline import size_of_change
from parakeet_ft.report.markdown import code, plain
from parakeet_ft.report.report import num_speakers
from parakeet_ft.scoring import forgotten
from parakeet_ft.scoring.wer import joined
from parakeet_ft.scoring.words import interval_words, percent
from parakeet_ft.settings.guards import roles, title_of
from parakeet_ft.settings.manifests import weighted

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

ROLES = {
    "train": "training",
    "replay": "replay (general speech mixed in)",
    "validation": "validation",
    "test": "test",
}


def role_words(role: str) -> str:
    """What a set was for."""
    for kind in ("validation", "test", "replay"):
        for name in roles([role], kind) if role not in ROLES else ():
            mixed = " (speech like it mixed in)" if kind == "replay" else ""
            return f"{title_of(name)}, {kind}{mixed}"
    return ROLES.get(role, role)


def licence_of(source: str, given: str | None) -> str:
    """The licence under which the tuned model is published: `given`, else that of the base. Raises
    UserError if neither is known.
    """
    if known := given or checkpoints.licence(source):
        return known
    raise UserError(
        f"The licence of the base ({Path(source).name}) is not known, and a tuned model is bound "
        "by it. Look it up and give it, such as --licence cc-by-4.0. Known: "
        f"{', '.join(CHECKPOINTS)}."
    )


def base_model_of(source: str, given: str | None) -> str | None:
    """The base's hub id: `given`, else the source if it is one; None for a local file or a bundled
    name.
    """
    given = given and checkpoints.resolve(given)
    if given is not None and not HUB_ID.fullmatch(given):
        raise UserError(
            f"--base-model {given!r}: expected a hub id such as nvidia/parakeet-ctc-0.6b."
        )
    if given or source in BUNDLED or source.endswith(".nemo"):
        return given
    return source if HUB_ID.fullmatch(source) else None


def data_facts(manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Role, SHA-256, utterances, hours and speakers of each manifest in run.json; the last three
    are None where the file is gone or has changed since, the speakers also where some are unnamed.
    """
    rows = []
    for role, manifest in manifests.items():
        row: dict[str, Any] = {
            "role": role_words(role),
            "sha256": manifest["sha256"],
            "utterances": None,
            "hours": None,
            "speakers": None,
        }
        try:
            named = weighted(manifest["path"])
            if sources.identity(named) == manifest["sha256"]:
                found = Corpus.open(named)
                row |= {
                    "utterances": len(found),
                    "hours": sum(found.durations.tolist()) / 3600,
                    "speakers": num_speakers(found.speakers()),
                }
        except (OSError, UserError):
            pass
        rows.append(row)
    return rows


def public_command(command: str) -> str:
    """The command with `...` for every value that is a path, so that it shows the settings and not
    where things lie.
    """
    return shlex.join(_public_word(word) for word in shlex.split(command))


def _public_word(word: str) -> str:
    """A word of a command without the place that it names, if it names one."""
    key, equals, value = word.partition("=")
    if not equals:
        return Path(word).name if Path(word).is_absolute() else word
    if value.startswith("bundled:") or value in {*CHECKPOINTS, *PUBLISHED.values()}:
        return word
    is_path = "/" in value or value.endswith((".jsonl", ".nemo"))
    return f"{key}=..." if is_path else word


def limits(report: dict[str, Any], data: list[dict[str, Any]]) -> list[str]:
    """What the figures do not tell, from the little that was tested."""
    test = next((row for row in data if row["role"] == ROLES["test"]), None)
    speakers = report["comparison"]["domain"].get("speakers") or (test and test["speakers"])
    size = f"{report['tuned']['domain']['words']:,} words"
    if test and test["hours"]:
        size += f", {60 * test['hours']:.0f} minutes,"
    people: dict[Any, str] = {None: "speakers that are not named", 1: "one speaker"}
    who = people.get(speakers, f"{speakers} speakers")
    found = [
        f"Tested on {size} of {who}, recorded as the test set is. Other accents and ages, "
        "channels, noise, rooms and subjects were not tested, nor any other language: measure on "
        "your own recordings first."
    ]
    if not forgotten.tolerances(report):
        found.append("No general speech was tested: what was forgotten is not known.")
    return found


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of data_facts in words."""
    hours = row["hours"] if row["hours"] is None else f"{row['hours']:.2f}"
    words = {key: row[key] for key in ("utterances", "speakers")} | {"hours": hours}
    return row | {key: "not known" if value is None else value for key, value in words.items()}


def model_card(
    report: dict[str, Any],
    run: dict[str, Any],
    *,
    repo: str,
    licence: str,
    base_model: str | None,
    language: str,
    data: list[dict[str, Any]],
    exports: Sequence[Exported] = (),
    examples: Sequence[str] = (),
    space: str | None = None,
    picture: str | None = None,
) -> str:
    """README.md of the repository `repo`: front matter with the measured error rates in percent as
    model-index, then the card.

    exports: what lies in the repository beside the .nemo; examples: recordings in it, which the
    Hub's widget plays; space: the Space that shows it; picture: the file of the frontier.
    """
    from huggingface_hub import ModelCard, ModelCardData

    metadata = ModelCardData(
        language=language,
        license=licence,
        library_name="nemo",
        pipeline_tag="automatic-speech-recognition",
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        tags=["automatic-speech-recognition", "nemo", "parakeet", "parakeet-ft", *_tags(exports)],
        metrics=["wer", "cer"],
        model_name=repo.rpartition("/")[2],
        eval_results=_eval_results(report),
        widget=_widget(repo, examples) or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(Path(__file__).with_name("model_card.md.jinja")),
        repo=repo,
        name=repo.rpartition("/")[2],
        report=report,
        verdict=plain(report["verdict"]),
        selection=plain(report["selection"]),
        warnings=[plain(warning) for warning in report.get("warnings", [])],
        limits=[plain(limit) for limit in limits(report, data)],
        rows=[_row(report, role) for role in report["tuned"]],
        data=[shown(row) for row in data],
        base=plain(_base_in_words(run["config"]["model"]["source"], base_model)),
        command=code(public_command(report["command"])),
        model=run["effective"]["model"],
        versions=run["versions"],
        normalizer=plain(report["tuned"]["domain"].get("normalizer") or ""),
        language=plain(language),
        licence=plain(licence),
        ways=ways(repo, exports, run["versions"]),
        space=space,
        picture=picture,
        changed=plain("; ".join(size_of_change(report | {"model": "this model"}))),
    )
    return str(card)


def _tags(exports: Sequence[Exported]) -> list[str]:
    """The libraries by which the Hub finds what is exported."""
    targets = {export.target for export in exports}
    found = ["onnx"] if targets & {"onnx", "onnx-int8"} else []
    return found + (["transformers"] if "transformers" in targets else [])


def _widget(repo: str, examples: Sequence[str]) -> list[dict[str, str]]:
    """The recordings that the Hub's widget offers."""
    return [
        {
            "example_title": Path(example).stem,
            "src": f"https://huggingface.co/{repo}/resolve/main/{example}",
        }
        for example in examples
    ]


def _eval_results(report: dict[str, Any]) -> list[EvalResult]:
    """The error rates of each set, in percent, as the Hub's model-index has them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Automatic Speech Recognition",
            dataset_type=f"{report['name']}-{role}",
            dataset_name=f"{report['name']}: {title_of(role)} test set",
            metric_type=metric,
            metric_name=label,
            metric_value=round(100 * scores[key], 2),
        )
        for role, scores in report["tuned"].items()
        for metric, label, key in _metrics(scores)
    ]


def _metrics(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Type, name and key of the rates that are of what they say."""
    raw = ("wer", "WER", "wer")
    normalized = ("wer", "WER, normalised", "wer_normalized")
    characters = ("cer", "CER", "cer")
    return [raw, characters] if joined(scores) else [raw, normalized, characters]


def _row(report: dict[str, Any], role: str) -> dict[str, Any]:
    """A set's row in the card's table."""
    before = report["baseline"][role]
    after = report["tuned"][role]
    row = {
        "set": plain(title_of(role)),
        "words": after["words"],
        "interval": interval_words(report["comparison"][role]),
        "tolerated": _tolerated(report, role),
    }
    for key in ("wer", "wer_normalized", "cer"):
        row[f"{key}_before"] = percent(before[key])
        row[f"{key}_after"] = percent(after[key])
    if reason := joined(after):
        row |= {"wer_normalized_before": reason, "wer_normalized_after": "-"}
    return row


def _tolerated(report: dict[str, Any], role: str) -> str:
    """What a guard might lose in points, and whether it kept within that."""
    tolerance = forgotten.tolerances(report).get(role)
    if tolerance is None:
        return "-"
    return f"{forgotten.tolerance_words(tolerance)}: {forgotten.outcome(report, role)}"


def _base_in_words(source: str, base_model: str | None) -> str:
    """What was tuned, without the place where it lay."""
    if base_model:
        return base_model
    return f"The bundled checkpoint {source}" if source in BUNDLED else "A local checkpoint"


def private_paths(text: str) -> list[str]:
    """Absolute paths below a root where people keep their files, as they stand in a text."""
    roots = "data|home|media|mnt|opt|root|scratch|srv|tmp|Users|var|work"
    return sorted(set(re.findall(rf"(?<![\w.:/])/(?:{roots})/[^\s\"'`,|)]+", text)))
