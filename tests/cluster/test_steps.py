"""Steps of two ranks: alike whatever is saved in memory, and a bad batch of one is lost to both."""

import json

import pytest

from parakeet_ft.run import composition
from tests.cluster import ranks

pytestmark = pytest.mark.slow
STEPS = 4


def train(cfg, manifest, *, strategy="ddp", twice=False, overrides=(), spoilt=None):
    """STEPS steps of a new model of this configuration; the states after each, and the tuner.
    spoilt: (rank, batch) whose loss is no number.
    """
    import lightning.pytorch as pl
    import torch
    from nemo.collections.asr.models import ASRModel

    from parakeet_ft.batches.loaders import train_loader
    from parakeet_ft.batches.plan import Plan
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.distributed.ranks import rank
    from parakeet_ft.training import adaptation, bad_batches, distillation, fine_tuner, optim

    class After(pl.Callback):
        def __init__(self):
            self.states = []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            found = module.model.state_dict()
            self.states.append({key: value.clone() for key, value in found.items()})

    class Tuner(fine_tuner.FineTuner):
        def _losses(self, batch):
            losses = super()._losses(batch)
            here = rank(), self.trainer.fit_loop.epoch_loop.batch_idx
            return {
                key: value * torch.nan if here == spoilt else value for key, value in losses.items()
            }

    fine_tuner.seed_everything(0)
    model, after = ASRModel.from_config_dict(cfg), After()
    config = composition.compose("finetune", ["optim.lr=1e-3", *overrides])
    teacher = distillation.build_teacher(model, **config["distillation"])
    learning = config["adaptation"] | {"freeze_batch_norm": False}
    adaptation.set_learning(model, num_new_pieces=0, **learning)
    if teacher:
        teacher.follow(model)
    fine_tuner.use_loss_for(model, device="cpu")
    utterances = read_manifest(manifest)
    plan = Plan(
        utterances,
        num_domain=len(utterances),
        batch_seconds=3,
        seed=1,
        num_ranks=2,
    )
    bad = bad_batches.BadBatches(
        manifest.parent / "bad.jsonl", plan, most=9, say=lambda lines: None
    )
    settings = optim.settings(
        model, hours_per_pass=1, num_new_pieces=0, num_steps=STEPS, **config["optim"]
    )
    tuner = Tuner(
        model,
        settings=settings,
        sets={},
        base={},
        batch_seconds=1,
        teacher=teacher,
        bad_batches=bad,
    )
    tuner.on_validation_epoch_end = lambda: None
    devices = fine_tuner.resolve(
        **composition.compose("finetune", [])["trainer"]
        | {"strategy": strategy, "activation_checkpointing": twice, "accelerator": "cpu"}
    )
    fine_tuner.fit(
        tuner,
        train_loader(plan, model, num_batches=STEPS, num_workers=0, rank=rank()),
        num_steps=STEPS,
        validations=1,
        gradient_clip=1.0,
        accumulate=1,
        devices=devices,
        callbacks=[after],
        loggers=[pl.loggers.CSVLogger(manifest.parent)],
        resume_from=None,
    )
    return after.states, tuner


def differing(one, other):
    import torch

    one, other = (
        {key: getattr(value, "full_tensor", lambda v=value: v)() for key, value in state.items()}
        for state in (one, other)
    )
    return [key for key in one if not torch.equal(one[key], other[key])]


def save_memory(cfg, manifest):
    """Each way to save memory, against the way without."""
    from parakeet_ft.training import fine_tuner

    hybrid = ["distillation.weight=1", "adaptation=first_layers"]
    with_views = fine_tuner.DDPStrategy
    fine_tuner.DDPStrategy = lambda **given: with_views()
    (plain, _), fine_tuner.DDPStrategy = train(cfg, manifest, overrides=hybrid), with_views
    views, _ = train(cfg, manifest, overrides=hybrid)
    twice, _ = train(cfg, manifest, overrides=hybrid, twice=True)
    found = {"views": differing(plain[-1], views[-1]), "twice": differing(plain[-1], twice[-1])}
    whole, _ = train(cfg, manifest, strategy="fsdp")
    again, _ = train(cfg, manifest, strategy="fsdp", twice=True)
    found |= {"fsdp": differing(whole[-1], again[-1]), "steps": len(plain)}
    print(json.dumps(found))


def test_what_saves_memory_changes_no_bit(tiny_model, speech, tmp_path):
    codes = ranks.on_ranks(
        save_memory, tiny_model("hybrid").cfg, speech(count=12), outputs=tmp_path
    )
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert codes == [0, 0], said[0]
    expected = {"views": [], "twice": [], "fsdp": [], "steps": STEPS}
    assert [json.loads(text.splitlines()[-1]) for text in said] == [expected, expected]


def lose_one(cfg, manifest):
    from parakeet_ft.distributed.ranks import rank

    found = {}
    for strategy in ("ddp", "fsdp"):
        states, tuner = train(cfg, manifest, strategy=strategy, spoilt=(1, 1))
        found[strategy] = [
            tuner.bad_batches.positions,
            # DDP gives rank 1 the statistics of rank 0 before each batch, whatever becomes of it.
            [key for key in differing(states[0], states[1]) if not rank() or "running" not in key],
            differing(states[1], states[2]) != [],
        ]
    print(json.dumps(found))


def test_a_batch_that_is_bad_on_one_rank_leaves_no_trace_on_any(tiny_model, speech, tmp_path):
    manifest = speech(count=12)
    codes = ranks.on_ranks(lose_one, tiny_model("ctc").cfg, manifest, outputs=tmp_path)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert codes == [0, 0], said[0]
    expected = {"ddp": [[1], [], True], "fsdp": [[1], [], True]}
    assert [json.loads(text.splitlines()[-1]) for text in said] == [expected, expected]
    rows = [json.loads(line) for line in (manifest.parent / "bad.jsonl").read_text().splitlines()]
    assert {(row["rank"], row["position"], row["reason"]) for row in rows} == {
        (1, 1, "the loss is not finite")
    }
