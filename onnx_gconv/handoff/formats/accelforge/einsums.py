"""Layers as einsums, in the form of the workloads of AccelForge 1.0 (examples/workloads/compute_in_memory)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.handoff.formats.sample import LayerUse, Sample
from onnx_gconv.visible_text import visible

__all__ = ["Einsum", "einsums_of", "problem_of", "workload_yaml"]

# For each spatial axis the letters of the output, the kernel and the input.
_AXES = (("p", "r", "H"), ("q", "s", "W"), ("u", "t", "D"))

# Ops that do nothing but one product with a matrix. For all other ops, the number of products would be a guess.
_PRODUCTS = frozenset(
    {"MatMul", "Gemm", "MatMulInteger", "com.microsoft.FusedMatMul", "com.microsoft.FusedGemm"}
    | {"com.microsoft.TransposeMatMul", "com.microsoft.GemmFastGelu", "QLinearMatMul", "com.microsoft.MatMulNBits"}
)


@dataclass(frozen=True)
class Einsum:
    """A product of a layer, as an einsum.

    Attributes:
        layer: The id of the layer.
        name: The name of the product; its tensors are ``I_NAME``, ``W_NAME`` and ``O_NAME``.
        equation: The einsum.
        sizes: The size of each index variable.
    """

    layer: str
    name: str
    equation: str
    sizes: dict[str, int]

    @property
    def products(self) -> int:
        """Number of multiplications of two numbers."""
        return math.prod(self.sizes.values())


def problem_of(layer: Layer, sample: Sample) -> str | None:
    """Why a layer cannot be written as an einsum; None if it can."""
    for use in sample.uses[layer.id]:
        op = use.op.name
        if op not in _PRODUCTS and use.op.convolution != "plain":
            return f"it is a weight of {op}, whose number of products this format does not know"
        given, made = sample.shape(use.activation), sample.shape(use.output)
        if given is None or made is None:
            return "it stands in a subgraph, whose values a run of the model does not show"
        if 0 in (*given, *made):
            return "its activations are empty in the run, which needs at least one sample"
        axes = len(use.op.kernel_shape(layer.view))
        if axes > len(_AXES):
            return f"it is a convolution over {axes} axes, but this format knows {len(_AXES)} at most"
    return None


def einsums_of(layer: Layer, sample: Sample) -> Iterator[Einsum]:
    """The products of a layer, one for each node that reads its weight.

    Args:
        layer: A layer for which `problem_of` returns None.
        sample: A run of the model, which gives the shapes.
    """
    for number, use in enumerate(sample.uses[layer.id]):
        name = layer.id if number == 0 else f"{layer.id}_{number + 1}"
        suffix = name.removeprefix("L").lstrip("0") or "0"
        made = sample.shape(use.output) or ()
        of_op = _convolution if use.op.convolution == "plain" else _product
        yield of_op(layer, use, made, name, suffix)


def _product(layer: Layer, _: LayerUse, made: tuple[int, ...], name: str, suffix: str) -> Einsum:
    """``O[g, p, m] = I[g, p, c] * W[g, c, m]``, where p counts the rows of activations over all their axes."""
    view = layer.view
    sizes = {"g": view.matrices, "p": math.prod(made) // (view.matrices * view.columns)}
    sizes |= {"c": view.rows, "m": view.columns}
    if view.matrices == 1:
        del sizes["g"]
    ranks = {letter: f"{letter}{suffix}" for letter in sizes}
    operands = ("gpm", "gpc", "gcm")
    indices = [", ".join(ranks[letter] for letter in letters if letter in ranks) for letters in operands]
    return Einsum(layer.id, name, _equation(name, *indices), {ranks[letter]: size for letter, size in sizes.items()})


def _convolution(layer: Layer, use: LayerUse, made: tuple[int, ...], name: str, suffix: str) -> Einsum:
    """``O[n, g, m, p, q] = I[n, g, c, H: p * stride + r * dilation, W: ...] * W[g, m, c, r, s]``, without padding."""
    view, kernel = layer.view, use.op.kernel_shape(layer.view)
    ones = [1] * len(kernel)
    strides, dilations = (use.node.attributes.get_ints(key, ones) for key in ("strides", "dilations"))
    sizes = {"n": made[0], "g": view.matrices, "m": view.columns, "c": view.rows // math.prod(kernel)}
    if view.matrices == 1:
        del sizes["g"]
    inputs = []
    for (out, tap, axis), size, outputs, stride, dilation in zip(
        _AXES, kernel, made[2:], strides, dilations, strict=False
    ):
        sizes |= {out: outputs, tap: size}
        inputs.append(f"{axis}{suffix}: {_times(f'{out}{suffix}', stride)} + {_times(f'{tap}{suffix}', dilation)}")
    ranks = {letter: f"{letter}{suffix}" for letter in sizes}
    outs, taps = ([axes[place] for axes in _AXES[: len(kernel)]] for place in (0, 1))
    output = [ranks[letter] for letter in ("n", "g", "m", *outs) if letter in ranks]
    given = [ranks[letter] for letter in ("n", "g", "c") if letter in ranks] + inputs
    weight = [ranks[letter] for letter in ("g", "m", "c", *taps) if letter in ranks]
    equation = _equation(name, *map(", ".join, (output, given, weight)))
    return Einsum(layer.id, name, equation, {ranks[letter]: size for letter, size in sizes.items()})


def _times(variable: str, factor: int) -> str:
    return variable if factor == 1 else f"{variable} * {factor}"


def _equation(name: str, output: str, given: str, weight: str) -> str:
    return f"O_{name}[{output}] = I_{name}[{given}] * W_{name}[{weight}]"


_HEAD = """\
renames:
  einsums:
  - name: default
    tensor_accesses:
    - name: input
      source: Inputs & Intermediates
      expected_count: 1
    - name: output
      source: Outputs
      expected_count: 1
    - name: weight
      source: ~(input | output)
      expected_count: 1

workload:
  bits_per_value: {{input: {input_bits}, output: {output_bits}, weight: {weight_bits}}}

  einsums:
"""


def workload_yaml(
    layers: Iterable[tuple[Layer, Iterable[Einsum]]], *, input_bits: int, output_bits: int, weight_bits: int
) -> str:
    """The text of ``workload.yaml``.

    Args:
        layers: The layers, each with its einsums.
        input_bits: Bits of an input.
        output_bits: Bits of an output.
        weight_bits: Bits of a weight.
    """
    text = [_HEAD.format(input_bits=input_bits, output_bits=output_bits, weight_bits=weight_bits)]
    for layer, einsums in layers:
        for item in einsums:
            text.append(f"  # {visible(layer.record.known_as)}, {visible(layer.consumers[0].op_type)}\n")
            text.append(f'  - einsum: "{item.equation}"\n    iteration_space_shape:\n')
            text += [f"    - 0 <= {rank} < {size}\n" for rank, size in item.sizes.items()]
            text.append(f"    renames: {{input: I_{item.name}, output: O_{item.name}, weight: W_{item.name}}}\n")
    return "".join(text)
