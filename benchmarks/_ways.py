"""The ways of benchmarks/forgetting.py: how each makes a best.nemo of the base and a domain."""

import contextlib
import dataclasses
import functools
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _quiet

from parakeet_ft.data.corpus import Corpus
from parakeet_ft.errors import NotBetter, UserError
from parakeet_ft.files import json_hash, read_json, write_json
from parakeet_ft.settings.finetune import Evaluation

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

HERE = Path(__file__).resolve().parent
# What is said of a way, in the order of the table.
TITLES = {
    "nemo_stock": "NeMo, stock",
    "nemo_sensible": "NeMo, sensible",
    "nemo_selected": "NeMo, selected",
    "ours": "ours, default",
    "lora": "ours, LoRA",
    "no_replay": "ours, no replay",
    "one_speed": "ours, audio as it is",
}
STOCK = {
    "nemo_stock": ["--lr", "1e-4", "--warmup-steps", "5000"],
    "nemo_sensible": ["--lr", "5e-4", "--warmup-steps", "10"],
}
# NeMo's training whose weights our selection gets.
SELECTED_FROM = {"nemo_selected": "nemo_sensible"}
OURS: dict[str, list[str]] = {
    "ours": [],
    "lora": ["adaptation=lora", "adaptation.lora_rank=8", "adaptation.lora_alpha=16"],
    "no_replay": ["data.replay.ratio=0"],
    "one_speed": ["data.augmentation.speed=null"],
}
# Runs train in processes of their own; what this one computes comes in turn.
LOCK = threading.Lock()
COMPOSING = threading.Lock()  # Hydra composes one configuration at a time


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """Inside, NeMo is there and silent, and no other thread uses it."""
    with LOCK:
        _quiet.silence_nemo()
        yield


@dataclasses.dataclass(frozen=True)
class Job:
    """What the runs of a domain and a seed have in common. folder: of the domain's manifests; out:
    of the runs; inputs: the hashes of the base and of every set.
    """

    folder: Path
    out: Path
    seed: int
    passes: int
    overrides: Sequence[str]
    base: Path
    inputs: dict[str, Any]
    evaluation: Evaluation
    python: str

    def run_dir(self, way: str) -> Path:
        """Where a way leaves its files."""
        return self.out / way / f"seed{self.seed}"

    def key(self, way: str) -> str:
        """The hash of all that decides a way's result but the code."""
        return json_hash(self._settings(way) | self.inputs | {"way": way, "seed": self.seed})

    def _settings(self, way: str) -> dict[str, Any]:
        if way in SELECTED_FROM:
            chosen = dataclasses.asdict(self.evaluation)
            return self._settings(SELECTED_FROM[way]) | {"evaluation": chosen}
        if way in STOCK:
            return {"options": STOCK[way], "passes": self.passes}
        return {"config": composed(self.arguments(way))}

    def arguments(self, way: str) -> list[str]:
        """Of recipes/finetune.py."""
        return [
            *self.overrides,
            *OURS[way],
            f"budget.epochs={self.passes}",
            f"seed={self.seed}",
        ]


def composed(arguments: Sequence[str]) -> dict[str, Any]:
    """The whole configuration of recipes/finetune.py."""
    from parakeet_ft.run import composition

    with COMPOSING:
        return composition.compose("finetune", composition.expand_shorthand(list(arguments)))


def make(way: str, job: Job, sets: dict[str, Corpus]) -> dict[str, Any]:
    """Leave best.nemo in the way's folder; returns what is worth keeping beside its errors."""
    if way in SELECTED_FROM:
        trained = _trained(SELECTED_FROM[way], job)
        with _in_turn():
            return _select(trained, _emptied(job.run_dir(way)), job, sets)
    if way in STOCK:
        _trained(way, job)
        return {"learning_share": 1.0}
    return _fine_tuned(way, job)


def _fine_tuned(way: str, job: Job) -> dict[str, Any]:
    """One run of the recipe, as a user gives it."""
    folder = _emptied(job.run_dir(way))
    command = [job.python, HERE.parent / "recipes" / "finetune.py", *job.arguments(way)]
    # A model that is no better than the base is a result like any other.
    code = _run([*command, f"hydra.run.dir={folder}"], folder, fine=(0, NotBetter.code))
    learning = read_json(folder / "run.json")["effective"]["adaptation"]
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    share = learning["learning"] / (learning["learning"] + learning["frozen"])
    return {"learning_share": share, "exit_code": code}


def _trained(way: str, job: Job) -> Path:
    """The folder of NeMo's training: best.nemo, and weights/ of each validation. It is made once
    for all ways that need it.
    """
    folder, key = job.run_dir(way), job.key(way)
    marker = folder / "trained.json"
    with contextlib.suppress(ValueError):
        if read_json(marker)["key"] == key and (folder / "best.nemo").is_file():
            return folder
    _emptied(folder)
    command = [
        *(job.python, HERE / "_stock.py", job.base, "--out", folder),
        *("--train", job.folder / "train.jsonl", "--validation", job.folder / "dev.jsonl"),
        *("--epochs", job.passes, "--seed", job.seed, *STOCK[way]),
        *(["--keep-weights"] if way in SELECTED_FROM.values() else []),
    ]
    _run(command, folder)
    write_json(marker, {"key": key})
    return folder


def _emptied(folder: Path) -> Path:
    """Nothing of another run may be continued or taken for this one's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(command: Sequence[Any], folder: Path, *, fine: Sequence[int] = (0,)) -> int:
    """The exit code of a command whose output goes to FOLDER/log.txt. Raises UserError with its end
    if it fails.
    """
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
    if done.returncode not in fine:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise UserError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{end}")
    return done.returncode


def _select(trained: Path, folder: Path, job: Job, sets: dict[str, Corpus]) -> dict[str, Any]:
    """Our choice among weights that NeMo trained: each validation's, their mean, and those between
    the base and the last.
    """
    from parakeet_ft.export.nemo import save_nemo
    from parakeet_ft.model import restore
    from parakeet_ft.training import checkpoints, states, weight_selection

    model = restore.restore(str(job.base))
    base = states.copy_state(model)
    evaluate = functools.partial(_judged, model, sets, _judge(model, sets, job.evaluation))
    weights = trained / "weights"
    steps = [checkpoints.step_of(path) for path in checkpoints.find(weights, "weights")]
    read = functools.partial(checkpoints.read_weights, weights)
    at = functools.partial(
        weight_selection.interpolated, base, read(steps[-1]), last_step=steps[-1]
    )
    history = []
    for step in steps:
        states.load(model, read(step))
        history.append({"step": step, **evaluate()})
    found = weight_selection.candidates(
        at=at,
        alphas=job.evaluation.interpolation,
        best_step=checkpoints.best_step(history),
        recent_steps=steps[-(job.evaluation.average_last or 1) :],
        read=read,
        moving_average=None,
    )
    rows = weight_selection.choose_weights(
        model, found, evaluate=evaluate, at=at, step=job.evaluation.interpolation_step
    )
    save_nemo(model, folder / "best.nemo")
    return {"learning_share": 1.0, "chosen": rows[0]["description"], "tried": len(rows)}


def _judge(model: "ASRModel", sets: dict[str, Corpus], evaluation: Evaluation) -> Any:
    """Who decides, by how the base hears the validation sets."""
    from parakeet_ft.scoring import selection

    domain, guard = (
        selection.Reference.of(sets[key], _texts(model, sets[key]))
        for key in ("validation", "guard_validation")
    )
    return selection.Judge(
        domain=domain,
        guards={"guard": (guard, evaluation.guard_tolerance)},
        most_risk=evaluation.guard_risk,
    )


def _judged(model: "ASRModel", sets: dict[str, Corpus], judge: Any) -> dict[str, Any]:
    """What weight_selection asks of the weights that the model has."""
    heard = {"guard": _texts(model, sets["guard_validation"])}
    found = judge(_texts(model, sets["validation"]), heard)
    return {"selection_score": found.score, "judgement": dataclasses.asdict(found)}


def _texts(model: "ASRModel", corpus: Corpus) -> list[str]:
    from parakeet_ft.transcription.decode import transcribe

    return transcribe(model, corpus)


def errors(archive: Path, sets: dict[str, Corpus]) -> dict[str, list[int]]:
    """Word errors of a .nemo in each utterance of the test sets of domain and guard."""
    from parakeet_ft.model import restore
    from parakeet_ft.scoring import wer

    found = {}
    with _in_turn():
        model = restore.restore(str(archive))
        for name, key in (("domain", "test"), ("guard", "guard_test")):
            counts = wer.word_errors([u.text for u in sets[key]], _texts(model, sets[key]))
            found[name] = counts[:, :3].sum(axis=1).tolist()
    return found
