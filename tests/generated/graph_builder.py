"""Building the graphs of a model: nodes, constants, names, and bodies inside of bodies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

ELEMENT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}

# Names that a mapping of "W" or of another weight generates, and names in the ways of exporters
_STEMS = ("W", "W.g_plus", "W.g_minus", "W.g_scale", "W.g_difference", "W.g_quotient", "W_1", "fc.weight", "a/b:0", "ä")
# ONNX Runtime loads no graph with two nodes of one name; graphs inside of each other may have such.
_NODE_NAMES = ("", "", "node", "W/gconv_Sub", "W/gconv_Div", "W/gconv_Sub_1", "/layer/MatMul", "n1", "n2")

# How many of the initializers in bodies have the name of one around them.
_HIDING = 0.1

# How many of the weights of functions are nodes in them, and no arguments of their calls.
_NODES_IN_FUNCTIONS = 0.6
_WEIGHT_RANK = 2


@dataclass(frozen=True)
class Activation:
    """A value that depends on the inputs of the model.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Its shape.
        is_tame: Whether its elements are near one, and errors in it small beside that.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    is_tame: bool = True

    @property
    def size(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(eq=False)
class GraphBuilder:
    """One graph under construction.

    Attributes:
        name: Its name, unique in the model.
        opset: The opset of the model.
        choices: Draws names.
        parent: The graph around it; None for the main graph.
        iteration: A value of one element that changes with every run of the body, if it has one.
        is_function: Whether it is the body of a local function, whose constants are nodes, or arguments of its calls.
        hides_names: Whether a body in it has a value with the name of one around it.
        arguments: The constants that are given to such a function, by the names of its inputs.
    """

    name: str
    opset: int
    choices: random.Random
    parent: GraphBuilder | None = None
    iteration: str | None = None
    is_function: bool = False
    hides_names: bool = False
    arguments: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    bodies: itertools.count = field(default_factory=lambda: itertools.count(1))
    _names: set[str] = field(default_factory=set)
    _node_names: set[str] = field(default_factory=set)
    _names_below: set[str] = field(default_factory=set)
    _read: set[str] = field(default_factory=set)
    _hideable: tuple[tuple[str, int], ...] = ()

    def enclosing(self) -> list[GraphBuilder]:
        """This graph and the graphs around it, the main graph first."""
        return [*([] if self.parent is None else self.parent.enclosing()), self]

    def body(self, kind: str) -> GraphBuilder:
        """A new graph inside of this one."""
        around = self.enclosing()
        place = f"_of_{around[0].name}" if around[0].is_function else ""
        body = GraphBuilder(
            f"{kind}_{next(around[0].bodies)}{place}", self.opset, self.choices, parent=self, iteration=self.iteration
        )
        if not around[0].is_function:  # within functions, ONNX Runtime takes the one for the other
            body._hideable = tuple((tensor.name, tensor.data_type) for graph in around for tensor in graph.initializers)
        return body

    def sees(self, name: str, owner: GraphBuilder) -> bool:
        """Whether a name means the value of a graph around it, and not one of a body between."""
        around = self.enclosing()
        return not any(name in graph._names for graph in around[around.index(owner) + 1 :])

    def will_read(self, name: str) -> None:
        """Keep the bodies around from giving a name to something else."""
        for graph in self.enclosing():
            graph._read.add(name)

    def new_name(self, stem: str | None = None) -> str:
        """A name that no value has in this graph, in those around it and in those within it; bodies side by side may
        have equal names."""
        stem = self.choices.choice(_STEMS) if stem is None else stem
        around = self.enclosing()
        taken = [graph._names for graph in around]
        candidates = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(1)))
        name = next(
            name for name in candidates if name not in self._names_below and not any(name in names for names in taken)
        )
        self._names.add(name)
        for graph in around[:-1]:
            graph._names_below.add(name)
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        domain: str = "",
        outputs: int | Sequence[str] = 1,
        output: str | None = None,
        **attributes: object,
    ) -> str:
        """Append a node and give the name of its first output.

        Args:
            op_type: The op.
            inputs: Names of values; empty ones are left out.
            domain: The op's domain.
            outputs: How many outputs it has, or their names.
            output: The name of its only output.
            **attributes: Its attributes; those that are None are left out.
        """
        if isinstance(outputs, int):
            names = [self.new_name("v") for _ in range(outputs)] if output is None else [output]
        else:
            names = list(outputs)
        given = {key: value for key, value in attributes.items() if value is not None}
        for name in inputs:
            self.will_read(name)
        self.nodes.append(
            helper.make_node(op_type, inputs, names, name=self._node_name(), domain=domain or None, **given)
        )
        return names[0]

    def _node_name(self) -> str:
        name = self.choices.choice(_NODE_NAMES)
        if name in self._node_names:
            return ""
        self._node_names.add(name)
        return name

    def initializer(self, array: np.ndarray, stem: str | None = None) -> str:
        """Add an initializer and give its name; in a function it is an argument or a node."""
        if self.is_function:
            return self._in_function(np.asarray(array), stem)
        array = np.asarray(array)
        name = self._hiding_name(array.dtype) or self.new_name(stem)
        self.initializers.append(tensor_proto(array, name))
        return name

    def _in_function(self, array: np.ndarray, stem: str | None) -> str:
        if array.ndim < _WEIGHT_RANK or array.dtype.kind != "f" or self.choices.random() < _NODES_IN_FUNCTIONS:
            return self.constant_node(array, stem)
        name = self.input(array.dtype, array.shape, stem)
        self.arguments[name] = array
        return name

    def _hiding_name(self, dtype: np.dtype) -> str | None:
        """Now and then the name of an initializer around a body that nothing in the body reads, nor will.

        It is one of the same type: within bodies in bodies, ONNX Runtime takes the one for the other.
        """
        if not self._hideable or self.choices.random() > _HIDING:
            return None
        taken = self._read | self._names | self._names_below
        element_type = ELEMENT_TYPES[dtype]
        free = [name for name, its_type in self._hideable if its_type == element_type and name not in taken]
        if not free:
            return None
        name = self.choices.choice(free)
        self._names.add(name)
        self.enclosing()[0].hides_names = True
        return name

    def constant_node(self, array: np.ndarray, stem: str | None = None) -> str:
        """Append a Constant node and give the name of its output."""
        return self.node("Constant", [], output=self.new_name(stem), value=tensor_proto(array, ""))

    def constant(self, array: np.ndarray, stem: str = "c") -> str:
        """A constant that is no weight, in one of the two forms."""
        array = np.asarray(array)
        is_node = self.choices.random() < 0.3 and self.can_be_node(array.dtype)
        return (self.constant_node if is_node else self.initializer)(array, stem)

    def can_be_node(self, dtype: np.dtype) -> bool:
        """Whether the opset has Constant nodes of a type."""
        return self.opset >= 9 or dtype.kind == "f"

    def integers(self, numbers: Sequence[int], stem: str = "shape") -> str:
        """A constant list of integers."""
        return self.constant(np.asarray(numbers, np.int64), stem)

    def input(self, dtype: np.dtype, shape: Sequence[int | str], stem: str | None = "x") -> str:
        """Add an input and give its name."""
        name = self.new_name(stem)
        self.inputs.append(value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: np.dtype, shape: Sequence[int | str] | None) -> None:
        """Let a value be an output."""
        self.will_read(name)
        self.outputs.append(value_info(name, dtype, shape))

    def graph_proto(self) -> onnx.GraphProto:
        """The graph."""
        described = [
            value_info(tensor.name, helper.tensor_dtype_to_np_dtype(tensor.data_type), tensor.dims)
            for tensor in self.initializers
            if self.choices.random() < 0.1 and tensor.name not in {item.name for item in (*self.inputs, *self.outputs)}
        ]
        return helper.make_graph(
            self.nodes, self.name, self.inputs, self.outputs, initializer=self.initializers, value_info=described
        )

    # Ops whose form depends on the opset

    def cast(self, value: str, dtype: np.dtype) -> str:
        """Cast a value to another type."""
        return self.node("Cast", [value], to=ELEMENT_TYPES[np.dtype(dtype)])

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Give a value another shape."""
        return self.node("Reshape", [value, self.integers(shape)])

    def squeeze(self, value: str, axes: Sequence[int], op_type: str = "Squeeze") -> str:
        """Take axes of size 1 away, or add them with "Unsqueeze"."""
        if self.opset < 13:
            return self.node(op_type, [value], axes=list(axes))
        return self.node(op_type, [value, self.integers(axes, "axes")])

    def slice(self, value: str, axis: int, start: int, stop: int) -> str:
        """A range of an axis."""
        if self.opset < 10:
            return self.node("Slice", [value], axes=[axis], starts=[start], ends=[stop])
        inputs = [self.integers([number], stem) for number, stem in ((start, "starts"), (stop, "ends"), (axis, "axes"))]
        return self.node("Slice", [value, *inputs])

    def resized(self, value: Activation, shape: Sequence[int], dtype: np.dtype) -> str:
        """The elements of a value, repeated or cut, in another shape and type."""
        flat = self.reshape(value.name, [-1])
        positions = np.resize(np.arange(value.size), tuple(shape)).astype(np.int64)
        name = self.node("Gather", [flat, self.constant(positions, "indices")])
        return name if value.dtype == dtype else self.cast(name, dtype)

    def split(self, value: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """The parts that an axis is split into."""
        names = [self.new_name("part") for _ in sizes]
        if self.opset < 13:
            self.node("Split", [value], outputs=names, axis=axis, split=list(sizes))
        else:
            self.node("Split", [value, self.integers(sizes, "split")], outputs=names, axis=axis)
        return names


def tensor_proto(array: np.ndarray, name: str) -> TensorProto:
    """A tensor with its bytes inline."""
    array = np.asarray(array)
    return TensorProto(
        name=name or None,
        dims=array.shape,
        data_type=ELEMENT_TYPES[array.dtype],
        raw_data=np.ascontiguousarray(array).tobytes(),
    )


def value_info(name: str, dtype: np.dtype, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    """Type and shape of a value."""
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[np.dtype(dtype)], shape)
