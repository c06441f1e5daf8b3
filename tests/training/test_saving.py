"""A copy that training cannot change, a file that is what was written or is not there, a thread
whose failures are heard.
"""

import collections
import errno
import threading

import pytest
import torch

from parakeet_ft.files import damaged_member
from parakeet_ft.training import saving


def trained():
    """A small model and its optimiser with states, as after a step."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def content_of(model, optimizer):
    return {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "history": [{"step": 1}],
        "rows": ("a", 1, None),
    }


def flat(content):
    if isinstance(content, dict):
        return [item for key in content for item in (key, *flat(content[key]))]
    if isinstance(content, list | tuple):
        return [item for value in content for item in flat(value)]
    return [content.tolist() if isinstance(content, torch.Tensor) else content]


def test_a_copy_stays_as_it_was_while_training_goes_on():
    model, optimizer = trained()
    content = content_of(model, optimizer)
    copied, before = saving.host_copy(content), flat(content)
    optimizer.step()
    model(torch.randn(5, 3))
    content["history"][0]["step"] = 2
    content["history"].append({"step": 3})
    assert flat(content_of(model, optimizer)) != before and flat(copied) == before
    assert type(copied["state_dict"]) is collections.OrderedDict
    assert copied["state_dict"]._metadata == content["state_dict"]._metadata


def test_what_was_gathered_for_the_checkpoint_alone_is_not_copied_once_more():
    lives, gathered = torch.zeros(2), torch.zeros(2)
    content = {"lives": lives, "gathered": gathered}
    copied = saving.host_copy(content, live={lives.data_ptr()})
    assert copied["gathered"].data_ptr() == gathered.data_ptr()
    assert copied["lives"].data_ptr() != lives.data_ptr()


def test_the_file_is_whole_and_every_byte_of_it_is_heard_of(tmp_path):
    model, optimizer = trained()
    heard = []
    path = tmp_path / "x.ckpt"
    saving.save(content_of(model, optimizer), path, on_bytes=heard.append)
    assert sum(heard) == path.stat().st_size and damaged_member(path) is None
    assert flat(torch.load(path)) == flat(content_of(model, optimizer))
    assert saving.num_bytes(content_of(model, optimizer)) <= sum(heard)


def test_blocks_that_the_disk_takes_in_part_are_written_to_their_end(tmp_path, monkeypatch):
    write = saving.CountedFile.write_block
    monkeypatch.setattr(
        saving.CountedFile, "write_block", lambda self, block: write(self, block[:100])
    )
    saving.save({"x": torch.arange(1000)}, tmp_path / "x.ckpt")
    assert damaged_member(tmp_path / "x.ckpt") is None
    assert torch.equal(torch.load(tmp_path / "x.ckpt")["x"], torch.arange(1000))


def test_the_disks_own_error_is_raised_and_nothing_is_left(tmp_path, monkeypatch):
    def refuse(self, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving.CountedFile, "write_block", refuse)
    with pytest.raises(OSError, match="No space left"):
        saving.save({"x": torch.zeros(9)}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_loses_bytes_without_a_word_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(saving.CountedFile, "write_block", lambda self, block: len(block))
    with pytest.raises(OSError, match="bytes were written, 0 are there"):
        saving.save({"x": torch.zeros(9)}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_work_in_the_background_is_waited_for_and_its_failure_is_raised_to_who_asks():
    background, may_end = saving.Background(), threading.Event()

    def work():
        background.add(3)
        may_end.wait(60)
        raise ValueError("no disk")

    background.start(work, name="x.ckpt", total=10)
    background.wait(0.01)
    assert background.busy and not background.failed
    background.check()
    may_end.set()
    background.wait()
    assert background.failed and not background.busy
    with pytest.raises(ValueError, match="no disk"):
        background.check()
    assert background.progress() == "x.ckpt, 0.00 of 0.00 GB written"


def test_a_copy_is_made_only_where_memory_has_room_beside_it(monkeypatch):
    monkeypatch.setattr(saving, "free_bytes", lambda: 10e9)
    assert saving.fits_beside(int(7e9)) and not saving.fits_beside(int(9e9))
