"""A folder appears whole or not at all, and an older one stands until then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.staged_folder import staged_folder
from onnx_gconv.handoff import open_bundle, write_bundle


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_appears_at_the_commit(tmp_path):
    with staged_folder(tmp_path / "out") as staged:
        (staged.folder / "a").write_text("new")
        assert not (tmp_path / "out").exists()
        staged.commit()
        assert (tmp_path / "out" / "a").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_an_error_leaves_the_older_folder_and_nothing_else(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    with pytest.raises(FileExistsError), staged_folder(tmp_path / "out") as staged:
        staged.folder.mkdir()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_commit_replaces_all_of_the_older_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with staged_folder(tmp_path / "out") as staged:
        (staged.folder / "new").write_text("new")
        staged.commit()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]


def killed(tmp_path, code):
    """Run code that is killed in the middle, with `path` and `staged` at hand."""
    program = f"""
        import os, signal
        from pathlib import Path
        from onnx_gconv.files.staged_folder import staged_folder
        path = Path({os.fspath(tmp_path / "out")!r})
        with staged_folder(path) as staged:
            (staged.folder / "a").write_text("new")
            {code}
            os.kill(os.getpid(), signal.SIGKILL)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert found.returncode == -signal.SIGKILL


def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    killed(tmp_path, "pass")
    assert len(names(tmp_path)) == 1
    with staged_folder(tmp_path / "out") as staged:
        staged.commit()
    assert names(tmp_path) == ["out"]


def test_the_next_run_brings_back_a_folder_that_a_killed_one_had_moved_away(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    killed(tmp_path, "path.rename(staged.folder.with_name('old'))")
    assert "out" not in names(tmp_path)
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out"):
        raise RuntimeError
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def between_both_renames(monkeypatch, path, act):
    """Let something happen when the older folder has been moved away and the new one is not there yet."""
    rename, done = Path.rename, []

    def moved(self, target):
        found = rename(self, target)
        if self == path and not done:
            done.append(act())
        return found

    monkeypatch.setattr(Path, "rename", moved)


def test_a_run_that_may_not_overwrite_brings_back_what_a_killed_one_had_moved_away(mapped, tmp_path):
    source = mapped("Gemm")
    write_bundle(source, tmp_path / "out", (5, 4))
    killed(tmp_path, "path.rename(staged.folder.with_name('old'))")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"out' exists; choose another name, or replace it with --overwrite"):
        write_bundle(source, tmp_path / "out", (4, 4))
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.geometry.rows == 5
        bundle.verify_hashes()
    assert "out" in names(tmp_path)
    assert not list(tmp_path.glob(".out*"))


def test_of_two_runs_for_one_folder_the_one_that_comes_in_between_stands(mapped, tmp_path, monkeypatch):
    source = mapped("Gemm")
    write_bundle(source, tmp_path / "out", (5, 4))
    between_both_renames(monkeypatch, tmp_path / "out", lambda: write_bundle(source, tmp_path / "out", (3, 3)))
    with pytest.raises(ConfigError, match=r"out': another program wrote 'out' meanwhile, run again$"):
        write_bundle(source, tmp_path / "out", (4, 4), overwrite=True)
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.geometry.rows == 3
        bundle.verify_hashes()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_an_error_between_both_renames_brings_the_older_folder_back(mapped, tmp_path, monkeypatch, error):
    source = mapped("Gemm")
    write_bundle(source, tmp_path / "out", (5, 4))

    def fail():
        raise error

    between_both_renames(monkeypatch, tmp_path / "out", fail)
    with pytest.raises((ConfigError, KeyboardInterrupt)):
        write_bundle(source, tmp_path / "out", (4, 4), overwrite=True)
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.geometry.rows == 5
    assert not list(tmp_path.glob(".out*"))


def test_a_running_run_is_left_alone(tmp_path):
    with staged_folder(tmp_path / "out") as first:
        (first.folder / "a").write_text("first")
        with staged_folder(tmp_path / "out") as second:
            second.commit()
        assert (first.folder / "a").read_text() == "first"


def test_a_failing_hand_off_leaves_the_older_bundle(handed_off, mapped, tmp_path):
    older = handed_off("Gemm").path
    before = names(tmp_path)

    def fail(step, _done, _total):
        raise KeyboardInterrupt(step)

    with pytest.raises(KeyboardInterrupt):
        write_bundle(mapped("Conv"), older, (5, 4), overwrite=True, progress=fail)
    assert names(tmp_path) == before
    with open_bundle(older) as bundle:
        assert bundle.layers[0].record.nodes[0].op_type == "Gemm"
        bundle.verify_hashes()


def test_an_existing_output_is_kept_unless_it_may_be_overwritten(mapped, tmp_path):
    source = mapped("Gemm")
    write_bundle(source, tmp_path / "out", (5, 4))
    with pytest.raises(ConfigError, match=r"out' exists; choose another name, or replace it with --overwrite"):
        write_bundle(source, tmp_path / "out", (5, 4))
    write_bundle(source, tmp_path / "out", (4, 4), overwrite=True)
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.geometry.rows == 4


def test_what_is_no_bundle_is_never_replaced(mapped, tmp_path):
    source = mapped("Gemm")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="out' exists and is no bundle; choose another name"):
        write_bundle(source, tmp_path / "out", (5, 4), overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="exists and is no bundle"):
        write_bundle(source, tmp_path / "file", (5, 4), overwrite=True)
    with pytest.raises(ConfigError, match=r"the folder .*nowhere' does not exist; create it first"):
        write_bundle(source, tmp_path / "nowhere" / "out", (5, 4))


def test_the_model_in_a_bundle_cannot_be_handed_off_over_itself(mapped, tmp_path):
    write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4))
    with pytest.raises(ConfigError, match="holds the input"):
        write_bundle(tmp_path / "out" / "model.onnx", tmp_path / "out", (5, 4), overwrite=True)
