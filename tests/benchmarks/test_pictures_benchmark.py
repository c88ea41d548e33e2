"""The benchmark of pictures writes bundles, draws them, and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def test_times_are_reported_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "files").mkdir()
    command = [sys.executable, "-m", "benchmarks.pictures", "--layers", "2", "--width", "60", "--repeats", "1"]
    command += ["--folder", str(tmp_path / "files"), "--json", str(tmp_path / "report.json")]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr
    assert list((tmp_path / "files").iterdir()) == []
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    [drawn], [written] = report["measurements"]["pictures"], report["measurements"]["handoff"]
    assert drawn["output_bytes"] > 1000
    assert report["ratios"][0]["of_work"] == [drawn["work_seconds"] / written["work_seconds"]]
    assert "pictures / handoff" in found.stdout
