"""The benchmark of exporting from PyTorch measures memory and files, and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.export_torch import main

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def test_memory_and_files_are_reported_and_nothing_is_left_behind(tmp_path):
    folder, file = tmp_path / "files", tmp_path / "report.json"
    folder.mkdir()
    options = {"--layers": 6, "--width": 1024, "--repeats": 1, "--folder": folder, "--json": file}
    command = [
        sys.executable,
        "-m",
        "benchmarks.export_torch",
        *(str(item) for pair in options.items() for item in pair),
    ]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600)
    assert found.returncode == 0, found.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["weight_bytes"] == 6 * 1024**2 * 4
    assert list(report["measurements"]) == ["torch", "torch_save", "export"]
    [ours], [saved] = report["measurements"]["export"], report["measurements"]["torch_save"]
    assert ours["output_bytes"] > 2 * report["weight_bytes"] > saved["output_bytes"] > report["weight_bytes"]
    assert ours["told"]["module_bytes"] >= report["weight_bytes"] * 0.9
    [beyond], [files] = report["beyond_torch_bytes"], report["beyond_output_bytes"]
    assert beyond < 300_000_000
    assert files < 1 << 20
    assert "the goal of 300 MB holds" in found.stdout
    assert not list(folder.iterdir())


@pytest.mark.parametrize("option", ["--layers", "--width", "--repeats"])
def test_what_cannot_be_measured_is_refused(refusal, option):
    assert "--layers, --width and --repeats should be positive" in refusal(main, option, 0)
