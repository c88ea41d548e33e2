"""Models of many small weights: ``python -m benchmarks.many_weights``.

A chain of MatMul nodes, each with a small weight, is mapped, restored and handed off. This shows the cost of a weight
that does not depend on its size. It is done for a model with few weights and for one with several times as many. In
each round, every job runs in a fresh process. README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console

from benchmarks.machine import describe_machine, versions
from benchmarks.map_report import print_conditions, print_measurements, ratios_of
from benchmarks.measurement import JobFailedError, Measurement, measure

__all__ = ["main", "write_chain"]

_WIDTH = 4
_REPOSITORY = Path(__file__).resolve().parents[1]


def write_chain(path: Path, count: int) -> Path:
    """Write a model with a chain of `count` MatMul nodes, each with its own weight [4, 4]."""
    names = ["x", *(f"h{number}" for number in range(1, count)), "y"]
    weight = np.random.default_rng(0).standard_normal((_WIDTH, _WIDTH)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, _WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[k], f"W{k}"], [names[k + 1]], name=f"n{k}") for k in range(count)],
        "chain",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(weight + k, f"W{k}") for k in range(count)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def _round(folder: Path, count: int) -> dict[str, Measurement]:
    """Map, restore and hand off a model, each in a process of its own."""
    model = write_chain(folder / "model.onnx", count)
    found = {}
    for name, source, target in (
        ("map", "model.onnx", "mapped/model.gconv.onnx"),
        ("restore", "mapped/model.gconv.onnx", "restored/model.onnx"),
        ("handoff_hdf5", "mapped/model.gconv.onnx", "handed_off/bundle"),
    ):
        output = (folder / target).parent
        output.mkdir()
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.job", name, folder / source, folder / target]
        found[name] = measure(command, folder=_REPOSITORY, output=output)
    model.unlink()
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"should be positive, but is {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_weights", description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=_positive, default=1000, help="how many weights the smaller model has")
    parser.add_argument("--times", type=_positive, default=4, help="how many times as many the larger one has")
    parser.add_argument("--repeats", type=_positive, default=5, help="how many rounds")
    parser.add_argument("--folder", type=Path, default=None, help="where files go; the temporary folder if not given")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    measurements: dict[str, list[Measurement]] = {}
    for _ in range(options.repeats):
        for count in (options.weights, options.times * options.weights):
            folder = Path(tempfile.mkdtemp(prefix="onnx-gconv-", dir=options.folder))
            try:
                for name, measured in _round(folder, count).items():
                    measurements.setdefault(f"{name} {count:,}", []).append(measured)
            except JobFailedError as error:
                parser.error(str(error))
            finally:
                shutil.rmtree(folder)
    few, many = f"{options.weights:,}", f"{options.times * options.weights:,}"
    limit = f"at most {1.125 * options.times:g}"
    ratios = ratios_of(
        measurements,
        [
            *((f"restore {count}", f"map {count}", "at most 2") for count in (few, many)),
            *((f"{name} {many}", f"{name} {few}", limit) for name in ("map", "restore", "handoff_hdf5")),
        ],
    )
    console = Console()
    print_measurements(measurements, ratios, console)
    print_conditions(describe_machine(options.folder or Path(tempfile.gettempdir())), load, versions(), console)


if __name__ == "__main__":
    main()
