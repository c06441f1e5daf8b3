"""Damaged run directories: each file of a run through what reads it when the run is continued,
evaluated, shown or published. What is taken from it must be what the undamaged run holds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damaged.case import Case, Outcome, call, time_limit
from damaged.nemo_files import _saved, _zipped
from damaged.prepared import flipped
from parakeet_ft.data import sources
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError, refusal
from parakeet_ft.evaluation.hypotheses import key_of, set_hash
from parakeet_ft.files import DEMO, file_hash
from parakeet_ft.run import directory
from parakeet_ft.settings.manifests import weighted

SETTINGS = {"model": {"source": "tiny"}, "evaluation": {"language": "en"}, "optim": {"lr": 1e-4}}
BASELINE = {"validation": ["one two", "three"], "test": ["four"]}
UTTERANCES = [Utterance("/a.wav", 1.0, "one"), Utterance("/b.wav", 2.0, "two")]
HEARD = {"texts": ["one", "too"], "levels_dbfs": [-20.0, -30.5], "seconds": 1.5, "rtfx": 2.0}
RESUME, WEIGHTS = "checkpoints/resume-step=000040.ckpt", "checkpoints/weights-step=000040.ckpt"
HYPOTHESES = f"tiny--dev--{key_of(set=set_hash(UTTERANCES))[:8]}"
# What a reader found, and what was told on the way.
Found = tuple[Any, list[str]]
Reader = Callable[[Path], Found]
Damage = Callable[[Path], None]


def cases(folder: Path) -> Iterable[Case]:
    import torch  # noqa: F401  (its import belongs to no case's time)

    begun, ended = folder / "begun" / "run", folder / "ended" / "run"
    _make(begun)
    _make(ended).finish({"training": 1.0})
    for number, (name, damage, reader) in enumerate(_damages()):
        place = folder / str(number) / "run"
        whole = ended if reader in OF_ENDED else begun
        run = functools.partial(_read, whole, place, damage, READERS[reader])
        yield Case("run_directories", f"{name}, {reader}", run)
    for number, recipe in enumerate(("publish.py", "export.py", "transcribe.py")):
        for word, damage in (("gone", _remove), ("empty", _with(b"")), ("a loop", _loop)):
            place = folder / f"{recipe}{number}{word.replace(' ', '_')}" / "run"
            run = functools.partial(_recipe, ended, place, damage, recipe)
            yield Case("run_directories", f"best.nemo {word}, {recipe}", run)


def _read(whole: Path, place: Path, damage: Damage, reader: Reader) -> Outcome:
    expected = _undamaged(whole, reader)
    _copy(whole, place)
    damage(place)
    told = io.StringIO()
    try:
        with (
            time_limit(),
            contextlib.redirect_stderr(told),
            contextlib.redirect_stdout(told),
            warnings.catch_warnings(action="ignore"),  # no words of this program
        ):
            found, lines = reader(place)
    except UserError as error:
        return Outcome(handled=True, message=str(error))
    except OSError as error:  # a recipe tells some of these in words
        if message := refusal(error):
            return Outcome(handled=True, message=message)
        raise
    finally:
        shutil.rmtree(place.parent)
    if lines or told.getvalue():
        return Outcome(handled=True, message=" | ".join([*lines, told.getvalue()]))
    return Outcome(silent=found != expected, message=f"{found}, not {expected}"[:300])


@functools.cache
def _undamaged(whole: Path, reader: Reader) -> Any:
    place = whole.parent / "copy" / "run"
    _copy(whole, place)
    found, lines = reader(place)
    shutil.rmtree(place.parent)
    assert not lines, lines
    return found


def _recipe(whole: Path, place: Path, damage: Damage, recipe: str) -> Outcome:
    """A recipe, in this process, on a run whose model is damaged."""
    _copy(whole, place)
    damage(place / "best.nemo")
    model, out = place / "best.nemo", place / "out"
    arguments = {
        "publish.py": (place, "--repo", "me/parakeet-mine", "--licence", "mit"),
        "export.py": (model, "--to", "nemo", "--out", out),
        "transcribe.py": (model, DEMO / "audio", "--out", out),
    }
    ended = call(f"recipes/{recipe}", *arguments[recipe])
    shutil.rmtree(place.parent)
    return Outcome(
        handled=ended.refused(), traceback=not ended.refused(), message=ended.trace or ended.err
    )


def _copy(whole: Path, place: Path) -> None:
    shutil.copytree(whole, place, symlinks=True)
    (place.parent / "latest").symlink_to("run")


# The run, as its writers write it.


def _make(run_dir: Path) -> Any:
    from parakeet_ft.training import checkpoints

    run_dir.mkdir(parents=True)
    shutil.copy(DEMO / "tiny.nemo", run_dir / "best.nemo")
    (run_dir / "report.json").write_text(json.dumps(_report()))
    run = _run(run_dir, [])
    run.once("baseline", lambda: BASELINE)
    run.record(model={"rate_hz": 16000, "class": "X", "num_weights": 3, "vocab_size": 256})
    for step in (20, 40):
        path = run_dir / RESUME.replace("40", str(step))
        checkpoints.write(_checkpoint(step), path)
        checkpoints.write(
            {"state_dict": _checkpoint(step)["state_dict"], "global_step": step},
            run_dir / WEIGHTS.replace("40", str(step)),
        )
    rows = [{"step": step, "loss": 0.5} for step in (10, 20, 30)]
    (run_dir / "metrics.csv").write_text(
        "step,loss\n" + "".join(f"{row['step']},{row['loss']}\n" for row in rows)
    )
    bad = [{"position": position, "reason": "memory ran out"} for position in (3, 7)]
    (run_dir / "bad_batches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    _heard(run_dir)
    hydra = run_dir / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text("model: {source: tiny}\n")
    return run


def _checkpoint(step: int) -> dict[str, Any]:
    import torch

    return {
        "state_dict": {"model.weight": torch.full((100, 100), float(step))},
        "global_step": step,
        "position": step,
        "random_states": [{"torch": torch.zeros(8)}],
        "optimizer_states": [],
        "lr_schedulers": [],
        "loops": {"fit_loop": {}},
    }


def _report() -> dict[str, Any]:
    score = {"wer": 0.5, "wer_normalized": 0.25, "cer": 0.125, "words": 644}
    return {
        "name": "demo",
        "command": "python recipes/finetune.py",
        "verdict": "Domain WER fell.",
        "notes": [],
        "selection": "Chosen: step 40.",
        "steps": 40,
        "baseline": {"domain": score | {"wer": 0.75}},
        "tuned": {"domain": score},
        "comparison": {"domain": {"verdict": "better", "low": -0.5, "high": -0.25}},
    }


def _manifests() -> dict[str, dict[str, Any]]:
    return {"train": sources.facts(weighted(str(DEMO / "dev.jsonl")))}


def _identity() -> dict[str, Any]:
    return directory.identity(SETTINGS, _manifests(), DEMO / "tiny.nemo")


def _run(run_dir: Path, lines: list[str]) -> Any:
    from parakeet_ft.run.provenance import Run

    return Run(
        run_dir,
        command=["finetune.py"],
        config=SETTINGS,
        manifests=_manifests(),
        identity=_identity(),
        resumed_at_step=None,
        say=lines.extend,
    )


# What reads it.


def _choose(run_dir: Path) -> Found:
    return _chosen(run_dir, given=None)


def _given(run_dir: Path) -> Found:
    return _chosen(run_dir, given=run_dir)


def _chosen(run_dir: Path, *, given: Path | None) -> Found:
    """Whether the run is continued, and what is said if it is not."""
    found, lines = directory.choose(_identity(), parent=run_dir.parent, given=given, resume="auto")
    while directory._held:
        directory._held.pop().release()
    if found == run_dir and lines == [f"continuing {run_dir}"]:
        return "continued", []
    return "a new run", lines


def _once(run_dir: Path) -> Found:
    lines: list[str] = []
    value = _run(run_dir, lines).once("baseline", lambda: BASELINE)
    return value, lines


def _newest(run_dir: Path) -> Found:
    from parakeet_ft.training import checkpoints

    checkpoints.clear_half_written(run_dir)
    path, lines = checkpoints.newest(run_dir / "checkpoints")
    return (path and (path.name, _numbers(checkpoints.read(path)["state_dict"]))), lines


def _read_weights(run_dir: Path) -> Found:
    from parakeet_ft.training import checkpoints

    return _numbers(checkpoints.read_weights(run_dir / "checkpoints", 40)), []


def _numbers(state: dict[str, Any]) -> dict[str, list]:
    return {name: value.flatten()[:3].tolist() for name, value in state.items()}


def _log(run_dir: Path) -> Found:
    from parakeet_ft.training import loggers

    found = loggers.build(["csv"], run_dir=run_dir, project="p", experiment="e", resume_step=40)
    return found[0].experiment.metrics, []


def _bad_batches(run_dir: Path) -> Found:
    from parakeet_ft.training.bad_batches import BadBatches

    lines: list[str] = []
    bad = BadBatches(run_dir / "bad_batches.jsonl", None, most=9, say=lines.extend)
    bad.positions = [3, 7]
    bad.forget_later()
    # The rest of a row is for people: a run that continues takes nothing from it.
    return [row["position"] for row in bad._rows()], lines


def _heard(run_dir: Path) -> Found:
    """What a model heard, and what is said but for that it is there already."""
    from parakeet_ft.evaluation import hypotheses

    lines: list[str] = []
    found = hypotheses.once(
        run_dir,
        UTTERANCES,
        model="tiny",
        name="dev",
        identity={},
        transcribe=lambda name, utterances: HEARD,
        say=types.SimpleNamespace(lines=lines.extend),
    )
    return found, [line for line in lines if ": already in" not in line]


def _publish(run_dir: Path) -> Found:
    from parakeet_ft.publishing.hub import prepare

    model, _ = prepare(
        run_dir, repo="me/parakeet-mine", licence="mit", base_model=None, language=None
    )
    card = (model.path / "README.md").read_text()
    return (card, model.files, file_hash(model.path / "parakeet-mine.nemo")), []


def _publish_earlier(run_dir: Path) -> Found:
    """As versions left it that kept no checksums."""
    run = json.loads((run_dir / "run.json").read_text())
    rest = {key: value for key, value in run.items() if key not in ("files", "sha256")}
    (run_dir / "run.json").write_text(json.dumps(rest))
    return _publish(run_dir)


def _latest(run_dir: Path) -> Found:
    return _publish(run_dir.parent / "latest")


def _shown(run_dir: Path) -> Found:
    from recipes.demo_ui import choose_models

    return choose_models(str(run_dir / "best.nemo"), None).get("base"), []


READERS: dict[str, Reader] = {
    "continued": _choose,
    "continued by its name": _given,
    "its baseline": _once,
    "its checkpoint": _newest,
    "its weights": _read_weights,
    "its log": _log,
    "its bad batches": _bad_batches,
    "its hypotheses": _heard,
    "published": _publish,
    "published without checksums": _publish_earlier,
    "published as latest": _latest,
    "shown": _shown,
}
OF_ENDED = ("published", "published without checksums", "published as latest", "shown")


# What is done to it.


def _remove(path: Path) -> None:
    path.unlink()


def _with(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = path.read_bytes()
    middle = slice(len(content) // 3, len(content) // 2)
    path.write_bytes(flipped(content, seed=1, count=1, within=middle))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


ANY = {
    "gone": _remove,
    "empty": _with(b""),
    "cut": _cut,
    "flipped": _flip,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "random": _with(np.random.default_rng(6).bytes(3000)),
    "a folder": _folder,
    "a loop": _loop,
    "a link to nothing": _dangling,
}
JSON = ANY | {
    "a list": _with(b"[1]"),
    "nothing in it": _with(b"{}"),
    "null": _with(b"null"),
    "nested": _with(b"[" * 100_000),
    "of another version": _with(b'{"version": 9, "state": "done"}'),
    "in UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
}


def _damages() -> Iterator[tuple[str, Damage, str]]:
    """(name, what is done to the run, its reader)."""

    def of(file: str, damages: dict[str, Damage], *readers: str) -> Iterator[tuple]:
        for reader in readers:
            for word, damage in damages.items():
                yield f"{file} {word}", lambda run, d=damage: d(run / file), reader

    yield from of("run.json", JSON, "continued", "continued by its name", "published")
    yield from of("run.json", {name: JSON[name] for name in ("gone", "a list", "cut")}, "shown")
    yield from of("run.json", dict(_changes(RUN)), "continued", "continued by its name")
    yield from of("baseline.json", JSON | dict(_changes(KEPT)), "its baseline")
    yield from of("report.json", JSON | dict(_changes(REPORT)), "published")
    unnoticed = ("tuned.domain.wer", 0.4)
    told = dict(_changes(change for change in REPORT if change != unnoticed))
    yield from of("report.json", told, "published without checksums")
    yield from of("best.nemo", ANY, "published", "published without checksums")
    kept = {word: damage for word, damage in ANY.items() if word != "gone"}
    yield from of(RESUME, kept | dict(_foreign()), "its checkpoint")
    yield from of(WEIGHTS, ANY | dict(_foreign()), "its weights")
    yield from of("metrics.csv", ANY | LOGS, "its log")
    lines = {"a line cut": _with(b'{"position": 3}\n{"posi'), "a list": _with(b"[1]\n")}
    yield from of("bad_batches.jsonl", ANY | lines, "its bad batches")
    yield from of(f"{HYPOTHESES}.json", JSON | dict(_changes(FACTS)), "its hypotheses")
    yield from of(f"{HYPOTHESES}.jsonl", ANY | {"altered": _other_word}, "its hypotheses")
    yield from of(".hydra/config.yaml", {"cut": _cut, "gone": _remove}, "continued")
    for word, damage in PLACES.items():
        yield word, damage, "published as latest" if "latest" in word else "its checkpoint"


# key -> a value of no sense.
RUN = (
    ("finished", "yes"),
    ("finished", None),
    ("finished", True),
    ("identity", [1]),
    ("identity", {"config": 5}),
    ("identity.config.optim.lr", 2e-4),
    ("resumed_at_steps", "x"),
    ("resumed_at_steps", [None]),
    ("sha256", 5),
)
KEPT = (
    ("value", None),
    ("value.validation", ["one two", "three four"]),
    ("identity", 5),
    ("sha256", "0" * 64),
    ("sha256", None),
)
REPORT = (
    ("tuned.domain.wer", "0.5"),
    ("tuned.domain.wer", 0.4),
    ("tuned", {}),
    ("tuned", [1]),
    ("comparison", {}),
    ("comparison.domain.verdict", "best"),
    ("comparison.domain.low", "x"),
    ("comparison.domain", 5),
    ("comparison.domain.high", None),
    ("baseline", {}),
    ("name", 5),
    ("command", 'python "unclosed'),
    ("notes", 5),
)
FACTS = (("key", 5), ("seconds", 9.9), ("sha256", None), ("rtfx", "x"))


def _changes(values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Damage]]:
    for key, value in values:
        yield f"{key} {value}", functools.partial(_change, key=key, value=value)


def _change(path: Path, *, key: str, value: Any) -> None:
    content = json.loads(path.read_text())
    *sections, last = key.split(".")
    functools.reduce(dict.__getitem__, sections, content)[last] = value
    path.write_text(json.dumps(content))


def _foreign() -> Iterator[tuple[str, Damage]]:
    """Whole zip files that are no checkpoint of this run."""
    contents = {
        "a zip of other things": lambda: _zipped({"readme.txt": b"hello"}),
        "an empty zip": lambda: _zipped({}),
        "a list": lambda: _saved([1]),
        "nothing in it": lambda: _saved({}),
        "without its weights": lambda: _saved(_checkpoint(40) | {"state_dict": None}),
        "with words for weights": lambda: _saved(
            _checkpoint(40) | {"state_dict": {"model.weight": "x"}}
        ),
        "without its position": lambda: _saved(
            {k: v for k, v in _checkpoint(40).items() if k not in ("position", "state_dict")}
        ),
        "of another step": lambda: _saved(_checkpoint(20)),
        "of a step in words": lambda: _saved(_checkpoint(40) | {"global_step": "x"}),
    }
    for name, make in contents.items():
        yield name, lambda path, make=make: path.write_bytes(make())


LOGS: dict[str, Damage] = {
    "without steps": _with(b"loss\n0.5\n"),
    "a step in words": _with(b"step,loss\nx,0.5\n"),
    "a row too long": _with(b"step,loss\n10,0.5,7\n"),
    "an open quote": _with(b'step,loss\n10,"0.5\n'),
}


def _other_word(path: Path) -> None:
    path.write_text(path.read_text().replace("too", "two"))


def _checkpoints(run: Path, make: Callable[[Path], None]) -> None:
    shutil.rmtree(run / "checkpoints")
    make(run / "checkpoints")


def _latest_is(run: Path, make: Callable[[Path], None]) -> None:
    latest = run.parent / "latest"
    latest.unlink()
    make(latest)


PLACES: dict[str, Damage] = {
    "a checkpoint without a number": lambda run: (
        run / "checkpoints/resume-step=abc.ckpt"
    ).write_bytes(b"x"),
    "a folder for a checkpoint": lambda run: (run / "checkpoints/resume-step=000050.ckpt").mkdir(),
    "a folder for a half-written file": lambda run: (run / ".x.1.tmp").mkdir(),
    "checkpoints is a file": lambda run: _checkpoints(run, lambda path: path.write_text("x")),
    "checkpoints is a link to nothing": lambda run: _checkpoints(
        run, lambda path: path.symlink_to("nowhere")
    ),
    "checkpoints is a loop": lambda run: _checkpoints(
        run, lambda path: path.symlink_to("checkpoints")
    ),
    "latest is gone": lambda run: _latest_is(run, lambda path: None),
    "latest points nowhere": lambda run: _latest_is(run, lambda path: path.symlink_to("nowhere")),
    "latest is a loop": lambda run: _latest_is(run, lambda path: path.symlink_to("latest")),
    "latest points outside": lambda run: _latest_is(run, lambda path: path.symlink_to("/etc")),
    "latest is a folder": lambda run: _latest_is(run, lambda path: path.mkdir()),
    "latest is a file": lambda run: _latest_is(run, lambda path: path.write_text("x")),
}
