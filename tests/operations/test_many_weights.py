"""Models of many small weights: the work grows as the number of weights does, counted in calls of functions."""

from __future__ import annotations

import cProfile
import gc
import pstats
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_gconv.passes
from onnx_gconv.handoff import write_bundle
from onnx_gconv.operations import map_model, restore_model

FEW, TIMES = 40, 4

pytestmark = pytest.mark.xdist_group("many_weights")  # one worker counts for all tests


def chain(path, count):
    """A model of `count` MatMul and Add nodes in a row, each with a weight and a bias of its own."""
    nodes, tensors = [], []
    for number in range(count):
        source, target = f"h{number}" if number else "x", f"h{number + 1}" if number < count - 1 else "y"
        nodes += [
            helper.make_node("MatMul", [source, f"W{number}"], [f"p{number}"], name=f"product{number}"),
            helper.make_node("Add", [f"p{number}", f"b{number}"], [target], name=f"sum{number}"),
        ]
        tensors += [
            numpy_helper.from_array(np.full((4, 4), number + 1, np.float32), f"W{number}"),
            numpy_helper.from_array(np.ones(4, np.float32), f"b{number}"),
        ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def calls(function, *arguments):
    """How many functions of ours and of the packages that we use a call calls, in its thread.

    What finds the lines that ran takes its probes out of all functions every now and then, in whichever thread meets
    one, and calls many functions of its own and of Python's library for that. Built-in functions have no file.
    """
    profile = cProfile.Profile()
    gc.disable()  # what other tests have left would be finalized in this thread, and count
    try:
        profile.runcall(function, *arguments)
    finally:
        gc.enable()
    found = pstats.Stats(profile).stats
    return sum(number for (file, _, _), (_, number, *_) in found.items() if is_counted(file))


def is_counted(file):
    """Whether a function in this file is ours or of a package that we use."""
    ours = (str(Path(onnx_gconv.__file__).parent), str(Path(onnx_gconv.passes.__file__).resolve().parent))
    return file.startswith(ours) or ("site-packages" in file and "slipcover" not in file)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """For each operation, how many calls it takes for few weights, and for some times as many."""
    folder = tmp_path_factory.mktemp("chains")
    found = {"map": [], "restore": [], "handoff": []}
    for count in (2, FEW, FEW * TIMES):  # the first one imports what is needed
        model, mapped = chain(folder / f"{count}.onnx", count), folder / f"{count}.gconv.onnx"
        found["map"].append(calls(map_model, model, mapped))
        found["restore"].append(calls(restore_model, mapped, folder / f"{count}.restored.onnx"))
        found["handoff"].append(calls(write_bundle, mapped, folder / f"{count}.gconv", (4, 4)))
    return found


@pytest.mark.parametrize("operation", ["map", "restore", "handoff"])
def test_the_work_grows_as_the_number_of_weights(counts, operation):
    _, few, many = counts[operation]
    assert many <= 1.05 * TIMES * few


def test_restoring_takes_no_more_work_than_mapping(counts):
    assert counts["restore"][-1] <= 2 * counts["map"][-1]
