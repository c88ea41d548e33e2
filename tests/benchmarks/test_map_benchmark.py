"""The benchmark of mapping runs every job, reports all ratios and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_gconv
from benchmarks.map import main
from tests import graphs

REPOSITORY = Path(__file__).parents[2]
JOBS = ["map", "copy", "read_write", "program", "program_day", "naive", "quantize"]
RATIOS = ["map / copy", "map / read_write", "program / map", "program_day / map", "naive / map", "quantize / map"]

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def run(module, *arguments, timeout=300):
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=timeout)


def small_run(folder, *arguments):
    (folder / "files").mkdir()
    report = folder / "report.json"
    found = run("map", "--size-gib", 0.01, "--repeats", 1, "--folder", folder / "files", "--json", report, *arguments)
    assert found.returncode == 0, found.stderr
    assert list((folder / "files").iterdir()) == []
    return found.stdout, json.loads(report.read_text(encoding="utf-8"))


def test_every_job_and_ratio_is_reported_and_what_is_measured_is_possible(tmp_path):
    text, report = small_run(tmp_path)
    assert list(report["measurements"]) == JOBS
    assert [ratio["name"] for ratio in report["ratios"]] == RATIOS
    assert report["skipped"] == {}
    for name in [*JOBS, *RATIOS, *report["versions"], report["machine"]["processor"]]:
        assert name in text
    weights, runs = report["weight_bytes"], {name: found[0] for name, found in report["measurements"].items()}
    assert weights == report["layers"] * report["width"] ** 2 * 4
    for name in ["map", "copy", "read_write", "program", "program_day", "naive"]:
        assert 2 * weights < runs[name]["output_bytes"] < 2.1 * weights
    for measured in runs.values():
        assert 0 < measured["work_seconds"] <= measured["seconds"]
        assert 0 <= measured["anonymous_bytes"] <= measured["resident_bytes"]
    assert runs["naive"]["anonymous_bytes"] > 3 * weights
    for ratio in report["ratios"]:
        above, below = ratio["name"].split(" / ")
        assert ratio["of_processes"] == [runs[above]["seconds"] / runs[below]["seconds"]]


def test_skipped_jobs_are_listed_with_the_reason(tmp_path):
    text, report = small_run(tmp_path, "--skip", "naive,quantize,read_write,program,program_day", "--width", 1024)
    assert list(report["measurements"]) == ["map", "copy"]
    assert report["skipped"] == dict.fromkeys(
        ["naive", "quantize", "read_write", "program", "program_day"], "not asked for"
    )
    assert report["width"] == 1024
    assert "skipped: naive (not asked for)" in text


def test_the_naive_rewrite_is_the_same_rewrite(tmp_path):
    weight = np.random.default_rng(0).normal(0, 0.02, (32, 16)).astype(np.float32)
    weight[0, :2] = 0.0, -0.0
    ends = [graphs.value("x0", shape=["n", 32])], [graphs.value("x1", shape=["n", 16])]
    onnx.save(graphs.model(graphs.chain(["w"]), *ends, graphs.tensors({"w": weight})), tmp_path / "in.onnx")
    onnx_gconv.map_model(tmp_path / "in.onnx", tmp_path / "mapped.onnx")
    found = run("job", "naive", tmp_path / "in.onnx", tmp_path / "naive.onnx")
    assert found.returncode == 0, found.stderr
    mapped, naive = (tensors(tmp_path / name) for name in ("mapped.onnx", "naive.onnx"))
    assert mapped == naive
    assert set(naive) == {"w.g_plus", "w.g_minus", "w.g_scale"}


def tensors(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--skip", "everything"],
            "--skip knows read_write, program, program_day, naive, quantize, but not everything",
        ),
        (["--skip", "map"], "but not map"),
        (["--size-gib", "0"], "should be positive"),
        (["--size-gib", "1e9"], "the files need"),
    ],
)
def test_what_cannot_be_measured_is_refused(refusal, tmp_path, arguments, message):
    assert message in refusal(main, "--folder", tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []
