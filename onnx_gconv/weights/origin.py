"""Finds out which parameters of an exported PyTorch program a weight comes from, by the traces that exporters leave.

The traces that torch 2.13 leaves:

- A parameter that a node reads unchanged keeps its name, and its metadata say that it is a parameter.
- Constant folding gives a new name such as ``val_3``; the metadata list the names of everything it was computed from.
- Folding a BatchNorm into a Conv, ConvTranspose or Gemm keeps the name of the weight and drops its metadata. The
  metadata of the node then name the module of the BatchNorm and the rule that folded it.
- Equal initializers are merged, whether they were tied or not, such as those of the layers of a new TransformerEncoder.
  The metadata of a node still name its own module, and, under ``fx_node``, the parameter that it read, with ``_`` for
  each dot.
- The older exporter (TorchScript) leaves no metadata. The names of its nodes are paths. Constants that it folded have
  names such as ``onnx::MatMul_12``, all others the names of parameters. Equal constants are merged: Identity nodes give
  the one that is kept the names of the others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from onnx_gconv.known_names import is_anonymous
from onnx_gconv.weights.names import class_of, has_scopes, modules_of, parameters_of

__all__ = ["Origin", "OtherParameter", "Reader", "origin_of"]

Relation: TypeAlias = Literal["tied", "merged", "tied or merged"]

# The tensor that a parametrization computes, e.g. `lin.weight` from `lin.parametrizations.weight.original0`.
_PARAMETRIZATION = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<tensor>[^.]+)\..+")

# The endings of the parameters from which older functions of PyTorch (spectral_norm, prune, weight_norm) compute
# `weight`.
_PARTS = ({"_orig", "_u", "_v"}, {"_orig", "_mask"}, {"_g", "_v"})

# The modules of PyTorch whose matrix, or whose table, is called `weight`.
_CLASSES_WITH_WEIGHT = re.compile(
    r"torch\.nn\.modules\.(linear\.(NonDynamicallyQuantizable)?Linear|conv\.Conv(Transpose)?[123]d|sparse\.Embedding)"
    r"|torch\.nn\.utils\.parametrize\.Parametrized((NonDynamicallyQuantizable)?Linear|Conv(Transpose)?[123]d|Embedding)"
)

_FX_NODE_KEY = "pkg.torch.onnx.fx_node"
_FX_PARAMETER = re.compile(r"%[pb]_(\w+)")

_RULE_KEY = "pkg.onnxscript.rewriter.rule_name"
_NORM_RULE = "FuseBatchNormInto"
_BIAS_SLOT = 2


@dataclass(frozen=True, eq=False)
class Reader:
    """A node that reads a weight.

    Attributes:
        node: The node.
        slot: Index of the input by which the node reads the weight, perhaps through other nodes.
        is_mvm: Whether the node multiplies activations with the weight.
    """

    node: ir.Node
    slot: int
    is_mvm: bool


@dataclass(frozen=True)
class OtherParameter:
    """A further parameter of the program that a weight holds, too.

    Attributes:
        name: The name of the parameter, e.g. ``emb.weight``.
        relation: ``tied``: the program has one tensor for both parameters; ``merged``: it has two tensors of equal
            values, of which the exporter kept one; ``tied or merged``: the model does not say which.
    """

    name: str
    relation: Relation


@dataclass(frozen=True)
class Origin:
    """The parameters and modules of the exported program that a weight comes from; all empty if nothing is known.

    Attributes:
        tensors: The parameters as people see them in the program, e.g. ``lin.weight``: several if the exporter joined
            several into one weight, as it does with both directions of an LSTM.
        others: Further parameters that this very tensor holds, because they were tied or merged.
        modules: The modules that own the parameters, then the innermost ones whose nodes multiply with the weight.
        norms: The BatchNorms among these modules that were folded into the weight.
    """

    tensors: tuple[str, ...]
    others: tuple[OtherParameter, ...]
    modules: tuple[str, ...]
    norms: tuple[str, ...]

    @property
    def parameter(self) -> str | None:
        """The parameter as one text, several joined by `` + ``; None if it is not known."""
        return " + ".join(self.tensors) or None

    @property
    def modules_of_parameters(self) -> tuple[str, ...]:
        """The modules that own the parameters, including tied or merged ones."""
        names = (*self.tensors, *(other.name for other in self.others))
        return tuple(dict.fromkeys(module for name in names if (module := _module(name))))


def origin_of(value: ir.Value, sources: Sequence[str], readers: Sequence[Reader]) -> Origin:
    """The parameters and modules of the exported program that a weight comes from.

    Args:
        value: The value that holds the weight.
        sources: The names of the constants that the weight is computed from; empty if no nodes compute it.
        readers: The nodes that read the weight.
    """
    known = parameters_of(value) or tuple(sorted(name for name in sources if _is_named(name, readers)))
    tensors = _tensors(known or ((value.name,) if value.name and _is_named(value.name, readers) else ()))
    in_class = [name for reader in readers for name in _names_in_class(reader)]
    if not tensors or _are_undecided(tensors):
        tensors = (*in_class, *_before_norms(readers))[:1]
    elif in_class and _is_computed(tensors, readers):
        tensors = tuple(in_class[:1])
    norms = dict.fromkeys(norm for reader in readers if reader.is_mvm and (norm := _norm(reader.node)))
    return Origin(tensors, tuple(_others(tensors, readers)), tuple(_modules(tensors, readers)), tuple(norms))


def _tensors(parameters: Sequence[str]) -> tuple[str, ...]:
    """The parameters as people see them: the tensor that a parametrization computes, in place of its inputs.

    Parameters of normalization layers that are folded into the weight are left out.
    """
    norms = {_module(name) for name in parameters if name.endswith((".running_mean", ".running_var"))}
    names = dict.fromkeys(
        f"{found['module']}{found['tensor']}" if (found := _PARAMETRIZATION.fullmatch(name)) else name
        for name in parameters
        if _module(name) not in norms
    )
    suffixes: dict[str, set[str]] = defaultdict(set)
    for name in names:
        stem, _, suffix = name.rpartition("_")
        suffixes[stem].add(f"_{suffix}")
    whole = {stem for stem, found in suffixes.items() if stem and found in _PARTS}
    return tuple(dict.fromkeys(stem if (stem := name.rpartition("_")[0]) in whole else name for name in names))


def _are_undecided(tensors: Sequence[str]) -> bool:
    """Whether several names have no dot: nothing tells parameters of the root module from names of operations then."""
    return len(tensors) > 1 and not any("." in name for name in tensors)


def _is_computed(tensors: Sequence[str], readers: Iterable[Reader]) -> bool:
    """Whether the program itself computed the weight from parameters.

    That is so if all readers name what they read in the program, and none of them names one of these parameters.
    """
    names = {_in_fx(tensor) for tensor in tensors}
    return all(_FX_NODE_KEY in item.node.metadata_props and not names & _fx_parameters(item.node) for item in readers)


def _names_in_class(reader: Reader) -> Iterator[str]:
    """The parameter that a node reads, if it stands in a module of PyTorch whose only weight is called `weight`."""
    if (reader.is_mvm or reader.node.op_type == "Gather") and _CLASSES_WITH_WEIGHT.fullmatch(class_of(reader.node)):
        module = modules_of(reader.node)[-1:]
        yield ".".join((*module, "weight"))


def _before_norms(readers: Iterable[Reader]) -> Iterator[str]:
    """The weight of a node into which a BatchNorm was folded, by the name of its bias, which the folding rule keeps."""
    for node in (reader.node for reader in readers if reader.is_mvm and _norm(reader.node)):
        bias = node.inputs[_BIAS_SLOT] if len(node.inputs) > _BIAS_SLOT else None
        if bias is not None and bias.name and bias.name.endswith(".bias"):
            yield f"{_module(bias.name)}.weight"


def _norm(node: ir.Node) -> str:
    """The module of the BatchNorm that was folded into a node; empty if no BatchNorm was."""
    if _NORM_RULE not in node.metadata_props.get(_RULE_KEY, "") or "batchnorm" not in class_of(node):
        return ""
    return next(iter(modules_of(node)[-1:]), "")


def _is_named(name: str, readers: Iterable[Reader]) -> bool:
    """Whether a name is a parameter's, as far as the nodes that read it tell: a parameter of a module around them."""
    module = _module(name)
    if not module or is_anonymous(name):
        return False
    for node in (reader.node for reader in readers):
        if has_scopes(node):
            return True
        is_path = (node.name or "").startswith("/") and module.rpartition(".")[2] != node.op_type
        around = modules_of(node)
        if is_path and (not around or any(name.startswith(f"{module}.") for module in around)):
            return True
    return False


def _others(tensors: Sequence[str], readers: Iterable[Reader]) -> Iterator[OtherParameter]:
    """The other parameters that nodes read from the same weight, each once."""
    told = set(tensors)
    for reader in readers:
        for other in (*_merged(tensors, reader), *_merged_by_identity(reader), *_in_other_class(tensors, reader)):
            if other.name not in told:
                told.add(other.name)
                yield other


def _merged(tensors: Sequence[str], reader: Reader) -> Iterator[OtherParameter]:
    """The parameter that a node read in the program, if it is not one of `tensors`.

    Its name is put together from a module of the node and the end of a known name, such as ``weight``.
    """
    if _norm(reader.node):  # the metadata of such a node name the BatchNorm's parameters instead of its own weight
        return
    wanted = _fx_parameters(reader.node) - {_in_fx(tensor) for tensor in tensors}
    for name in _candidates(tensors, reader.node) if wanted else ():
        if _in_fx(name) in wanted:
            yield OtherParameter(name, "merged")
            return


def _candidates(tensors: Sequence[str], node: ir.Node) -> Iterator[str]:
    for module in reversed(modules_of(node)):
        for tensor in tensors:
            parts = tensor.split(".")
            yield from (".".join((module, *parts[start:])) for start in reversed(range(len(parts))))


def _merged_by_identity(reader: Reader) -> Iterator[OtherParameter]:
    """The name under which a node reads the weight through an Identity node, if it is the name of a parameter."""
    value = reader.node.inputs[reader.slot] if reader.slot < len(reader.node.inputs) else None
    producer = None if value is None else value.producer()
    if value is None or not value.name or producer is None or producer.op_type != "Identity":
        return
    if not has_scopes(reader.node) and _is_named(value.name, [reader]):
        yield OtherParameter(value.name, "merged")


def _in_other_class(tensors: Sequence[str], reader: Reader) -> Iterator[OtherParameter]:
    """The parameter `weight` of the module that a node stands in; the caller drops it if it is known already."""
    read = _fx_parameters(reader.node)
    is_tied = any(_in_fx(tensor) in read for tensor in tensors)
    yield from (OtherParameter(name, "tied" if is_tied else "tied or merged") for name in _names_in_class(reader))


def _fx_parameters(node: ir.Node) -> set[str]:
    """The parameters and buffers that a node read in the program, in the spelling of FX nodes."""
    return set(_FX_PARAMETER.findall(node.metadata_props.get(_FX_NODE_KEY, "")))


def _in_fx(name: str) -> str:
    """The name of a parameter in the spelling of FX nodes: lower case, with ``_`` for each other character."""
    return re.sub(r"[^a-zA-Z0-9]", "_", name).lower()


def _modules(tensors: Sequence[str], readers: Sequence[Reader]) -> Iterator[str]:
    """The modules that own the parameters, then the modules in which nodes multiply with the weight.

    The older exporter numbers the calls of a module: `lin_1` is the second call of `lin`, and is left out if `lin` is
    there.
    """
    found = dict.fromkeys(module for name in tensors if (module := _module(name)))
    for node in (reader.node for reader in readers if reader.is_mvm):
        for module in modules_of(node)[-1:]:
            is_call_again = not has_scopes(node) and re.sub(r"_\d+$", "", module) in found
            if not is_call_again:
                found[module] = None
    yield from found


def _module(name: str) -> str:
    """The module that owns a parameter; empty for the root module."""
    return name.rpartition(".")[0]
