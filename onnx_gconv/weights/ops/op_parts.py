"""Finds the parts of a weight that holds several matrices side by side, such as queries, keys and values.

Some ops define the parts of their weight; for others, the parts follow from how the result of the product is split.
Layouts are those of the schemas of ONNX and of ONNX Runtime's ops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.schemes.parts import ColumnParts
from onnx_gconv.weights.constants import constant_tensor

__all__ = ["PartsFunction", "attention", "keys_and_values", "read_behind"]

PartsFunction: TypeAlias = Callable[[ir.Node, int], ColumnParts | None]
"""Returns the parts for a node and the number of columns of its weight; None if the weight is one matrix."""

_PROJECTIONS = ("query", "key", "value")

# The ops that compute each column of their result from the same column of the product alone.
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Cast", "Identity", "DequantizeLinear", "QuantizeLinear"})

# Attention ops whose first input may hold queries, keys and values side by side.
_PACKED_ATTENTION = frozenset({"GroupQueryAttention", "PagedAttention", "SparseAttention"})

# Attention ops with queries, keys and values as their first three inputs.
_ATTENTION = frozenset({*_PACKED_ATTENTION, "MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "Attention"})

# Products whose results always have two axes.
_OF_MATRICES = frozenset({"Gemm", "FusedGemm", "GemmFloat8", "QGemm"})

_LONGEST_WAY = 8  # the most nodes between a product and the node that splits its result


def attention(node: ir.Node, columns: int) -> ColumnParts | None:
    """W [inputs, queries + keys + values]: parts of the sizes in the attribute ``qkv_hidden_sizes``, else thirds."""
    sizes = node.attributes.get_ints("qkv_hidden_sizes") or [columns // 3] * 3
    return _parts(sizes, columns, _PROJECTIONS)


def keys_and_values(_: ir.Node, columns: int) -> ColumnParts | None:
    """W [inputs, keys + values]: two parts of one size."""
    return _parts([columns // 2] * 2, columns, _PROJECTIONS[1:])


def read_behind(node: ir.Node, columns: int) -> ColumnParts | None:
    """The parts into which the readers of a product split its last axis; None if they do not.

    The result of the product may go through elementwise nodes first, such as the Add of a bias. It is split by

    - a Split, or several Slices that together cover the axis without overlap;
    - an attention op that takes queries, keys and values side by side;
    - a Reshape to ``[..., 3, heads, size]``, whose axis of 3 is then split or indexed.

    Heads side by side, each with its query, key and value, are not treated as parts.
    """
    value = _behind_elementwise(node.outputs[0])
    uses = list(value.uses())
    if value.is_graph_output() or not uses or any(place != 0 for _, place in uses):
        return None
    readers = [user for user, _ in uses]
    first, rank = readers[0], None if value.shape is None else len(value.shape)
    if rank is None and value is node.outputs[0] and node.op_type in _OF_MATRICES:
        rank = 2
    if all(each.op_type == "Slice" and each.domain == "" for each in readers):
        sizes = _sliced(readers, -1, rank, columns)
        return None if sizes is None else _parts(sizes, columns)
    if len(readers) == 1 and first.domain == "" and first.op_type in _SPLITTING:
        return _SPLITTING[first.op_type](first, rank, columns)
    if len(readers) == 1 and first.op_type in _PACKED_ATTENTION and first.domain == "com.microsoft":
        return _of_packed_attention(first, columns)
    return None


def _behind_elementwise(value: ir.Value) -> ir.Value:
    """The result of the chain of elementwise nodes behind a value; the value itself if there is none."""
    for _ in range(_LONGEST_WAY):
        uses = list(value.uses())
        if value.is_graph_output() or len(uses) != 1:
            break
        user = uses[0].node
        if user.domain != "" or user.op_type not in _ELEMENTWISE:
            break
        value = user.outputs[0]
    return value


def _parts(sizes: Sequence[int], columns: int, names: Sequence[str] | None = None) -> ColumnParts | None:
    """Parts of these sizes, without empty ones; None if fewer than two are left or they do not add up to `columns`."""
    named = list(zip(names or [f"part{number}" for number in range(len(sizes))], sizes, strict=True))
    kept = [(name, size) for name, size in named if size]
    if min(sizes, default=-1) < 0 or sum(sizes) != columns or len(kept) < 2:  # noqa: PLR2004 - several
        return None
    return ColumnParts(tuple(name for name, _ in kept), tuple(size for _, size in kept))


def _of_packed_attention(node: ir.Node, columns: int) -> ColumnParts | None:
    """Queries of all ``num_heads``, then the keys and the values of ``kv_num_heads``."""
    if any(index < len(node.inputs) and node.inputs[index] is not None for index in (1, 2)):
        return None
    heads, others = node.attributes.get_int("num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    if min(heads, others) < 1 or columns % (heads + 2 * others):
        return None
    size = columns // (heads + 2 * others)
    return _parts([heads * size, others * size, others * size], columns, _PROJECTIONS)


def _of_split(node: ir.Node, rank: int | None, columns: int) -> ColumnParts | None:
    axis = node.attributes.get_int("axis", 0)
    if not _is_axis(axis, -1, rank):
        return None
    count, given = len(node.outputs), _integers(node, 1, "split")
    if given is None:
        if len(node.inputs) > 1 and node.inputs[1] is not None:  # the sizes are known at run time only
            return None
        longest = -(-columns // count)
        given = [min(longest, max(columns - number * longest, 0)) for number in range(count)]
    if len(given) != count:
        return None
    return _parts(given, columns, _PROJECTIONS if _are_projections(node.outputs) else None)


def _of_reshape(node: ir.Node, _: int | None, columns: int) -> ColumnParts | None:
    """Equal parts along the first of the axes into which a Reshape splits the columns, if readers take it apart."""
    shape = _integers(node, 1, "shape") or []
    first = next((place for place in range(1, len(shape)) if math.prod(shape[place:]) == columns), None)
    if first is None or min(shape[first:]) < 1 or (count := shape[first]) < 2:  # noqa: PLR2004 - several
        return None
    value, axis = node.outputs[0], first
    uses = list(value.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Transpose" and not value.is_graph_output():
        permutation = uses[0].node.attributes.get_ints("perm") or list(reversed(range(len(shape))))
        if sorted(permutation) != list(range(len(shape))):
            return None
        value, axis = uses[0].node.outputs[0], list(permutation).index(first)
        uses = list(value.uses())
    if value.is_graph_output() or not uses or any(place != 0 or user.domain != "" for user, place in uses):
        return None
    sizes = _taken_apart([user for user, _ in uses], axis, len(shape), count)
    return None if sizes is None else _parts([size * columns // count for size in sizes], columns)


def _taken_apart(readers: Sequence[ir.Node], axis: int, rank: int, size: int) -> list[int] | None:
    """The sizes of the pieces into which a Split, Slices or Gathers cut an axis; None if they do not cover it."""
    kinds = {node.op_type for node in readers}
    if kinds == {"Slice"}:
        return _sliced(readers, axis, rank, size)
    if any(not _is_axis(node.attributes.get_int("axis", 0), axis, rank) for node in readers):
        return None
    if kinds == {"Split"} and len(readers) == 1:
        return [1] * size if len(readers[0].outputs) == size else None
    if kinds == {"Gather"}:
        indices = [found[0] % size for node in readers if (found := _integers(node, 1, "indices")) and len(found) == 1]
        return [1] * size if len(indices) == len(readers) and sorted(indices) == list(range(size)) else None
    return None


_SPLITTING = {"Split": _of_split, "Reshape": _of_reshape}


def _are_projections(values: Sequence[ir.Value]) -> bool:
    """Whether one attention node reads the three values as its queries, keys and values."""
    readers: list[ir.Node] = []
    for place, value in enumerate(values):
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].idx != place or uses[0].node.op_type not in _ATTENTION:
            return False
        readers.append(uses[0].node)
    return len(readers) == len(_PROJECTIONS) and len(set(readers)) == 1


def _sliced(nodes: Sequence[ir.Node], axis: int, rank: int | None, size: int) -> list[int] | None:
    """The sizes of the pieces into which Slices cut an axis; None if they leave a gap or overlap."""
    ends = [_stretch(node, axis, rank, size) for node in nodes]
    known = sorted({each for each in ends if each is not None})
    if None in ends or not known or known[0][0] != 0 or known[-1][1] != size:
        return None
    if any(stop != start for (_, stop), (start, _) in itertools.pairwise(known)):
        return None
    return [stop - start for start, stop in known]


def _stretch(node: ir.Node, axis: int, rank: int | None, size: int) -> tuple[int, int] | None:
    """The range of an axis that a Slice gives: the first index and the one after the last; None for other slices."""
    starts, stops = _integers(node, 1, "starts"), _integers(node, 2, "ends")
    axes, steps = _integers(node, 3, "axes"), _integers(node, 4, "steps")
    if starts is None or stops is None or len(starts) != 1 or len(stops) != 1:
        return None
    if axes is None or len(axes) != 1 or not _is_axis(axes[0], axis, rank) or (steps or [1]) != [1]:
        return None
    if len(node.inputs) > 4 and node.inputs[4] is not None and steps is None:  # noqa: PLR2004 - the input of steps
        return None
    start, stop = (min(max(end + size if end < 0 else end, 0), size) for end in (starts[0], stops[0]))
    return (start, stop) if start < stop else None


def _is_axis(axis: int, wanted: int, rank: int | None) -> bool:
    """Whether two numbers stand for one axis; if one counts from the end, that can only be told with a known rank."""
    return axis == wanted or (rank is not None and -rank <= axis < rank and axis % rank == wanted % rank)


def _integers(node: ir.Node, index: int, attribute: str) -> list[int] | None:
    """The integers of a constant input, or of the attribute that older opsets have in its place; else None."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        found = node.attributes.get_ints(attribute)
        return None if found is None else list(found)
    tensor = None if value.is_graph_input() else constant_tensor(value)
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]
