"""What a run recorded, as far as it is published: read, and compared with what it must hold."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import broken_seal, file_hash, misfit, read_json
from parakeet_ft.scoring.words import VERDICTS

NUMBER = (int, float)
SCORE = {"wer": NUMBER, "wer_normalized": NUMBER, "cer": NUMBER, "words": int}
REPORT = {
    "name": str,
    "command": str,
    "verdict": str,
    "notes": list,
    "selection": str,
    "steps": int,
    "tuned": {"*": SCORE, "domain": SCORE},
    "baseline": {"domain": dict},
    "comparison": {"domain": dict},
}
# What a report of an earlier version may lack.
MAYBE = (*NUMBER, type(None))
LATER = {
    "candidates": list,
    "guard_tolerance": MAYBE,
    "guard_tolerances": {"*": MAYBE},
    "effective": {"*": object},
}
EFFECTIVE = {
    "adaptation": {"learning": int, "frozen": int},
    "learned": {"moved_share_of_weights": NUMBER},
    "vocabulary": {"new": list},
}
CANDIDATE = {"description": str, "guard_wers": dict, "judgement": dict, "alpha": NUMBER}
JUDGEMENT: dict[str, Any] = dict.fromkeys(
    ("gain", "gain_low", "gain_high", "loss", "loss_low", "loss_high"), NUMBER
) | {"refused": bool}
RUN = {
    "config": {"model": {"source": str}},
    "effective": {
        "model": {"rate_hz": int, "class": str, "num_weights": int, "vocab_size": int},
    },
    "versions": {"*": str},
    "manifests": {"*": {"path": (str, list), "sha256": str}},
}


def read(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """A record of a run. Raises UserError if it is not there, or lacks what a card needs."""
    if not path.exists():
        raise UserError(
            f"No {path.name} in {path.parent}: expected the folder of a finished run, such as "
            f"outputs/demo/latest."
        )
    try:
        content = read_json(path)
        problem = misfit(content, shape) or broken_seal(content)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UserError(f"{path} is no record of a finished run: {problem}. Is it whole?")
    return content


def check_report(report: dict[str, Any], path: Path) -> None:
    """Raise UserError unless each set was scored before and after, and compared."""
    roles = list(report["tuned"])
    shape = {
        "baseline": {role: SCORE for role in roles},
        "comparison": {role: {"verdict": str} for role in roles},
    }
    problem = misfit(report, shape) or _problem_of_later(report)
    if not problem:
        problems = [_problem_of_comparison(found) for found in report["comparison"].values()]
        problems += [_problem_of_candidate(row) for row in report.get("candidates", [])]
        problem = next(filter(None, problems), None)
    try:
        shlex.split(report["command"])
    except ValueError as error:
        problem = problem or f"command: {error}"
    if problem:
        raise UserError(f"{path} is no report of a finished run: {problem}. Is it whole?")


def _problem_of_later(report: dict[str, Any]) -> str | None:
    """What is wrong with the parts that earlier versions did not write; None if nothing is."""
    problem = misfit(report, {key: shape for key, shape in LATER.items() if key in report})
    effective = report.get("effective", {})
    known = {key: shape for key, shape in EFFECTIVE.items() if not problem and effective.get(key)}
    return problem or misfit(effective, known, "effective")


def _problem_of_comparison(compared: dict[str, Any]) -> str | None:
    """What is wrong with the comparison of a set; None if nothing is."""
    if compared["verdict"] not in VERDICTS:
        return f"{compared['verdict']!r} is none of {', '.join(VERDICTS)}"
    if compared.get("low") is None:
        return None
    return misfit(compared, {"low": NUMBER, "high": NUMBER})


def _problem_of_candidate(row: Any) -> str | None:
    """What is wrong with a candidate, as far as its place in the picture; None if nothing is."""
    if problem := misfit(row, {"*": object}, "candidates"):
        return problem
    shape = {key: kind for key, kind in CANDIDATE.items() if row.get(key)}
    problem = misfit(row, shape, "candidates")
    if problem or (row.get("judgement") or {}).get("loss") is None:
        return problem
    return misfit(row, {"weights": str, "judgement": JUDGEMENT}, "candidates")


def check_unchanged(run_dir: Path, hashes: Any) -> None:
    """Raise UserError if a file is not what the run wrote; runs of earlier versions do not tell."""
    if hashes is None:
        return
    if problem := misfit(hashes, {"*": str}, "files"):
        raise UserError(f"{run_dir / 'run.json'} is damaged: {problem}.")
    for name, expected in hashes.items():
        path = run_dir / name
        if not path.is_file() or file_hash(path) != expected:
            raise UserError(
                f"{path} is not what the run wrote: its checksum is another than in run.json. Put "
                "the original back, or train again; what was changed is not published."
            )
