#!/usr/bin/env bash
# Guess: RandomNormalLike nodes with neighbouring seeds draw first numbers that are nearly equal, as simple generators do,
# and nodes with other seeds draw numbers that have nothing to do with each other. Seen: in onnxruntime 1.32.0 on Linux
# neighbours are not alike, but the generator is minstd_rand0, x -> 16807 x mod (2^31 - 1), and a seed is a place in its
# only sequence: with the seeds 1 and 1887638 the second node draws the very numbers of the first one, moved by some
# places, and after 1.7e9 numbers they repeat. Noise that is to be independent element by element is, but not if it is
# compared with itself moved; and no seed gives other numbers than these.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

COUNT, MODULUS, FACTOR = 100_000, 2**31 - 1, 16807


def drawn(*seeds):
    """What nodes with these seeds draw in the first run of a session."""
    nodes = [helper.make_node("RandomNormalLike", ["g"], [f"n{seed}"], seed=float(seed)) for seed in seeds]
    outputs = [helper.make_tensor_value_info(f"n{seed}", TensorProto.FLOAT, [COUNT]) for seed in seeds]
    g = numpy_helper.from_array(np.ones(COUNT, np.float32), "g")
    graph = helper.make_graph(nodes, "draws", [], outputs, [g])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})


def computed(seed, count):
    """Marsaglia's polar method on minstd_rand0, in float32."""
    found, state = [], seed
    while len(found) < count:
        pair = []
        for _ in range(2):
            state = state * FACTOR % MODULUS
            pair.append(np.float32(2) * (np.float32(state - 1) / np.float32(MODULUS - 1)) - np.float32(1))
        square = pair[0] * pair[0] + pair[1] * pair[1]
        if 0 < square <= 1:
            factor = np.sqrt(-2 * np.log(square) / square)
            found += [pair[1] * factor, pair[0] * factor]
    return np.array(found[:count])


def place(seed):
    """How many numbers of the generator are between the seed 1 and another one."""
    state, steps = 1, 0
    while state != seed:
        state, steps = state * FACTOR % MODULUS, steps + 1
    return steps


far = 1887638
one, neighbour, other = drawn(1, 2, far)
moved = next((k for k in range(COUNT - 100) if np.array_equal(one[k : k + 100], other[:100])), None)
print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}")
print(f"seed 1 draws {one[:3]}, seed 2 draws {neighbour[:3]}, seed {far} draws {other[:3]}")
print(f"minstd_rand0 from 1 gives {computed(1, 3)}; {far} is {place(far)} steps behind 1")
print(f"the numbers of seed {far} are those of seed 1, {moved} places later")
assert np.allclose(one[:1000], computed(1, 1000), rtol=1e-5), "it behaves otherwise now"
assert moved and np.array_equal(one[moved:], other[:-moved]), "it behaves otherwise now"
PYTHON
