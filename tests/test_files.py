"""Files that are whole or not there."""

import shutil

from parakeet_ft import files


def test_a_workspace_that_another_process_took_for_abandoned_is_made_again(tmp_path, monkeypatch):
    held, hold = [], files.hold

    def hold_late(path):
        held.append(path.parent)
        if len(held) == 1:  # another process came before it was locked
            shutil.rmtree(path.parent)
        return hold(path)

    monkeypatch.setattr(files, "hold", hold_late)
    with files.workspace(tmp_path / "out") as own:
        assert own == held[1] != held[0] and own.is_dir() and not held[0].exists()
        (own / "work").touch()
    assert list((tmp_path / "out").iterdir()) == []
