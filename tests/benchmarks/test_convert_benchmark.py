"""The benchmark of converting measures every converter, in turn with aihwkit's. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.convert import main
from benchmarks.convert_job import PARAMETERS, convert_in_chunks, normal_weights
from onnx_gconv.converters import CONVERTERS

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.convert", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)


def test_times_ratios_and_memory_are_reported(tmp_path):
    pytest.importorskip("aihwkit")
    file = tmp_path / "report.json"
    names = ["SinglePair", "BitSlicedOffset"]
    found = run("--width", 1024, "--repeats", 2, "--threads", 2, "--converters", ",".join(names), "--json", file)
    assert found.returncode == 0, found.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    assert (report["width"], report["threads"]) == (1024, 2)
    single, sliced = (report["conversions"][f"{name}ConductanceConverter"] for name in names)
    assert len(single["seconds"]) == len(single["aihwkit_seconds"]) == len(sliced["seconds"]) == 2
    assert min(single["seconds"] + single["aihwkit_seconds"] + sliced["seconds"]) > 0
    assert sliced["aihwkit_seconds"] == []
    assert sliced["aihwkit_extra_bytes"] is None
    for text in [*names, "at least 2", report["versions"]["aihwkit"], report["machine"]["processor"]]:
        assert text in found.stdout


def test_every_converter_is_measured():
    assert sorted(PARAMETERS) == sorted(CONVERTERS)


@pytest.mark.parametrize("threads", [1, 3])
def test_all_of_a_weight_is_converted_chunk_by_chunk(threads):
    single = CONVERTERS["SinglePairConductanceConverter"]()
    converted = []

    class Recorder:
        device_names = single.device_names
        scaling = staticmethod(single.scaling)

        def convert_chunk(self, weights, scaling, out):
            single.convert_chunk(weights, scaling, out)
            converted.append((weights.__array_interface__["data"][0], np.array(out)))

    weights = normal_weights(700)
    convert_in_chunks(Recorder(), weights, threads)
    found = np.concatenate([part for _, part in sorted(converted, key=lambda item: item[0])], axis=1)
    expected, _ = single.convert_to_conductances(weights.reshape(-1))
    assert found.tobytes() == np.array(expected).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--converters", "SinglePair,Unknown"], "but not Unknown"),
        (["--width", "1"], "--width should be at least 2"),
        (["--threads", "0"], "--threads and --repeats positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(refusal, arguments, message):
    assert message in refusal(main, *arguments)
