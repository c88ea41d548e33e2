#!/usr/bin/env bash
# Guess: nir.read gives back what nir.write has written, whatever nodes are called, or nir.write refuses the name. Seen: with
# nir 1.0.8 names with a slash, as nodes of ONNX models have them, are written without a word and cannot be read: a node is
# a group of the HDF5 file under its name. "fc/1" becomes a group in a group and raises KeyError for the type of the group
# fc; "/fc/MatMul" lands at the root of the file, beside the graph, and raises ValueError for an edge to a node that is
# not there. The weights are in the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install nir==1.0.8 h5py==3.16.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import h5py
import nir
import numpy as np

weight = np.arange(6, dtype=np.float32).reshape(2, 3)


def round_trip(name):
    """What reading gives, and the names of the arrays of weights in the file."""
    nodes = {
        "input": nir.Input(input_type={"input": np.array([3])}),
        name: nir.Affine(weight=weight, bias=np.zeros(2, np.float32)),
        "output": nir.Output(output_type={"output": np.array([2])}),
    }
    nir.write("graph.nir", nir.NIRGraph(nodes=nodes, edges=[("input", name), (name, "output")]))
    arrays = []
    with h5py.File("graph.nir") as file:
        file.visit(lambda path: arrays.append(path) if path.endswith("/weight") else None)
    try:
        graph = nir.read("graph.nir")
    except (KeyError, ValueError) as error:
        return type(error).__name__, arrays
    return "the same" if np.array_equal(graph.nodes[name].weight, weight) else "other weights", arrays


print(f"nir {version('nir')}, h5py {version('h5py')}")
found = {}
for name in ("fc", "fc.1", "fc/1", "/fc/MatMul"):
    found[name], arrays = round_trip(name)
    print(f"node {name!r}: read back: {found[name]}; in the file: {arrays}")
    assert len(arrays) == 1, "it behaves otherwise now"
assert found == {"fc": "the same", "fc.1": "the same", "fc/1": "KeyError", "/fc/MatMul": "ValueError"}, "it behaves otherwise now"
PYTHON
