"""The names that people know a weight by, kind by kind; some of them are what exporters note in metadata."""

from __future__ import annotations

import ast
import fnmatch
import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeGuard, get_args

import onnx_ir as ir

__all__ = [
    "NameKind",
    "WeightNames",
    "as_glob",
    "class_of",
    "enclosing_modules",
    "has_scopes",
    "modules_of",
    "op_type_of",
    "parameters_of",
]

NameKind: TypeAlias = Literal["weight", "parameter", "node", "module", "op"]

# What onnxscript's constant folding says of the names that a new initializer was computed from. The second key is that
# of its older versions.
_FOLDED_FROM_KEYS = (
    "pkg.onnxscript.optimizer.folded_from",
    "pkg.onnxscript.optimizer.constant_folding.folded_from",
)
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_CLASSES_KEY = "pkg.torch.onnx.class_hierarchy"
_KIND_KEY = "pkg.torch.export.graph_signature.InputSpec.kind"
_KINDS_OF_PARAMETERS = frozenset({"PARAMETER", "BUFFER"})

# Names that PyTorch's exporter gives to intermediate results. It lists them among the names a constant was folded from.
_INTERMEDIATE = re.compile(r"val_\d+|scalar_tensor_default(_\d+)?")

_SURROGATE = re.compile("[\ud800-\udfff]")

# The metadata is text of a file that anyone may have written: a real one is no longer than this.
_LONGEST_LIST = 1 << 18


@dataclass(frozen=True)
class WeightNames:
    """The names of one weight.

    Attributes:
        weight: Its own.
        parameter: The parameters of the exported program that it is or comes from; its own name if none are known.
        node: The MVM nodes that read it.
        module: The modules of the exported program that have it or that these stand in, and all that contain them.
        op: The op types of these nodes, ``Conv`` or ``com.microsoft.FusedConv``.
    """

    weight: tuple[str, ...]
    parameter: tuple[str, ...]
    node: tuple[str, ...]
    module: tuple[str, ...]
    op: tuple[str, ...]

    @classmethod
    def of(cls, name: str, parameters: Iterable[str], modules: Iterable[str], nodes: Sequence[ir.Node]) -> WeightNames:
        """The names of a weight.

        Args:
            name: Its own.
            parameters: The parameters of the exported program that it is or comes from; empty if none are known.
            modules: The modules that have it.
            nodes: The nodes that read it.
        """
        found = (*modules, *(module for node in nodes for module in modules_of(node)))
        return cls(
            weight=(name,),
            parameter=tuple(dict.fromkeys(parameters)) or (name,),
            node=tuple(dict.fromkeys(node.name for node in nodes if node.name)),
            module=enclosing_modules(found),
            op=tuple(dict.fromkeys(map(op_type_of, nodes))),
        )

    def of_kind(self, kind: NameKind | None) -> tuple[str, ...]:
        """The names of a kind, or of all kinds."""
        kinds: tuple[NameKind, ...] = get_args(NameKind) if kind is None else (kind,)
        return tuple(dict.fromkeys(name for each in kinds for name in getattr(self, each)))

    def match(self, pattern: str, kind: NameKind | None = None) -> bool:
        """Whether a glob (``*``, ``?``, ``[abc]``; case matters) is one for a name of that kind, or of any."""
        return any(fnmatch.fnmatchcase(name, pattern) for name in self.of_kind(kind))


def as_glob(pattern: str, names: Iterable[WeightNames], kind: NameKind | None = None) -> str:
    """The glob that a pattern is; for a name that one of the weights has, the glob of that name and no other.

    ``layers[0].w`` is a name, though as a glob it is one for ``layers0.w``.

    Args:
        pattern: What a user wrote.
        names: Those of the weights that it may be for.
        kind: Of which of them.
    """
    return glob.escape(pattern) if any(pattern in each.of_kind(kind) for each in names) else pattern


def parameters_of(value: ir.Value) -> tuple[str, ...]:
    """The parameters of the exported program that a constant was computed from, sorted; empty if that is not known.

    PyTorch's exporter folds, for example, the transposition of a linear layer's weight into an initializer ``val_0``
    and notes that it comes from ``encoder.lin.weight``. It notes intermediate results too: names with a dot are
    parameters of modules, and only if there are none, others count as well.
    """
    for key in _FOLDED_FROM_KEYS:
        names = [name for name in _names(value.metadata_props.get(key)) if not _INTERMEDIATE.fullmatch(name)]
        if names:
            return tuple(sorted({name for name in names if "." in name} or set(names)))
    is_parameter = value.metadata_props.get(_KIND_KEY, "").rpartition(".")[2] in _KINDS_OF_PARAMETERS
    return (value.name,) if is_parameter and value.name else ()


def modules_of(node: ir.Node) -> tuple[str, ...]:
    """The modules that a node was exported from, outer ones first, e.g. ``encoder``, ``encoder.layers.0``.

    They come from the node's metadata, or from its name if that is a path such as ``/encoder/layers.0/MatMul``, as
    PyTorch's older exporter gives them. The nameless root is not among them.
    """
    if _SCOPES_KEY in node.metadata_props:
        scopes = _names(node.metadata_props[_SCOPES_KEY])[:-1]  # the last one is the operation itself
    else:
        scopes = list(_modules_in_path(node.name or ""))
    return tuple(dict.fromkeys(scope for scope in scopes if scope))


def has_scopes(node: ir.Node) -> bool:
    """Whether PyTorch's exporter notes in the metadata of a node which modules it was exported from."""
    return _SCOPES_KEY in node.metadata_props


def class_of(node: ir.Node) -> str:
    """The class of the innermost module that a node was exported from, e.g. ``torch.nn.modules.linear.Linear``.

    It is empty if the node does not say it.
    """
    return next(iter(_names(node.metadata_props.get(_CLASSES_KEY))[-2:-1]), "")  # the last one is the operation itself


def enclosing_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """Modules and all that contain them: ``encoder.layers.0`` is in ``encoder.layers``, a list that is never called."""
    found: dict[str, None] = {}
    for module in modules:
        parts = module.split(".")
        found.update((".".join(parts[:count]), None) for count in range(1, len(parts) + 1))
    return tuple(found)


def op_type_of(node: ir.Node) -> str:
    """The op type of a node, with its domain if that is not ONNX's own: ``Conv``, ``com.microsoft.FusedConv``."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _modules_in_path(path: str) -> Iterator[str]:
    """The modules in the name of a node.

    In a path, the children of a Sequential repeat its name: ``/features/features.1/conv/conv.0/Conv`` is a node of the
    module ``features.1.conv.0``.
    """
    if not path.startswith("/"):
        return
    parents: list[str] = []
    for part in path.split("/")[1:-1]:
        if parents and part.startswith(f"{parents[-1]}."):
            parents.pop()
        parents.append(part)
        yield ".".join(parents)


def _names(text: str | None) -> list[str]:
    """The texts of a list as Python writes it; none if it is something else."""
    if not text or len(text) > _LONGEST_LIST:
        return []
    try:
        items = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []
    return [item for item in items if _is_text(item)] if isinstance(items, (list, tuple, set)) else []


def _is_text(item: object) -> TypeGuard[str]:
    """Whether an item is a text that files can hold, which halves of a pair of surrogates are not."""
    return isinstance(item, str) and not _SURROGATE.search(item)
