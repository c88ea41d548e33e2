"""What is said of a file that changes while it is read."""

from __future__ import annotations

import os
import time

import pytest

from onnx_gconv.errors import BundleError, ModelError
from onnx_gconv.files.watched import WatchedFiles


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(bytes(2000))
    os.utime(tmp_path / "file", ns=(0, 10**18))
    return tmp_path / "file"


def set_time_back(file):
    file.write_bytes(bytes(1999) + b"x")
    os.utime(file, ns=(0, 10**18))


CHANGES = {
    "it is gone": lambda file: file.unlink(),
    "it had 2,000 bytes, and has 3 now": lambda file: file.write_bytes(b"new"),
    "it was written, or replaced, meanwhile": lambda file: os.utime(file, ns=(0, 2 * 10**18)),
    "its properties changed, as when it is written and its time set back": set_time_back,
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_change_is_told_in_words(file, said):
    watched = WatchedFiles()
    watched.add(file, BundleError)
    watched.check()
    changed = file.stat().st_ctime_ns
    for _ in range(1000):  # clocks of file systems are coarse
        CHANGES[said](file)
        if not file.exists() or file.stat().st_ctime_ns != changed:
            break
        time.sleep(0.01)
    else:
        pytest.fail("the clock of the file system stands still")
    with pytest.raises(BundleError) as found:
        watched.check()
    assert str(found.value) == (
        f"'{file}' changed while it was read: {said}; let what writes it come to its end, and run again"
    )


def test_what_goes_wrong_in_a_file_that_changed_is_told_as_that(file):
    watched = WatchedFiles()
    watched.add(file)
    with pytest.raises(ZeroDivisionError), watched.blamed():
        raise ZeroDivisionError
    file.unlink()
    with pytest.raises(ModelError, match="changed while it was read: it is gone"), watched.blamed():
        raise ZeroDivisionError


def test_a_file_that_was_never_there_is_left_to_whoever_reads_it(tmp_path):
    watched = WatchedFiles()
    watched.add(tmp_path / "none")
    watched.check()
