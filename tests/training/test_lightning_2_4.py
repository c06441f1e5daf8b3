"""What is held on to inside Lightning is that of one version, and lies in one module."""

import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from parakeet_ft.training import lightning_2_4
from parakeet_ft.training.adamw import AdamW

ROOT = Path(__file__).resolve().parents[2]


def test_lightning_is_the_version_that_is_held_on_to():
    assert pl.__version__ == "2.4.0", "look at every function of training/lightning_2_4.py again"


def test_no_other_module_reaches_inside():
    inside = re.compile(r"\.fit_loop|\.epoch_loop|\.val_check_batch =|_step_supports_amp")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "parakeet_ft").rglob("*.py")
        if path.name != "lightning_2_4.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if inside.search(line)
    ]
    assert found == []


class Counting(pl.LightningModule):
    """Eight batches of nothing; validated where `due` says, by our hold or by Lightning alone."""

    def __init__(self, due):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.due, self.validated, self.numbers = due, [], []

    def on_train_batch_start(self, batch, batch_index):
        number = lightning_2_4.next_batch_number(self.trainer)
        assert lightning_2_4.current_batch(self.trainer) in (batch_index, batch_index - 1)
        assert lightning_2_4.completed_batches(self.trainer) == number - 1 == batch_index
        if self.due is not None:
            lightning_2_4.validate_after_this_batch(self.trainer, number in self.due)

    def training_step(self, batch, batch_index):
        return self.weight.sum()

    def validation_step(self, batch, batch_index):
        self.validated.append(lightning_2_4.completed_batches(self.trainer))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, every):
    trainer = pl.Trainer(
        max_steps=8,
        max_epochs=1,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.zeros(8, 1))
    trainer.fit(module, data, torch.utils.data.DataLoader(torch.zeros(1, 1)))
    return module.validated


def test_a_validation_follows_the_batches_that_are_due_and_no_other():
    assert fit(Counting({2, 5, 8}), every=8) == [2, 5, 8]


def test_lightning_alone_validates_at_multiples_so_the_last_step_can_be_missed():
    """When this fails, validate_after_this_batch may not be needed any more."""
    assert fit(Counting(None), every=3) == [3, 6]


def test_the_position_of_a_checkpoint_is_that_of_finished_batches():
    counts = {"ready": 5, "completed": 4, "started": 5, "processed": 4}
    progress = {"total": dict(counts), "current": dict(counts), "is_last_batch": False}
    checkpoint = {"loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    lightning_2_4.set_position(checkpoint, 4)
    assert set(progress["total"].values()) == set(progress["current"].values()) == {4}
    assert progress["is_last_batch"] is False


def test_an_optimiser_that_unscales_inside_can_be_clipped_before():
    from lightning.pytorch.plugins import MixedPrecision

    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))])
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        precision.clip_gradients(optimizer, 1.0)
    lightning_2_4.skip_on_device(optimizer, False)
    precision.clip_gradients(optimizer, 1.0)
