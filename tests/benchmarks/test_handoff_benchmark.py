"""The benchmark of the hand-off writes, copies and reads bundles, and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.handoff import main

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.handoff", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(("arrays", "repeats"), [("hdf5", 1), ("npz", 1)])
def test_times_memory_and_reads_are_reported_and_nothing_is_left_behind(tmp_path, arrays, repeats):
    (tmp_path / "files").mkdir()
    file = tmp_path / "report.json"
    found = run(
        "--size-gib",
        0.01,
        "--repeats",
        repeats,
        "--tiles",
        7,
        "--arrays",
        arrays,
        "--folder",
        tmp_path / "files",
        "--json",
        file,
    )
    assert found.returncode == 0, found.stderr
    assert list((tmp_path / "files").iterdir()) == []
    report = json.loads(file.read_text(encoding="utf-8"))
    weights = report["weight_bytes"]
    assert weights == report["layers"] * report["width"] ** 2 * 4
    written, copied, hashed = (report["measurements"][name] for name in ("handoff", "copy", "hashed_copy"))
    for measured in (*written, *copied, *hashed):
        assert 5 * weights < measured["output_bytes"] < 5.5 * weights  # mapped model, conductances, plain model
        assert 0 < measured["work_seconds"] <= measured["seconds"]
    assert len({measured["output_bytes"] for measured in (*written, *copied, *hashed)}) == 1
    assert min(measured["anonymous_bytes"] for measured in written) > 0
    ratio, to_hashed = report["ratios"]
    assert to_hashed["name"] == "handoff / hashed_copy"
    assert ratio["of_work"] == [a["work_seconds"] / b["work_seconds"] for a, b in zip(written, copied, strict=True)]
    assert {name: len(seconds) for name, seconds in report["reads"].items()} == {
        "open": repeats * 5,
        "tile": repeats * 7,
        "tile_of_open_bundle": repeats * 7,
    }
    for text in ["handoff / copy", "at most 2.0", "open the bundle", arrays, report["versions"]["h5py"]]:
        assert text in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arrays", "csv"], "invalid choice: 'csv'"),
        (["--tiles", "0"], "--tiles and --width should be positive"),
        (["--size-gib", "1e9"], "the files need"),
    ],
)
def test_what_cannot_be_measured_is_refused(refusal, tmp_path, arguments, message):
    assert message in refusal(main, "--folder", tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []
