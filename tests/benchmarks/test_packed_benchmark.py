"""The benchmark of packed weights maps, compares and restores them, and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.packed import main

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


@pytest.mark.parametrize("options", [[], ["--zero-points"]])
def test_all_jobs_are_reported_and_nothing_is_left_behind(tmp_path, options):
    (tmp_path / "files").mkdir()
    command = [sys.executable, "-m", "benchmarks.packed", "--size-gib", "0.0002", "--width", "256", "--repeats", "1"]
    command += ["--folder", str(tmp_path / "files"), "--json", str(tmp_path / "report.json"), *options]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr
    assert list((tmp_path / "files").iterdir()) == []
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(report["measurements"]) == ["map", "copy", "inspect", "compare", "restore"]
    [mapped], [copied], [restored] = (report["measurements"][name] for name in ("map", "copy", "restore"))
    assert mapped["output_bytes"] == copied["output_bytes"] > 2 * report["weight_bytes"]
    assert restored["output_bytes"] > report["weight_bytes"]
    assert report["ratios"][0]["of_work"] == [mapped["work_seconds"] / copied["work_seconds"]]
    assert "map / copy" in found.stdout


@pytest.mark.parametrize("arguments", [["--width", "100"], ["--repeats", "0"], ["--size-gib", "-1"]])
def test_what_cannot_be_measured_is_refused(refusal, arguments):
    assert "--width a multiple of 64" in refusal(main, *arguments)
