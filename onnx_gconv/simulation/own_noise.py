"""Says whether a model draws random numbers of its own, which are then in the figures of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnx_gconv.simulation.outputs import Outputs

__all__ = ["own_noise_notes"]


def own_noise_notes(drawing: Sequence[ir.Node], output: str, run: Callable[[], Iterator[Outputs]]) -> tuple[str, ...]:
    """A note if two runs of the same weights on the same inputs have different outputs; else nothing.

    Args:
        drawing: The nodes of the model that may draw random numbers. Without any, the model is not run.
        output: The name of the output that the metric looks at.
        run: Begins a run on all samples, of which only the first batch is computed.
    """
    if not drawing:
        return ()
    first, again = (np.asarray(next(run())[output]).tobytes() for _ in range(2))
    if first == again:
        return ()
    node = drawing[0]
    name = f" '{node.name}'" if node.name else ""
    note = (
        f"the model itself draws random numbers (node{name}, {node.op_type}): figures have this noise, too, and differ "
        "from one simulation to the next; export it without such nodes to see that of the chips alone"
    )
    return (note,)
