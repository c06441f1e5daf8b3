"""The same command continues its unfinished run, and no other."""

import json
import subprocess
import sys

import pytest

from parakeet_ft.errors import UserError
from parakeet_ft.run import directory, provenance

NOW = {
    "config": {"optim": {"lr": 1e-4}, "seed": 1, "logger": {"names": ["csv"]}},
    "manifests": {"train": "abc"},
    "checkpoint": None,
}


def made(parent, name, identity=NOW, finished=False):
    directory = parent / name
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({"identity": identity, "finished": finished}))
    return directory


def changed(**settings):
    return NOW | {"config": NOW["config"] | settings}


def choose(parent, identity=NOW, given=None, resume="auto"):
    return directory.choose(identity, parent=parent, given=given, resume=resume)


@pytest.fixture(autouse=True)
def unlock():
    yield
    while directory._held:
        directory._held.pop().release()


def test_the_newest_unfinished_run_with_the_same_settings_is_continued(tmp_path):
    made(tmp_path, "2026-01-01", finished=False)
    newest = made(tmp_path, "2026-01-02")
    made(tmp_path, "2026-01-03", finished=True)
    assert choose(tmp_path) == (newest, [f"continuing {newest}"])


def test_another_logger_does_not_make_another_run(tmp_path):
    directory = made(tmp_path, "a", changed(logger={"names": ["wandb"]}))
    assert choose(tmp_path)[0] == directory


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        (changed(optim={"lr": 3e-5}), "config.optim.lr: 3e-05 -> 0.0001"),
        (NOW | {"manifests": {"train": "xyz"}}, "manifests.train: xyz -> abc"),
    ],
)
def test_a_change_begins_a_new_run_and_shows_the_difference(tmp_path, before, shown):
    old = made(tmp_path, "a", before)
    directory, lines = choose(tmp_path)
    assert directory != old and shown in lines[0] and "resume=changed" in lines[0]
    assert choose(tmp_path, resume="changed")[0] == old


def test_a_named_directory_with_other_settings_is_refused_with_the_difference(tmp_path):
    old = made(tmp_path, "a", changed(seed=2))
    with pytest.raises(UserError, match=r"other settings: config\.seed: 2 -> 1.*resume=changed"):
        choose(tmp_path, given=old)
    assert choose(tmp_path, given=old, resume="changed")[0] == old


def test_a_finished_run_is_never_written_over(tmp_path):
    with pytest.raises(UserError, match="finished run"):
        choose(tmp_path, given=made(tmp_path, "a", finished=True))


def test_never_begins_anew(tmp_path):
    old = made(tmp_path, "a")
    assert choose(tmp_path, resume="never")[0] != old


def test_a_run_in_progress_is_left_alone(tmp_path):
    busy = made(tmp_path, "a")
    code = (
        f"import sys; from pathlib import Path; from parakeet_ft.run.directory import lock; "
        f"print(lock(Path({str(busy)!r})), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        assert choose(tmp_path)[0] != busy
        with pytest.raises(UserError, match="in use by another process"):
            choose(tmp_path, given=busy)
        other.communicate("")
    assert choose(tmp_path)[0] == busy


def test_two_runs_of_one_second_get_two_directories(tmp_path):
    assert len({choose(tmp_path, resume="never")[0] for _ in range(3)}) == 3


def test_a_directory_that_cannot_be_made_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made: .* hydra\.run\.dir"):
        choose(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made"):
        choose(tmp_path, given=tmp_path / "file" / "x")


def test_a_read_only_directory_is_told_in_words(tmp_path):
    """The lock is the first thing a run writes; here a directory lies where its file should be."""
    directory = made(tmp_path, "a")
    (directory / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be written to"):
        choose(tmp_path, given=directory)


def test_latest_points_at_the_newest_run_and_never_replaces_what_is_no_link(tmp_path):
    from parakeet_ft.run.console import link_latest

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        link_latest(tmp_path / name)
    assert (tmp_path / "latest").resolve() == tmp_path / "b"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").write_text("the user's")
    link_latest(tmp_path / "a")
    assert (tmp_path / "latest").read_text() == "the user's"


DAMAGES = ("", "[1]", "{}", "null", '{"finished": false}', '{"finished": "no"}', "\0" * 50)


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_record_is_neither_continued_nor_written_over(content, tmp_path):
    damaged = made(tmp_path, "a")
    (damaged / "run.json").write_text(content)
    for given in (None, damaged):
        with pytest.raises(UserError, match=r"no record of a run: .*Delete that folder .*name="):
            choose(tmp_path, given=given)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert choose(tmp_path, resume="never")[0] != damaged
    assert (damaged / "run.json").read_text() == content


def test_checkpoints_without_a_record_are_not_left_behind_silently(tmp_path):
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    assert choose(tmp_path)[0] != tmp_path / "a"
    (tmp_path / "a" / "checkpoints" / "resume-step=000010.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="No such file"):
        choose(tmp_path)


def test_what_was_altered_in_a_record_is_not_taken_for_the_runs_own(tmp_path):
    lines = []
    run = provenance.Run(
        tmp_path,
        command=["x"],
        config={},
        manifests={},
        identity=NOW,
        resumed_at_step=None,
        say=lines.extend,
    )
    assert run.once("baseline", lambda: ["one two"]) == ["one two"]
    assert run.once("baseline", lambda: ["made again"]) == ["one two"] and lines == []
    path = tmp_path / "baseline.json"
    path.write_text(path.read_text().replace("two", "too"))
    assert run.once("baseline", lambda: ["made again"]) == ["made again"]
    assert "baseline.json is not used, and made again: it was changed" in lines[0]
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("0.0001", "0.0002"))
    with pytest.raises(UserError, match="its checksum differs"):
        choose(tmp_path.parent, given=tmp_path)


def test_a_run_that_is_stopped_before_it_begins_leaves_no_directory_but_what_is_a_users(tmp_path):
    empty, begun, own = (tmp_path / name for name in ("empty", "begun", "own"))
    for place in (empty, begun, own):
        (place / ".hydra").mkdir(parents=True)
        (place / ".hydra" / "config.yaml").touch()
        (place / "run.log").touch()
    (begun / "run.json").touch()
    (own / "notes.txt").touch()
    assert directory.what_is_kept(empty) == "Nothing was begun that is lost." and not empty.exists()
    assert directory.what_is_kept(begun) == f"What is finished is kept in {begun}."
    assert (begun / ".hydra" / "config.yaml").exists()
    assert directory.what_is_kept(own) == "Nothing was begun that is lost."
    assert [path.name for path in own.iterdir()] == ["notes.txt"]


def test_a_manifest_that_changed_is_told_by_the_beginnings_of_its_hashes():
    before, after = ({"manifests": {"train": digit * 64}} for digit in "ab")
    told = directory.differences(before, after)
    assert told == [f"manifests.train: {'a' * 12} -> {'b' * 12}"]
