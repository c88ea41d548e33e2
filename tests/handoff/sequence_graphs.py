"""Graphs of recurrent ops, attention and experts."""

from __future__ import annotations

import numpy as np

from tests.handoff.op_graph import OpGraph, codes, graph, normal, uniform


def recurrent(op: str, gates: int, direction: str, attributes: str = "", **constants: np.ndarray) -> OpGraph:
    """A recurrent op of 4 steps, a batch of 2, 5 inputs and 3 hidden units."""
    directions = 2 if direction == "bidirectional" else 1
    domain = "com.microsoft." if op.startswith("Dynamic") else ""
    names = {"W", "R", "B", "H", "C", "P", "a", "b", "d", "e"} & set(constants)
    inputs = ["x", "W", "R", *("" if name and name not in names else name for name in ("B", "", "H", "C", "P"))]
    if "a" in names:
        inputs += ["a", "b", "d", "e"]
    while not inputs[-1]:
        inputs.pop()
    states = ", h, c" if op.endswith("LSTM") else ", h"
    sizes = {"W": (directions, gates * 3, 5), "R": (directions, gates * 3, 3)}
    weights = {name: normal(*shape, seed=place) for place, (name, shape) in enumerate(sizes.items())}
    extra = f'hidden_size = 3, direction = "{direction}"{attributes}'
    batch = 1 if domain else 2
    found = graph(
        f"y{states} = {domain}{op} <{extra}> ({', '.join(inputs)})", uniform(4, batch, 5), **weights | constants
    )
    outputs = ", ".join(f"float {name}" for name in ("y" + states).split(", "))
    return OpGraph(found.text.replace("float y", outputs, 1), found.feeds, found.constants)


SEQUENCES = {
    "LSTM": recurrent("LSTM", 4, "forward", B=normal(1, 24)),
    "LSTM in reverse with states and peepholes": recurrent(
        "LSTM", 4, "reverse", B=normal(1, 24), H=uniform(1, 2, 3), C=uniform(1, 2, 3, seed=1), P=normal(1, 9)
    ),
    "LSTM of two directions": recurrent("LSTM", 4, "bidirectional", B=normal(2, 24)),
    "GRU": recurrent("GRU", 3, "forward"),
    "GRU of two directions": recurrent("GRU", 3, "bidirectional", B=normal(2, 18), H=uniform(2, 2, 3)),
    "GRU with the reset behind R": recurrent("GRU", 3, "reverse", ", linear_before_reset = 1", B=normal(1, 18)),
    "RNN": recurrent("RNN", 1, "bidirectional", B=normal(2, 6)),
    "DynamicQuantizeLSTM": recurrent(
        "DynamicQuantizeLSTM",
        4,
        "bidirectional",
        W=codes(2, 5, 12),
        R=codes(2, 3, 12, seed=1),
        B=normal(2, 24),
        a=np.array([0.001, 0.002], np.float32),
        b=np.zeros(2, np.int8),
        d=np.array([0.003, 0.001], np.float32),
        e=np.zeros(2, np.int8),
    ),
    "Attention": graph(
        "y = com.microsoft.Attention <num_heads = 2> (x, W, c)", uniform(2, 3, 5), W=normal(5, 24), c=normal(24)
    ),
    "QAttention": graph(
        "y = com.microsoft.QAttention <num_heads = 2> (x, W, c, xs, ws, , xz, z)",
        codes(2, 3, 5, dtype=np.uint8),
        W=codes(5, 24, dtype=np.uint8),
        c=normal(24),
        xs=np.float32(2**-6),
        ws=np.float32(2**-6),
        xz=np.uint8(120),
        z=np.uint8(130),
    ),
    "MoE": OpGraph(
        "g (float[6, 5] x, float[6, 2] r) => (float y) { y = com.microsoft.MoE <k = 1> (x, r, W, c, V, d) }",
        {"x": uniform(6, 5), "r": uniform(6, 2, seed=2)},
        {"W": normal(2, 7, 5), "c": normal(2, 7), "V": normal(2, 5, 7, seed=1), "d": normal(2, 5)},
    ),
}
