"""The benchmark of many weights maps, restores and hands off, and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.release

REPOSITORY = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.many_weights", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_ratios_are_reported_and_nothing_is_left_behind(tmp_path):
    found = run("--weights", 5, "--times", 2, "--repeats", 1, "--folder", tmp_path)
    assert found.returncode == 0, found.stderr
    assert list(tmp_path.iterdir()) == []
    for ratio in ("restore 5 / map 5", "restore 10 / map 10", "restore 10 / restore 5", "handoff_hdf5 10"):
        assert ratio in found.stdout


def test_a_number_that_is_not_positive_is_refused(tmp_path):
    found = run("--weights", 0)
    assert found.returncode != 0
    assert "should be positive, but is 0" in found.stderr
