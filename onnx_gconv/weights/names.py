"""The names that people know a weight by: its own, and those that exporters write into the metadata of nodes."""

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

# Under these keys, onnxscript's constant folding lists the names from which a new initializer was computed. The second
# key is from its older versions.
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

# Metadata comes from files that anyone may have written, so longer texts than exporters write are not parsed.
_LONGEST_LIST = 1 << 18


@dataclass(frozen=True)
class WeightNames:
    """The names of one weight.

    Attributes:
        weight: The name of the weight in the model.
        parameter: The parameters of the exported program that the weight is or comes from; if none are known, its name
            in the model.
        node: The MVM nodes that read the weight.
        module: The modules of the exported program that own the weight or contain these nodes, and their enclosing
            modules.
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
            name: The name of the weight in the model.
            parameters: The parameters of the exported program that the weight is or comes from; empty if none are
                known.
            modules: The modules that own the weight.
            nodes: The MVM nodes that read the weight.
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
        """The names of a kind; of all kinds if `kind` is None."""
        kinds: tuple[NameKind, ...] = get_args(NameKind) if kind is None else (kind,)
        return tuple(dict.fromkeys(name for each in kinds for name in getattr(self, each)))

    def match(self, pattern: str, kind: NameKind | None = None) -> bool:
        """Whether a glob (``*``, ``?``, ``[abc]``; case matters) matches a name of that kind, or of any if None."""
        return any(fnmatch.fnmatchcase(name, pattern) for name in self.of_kind(kind))


def as_glob(pattern: str, names: Iterable[WeightNames], kind: NameKind | None = None) -> str:
    """The glob for a user's pattern; a pattern that is the name of a weight is escaped, so that it matches only that.

    For example, ``layers[0].w`` may be a name, though as a glob it would match ``layers0.w``.

    Args:
        pattern: The text that the user wrote.
        names: The names of the weights that the pattern may stand for.
        kind: The kind of names that the pattern may stand for; None for all.
    """
    return glob.escape(pattern) if any(pattern in each.of_kind(kind) for each in names) else pattern


def parameters_of(value: ir.Value) -> tuple[str, ...]:
    """The parameters of the exported program that a constant was computed from, sorted; empty if that is not known.

    PyTorch's exporter folds, for example, the transposition of a linear layer's weight into an initializer ``val_0``
    and writes into its metadata that it comes from ``encoder.lin.weight``. The metadata also lists intermediate
    results, so only names with a dot count, which are parameters of modules. If there are none, all names count.
    """
    for key in _FOLDED_FROM_KEYS:
        names = [name for name in _names(value.metadata_props.get(key)) if not _INTERMEDIATE.fullmatch(name)]
        if names:
            return tuple(sorted({name for name in names if "." in name} or set(names)))
    is_parameter = value.metadata_props.get(_KIND_KEY, "").rpartition(".")[2] in _KINDS_OF_PARAMETERS
    return (value.name,) if is_parameter and value.name else ()


def modules_of(node: ir.Node) -> tuple[str, ...]:
    """The modules that a node was exported from, outer ones first, e.g. ``encoder``, ``encoder.layers.0``.

    They come from the node's metadata, or else from its name, if that is a path such as ``/encoder/layers.0/MatMul``,
    which PyTorch's older exporter writes. The nameless root module is left out.
    """
    if _SCOPES_KEY in node.metadata_props:
        scopes = _names(node.metadata_props[_SCOPES_KEY])[:-1]  # the last one is the operation itself
    else:
        scopes = list(_modules_in_path(node.name or ""))
    return tuple(dict.fromkeys(scope for scope in scopes if scope))


def has_scopes(node: ir.Node) -> bool:
    """Whether the metadata of a node say, as those of PyTorch's exporter do, which modules it was exported from."""
    return _SCOPES_KEY in node.metadata_props


def class_of(node: ir.Node) -> str:
    """The class of the innermost module that a node was exported from, e.g. ``torch.nn.modules.linear.Linear``.

    It is empty if the metadata of the node do not name it.
    """
    return next(iter(_names(node.metadata_props.get(_CLASSES_KEY))[-2:-1]), "")  # the last one is the operation itself


def enclosing_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """Modules and all modules that contain them.

    ``encoder.layers.0`` is in ``encoder.layers``, which nodes do not name, because a ModuleList is never called.
    """
    found: dict[str, None] = {}
    for module in modules:
        parts = module.split(".")
        found.update((".".join(parts[:count]), None) for count in range(1, len(parts) + 1))
    return tuple(found)


def op_type_of(node: ir.Node) -> str:
    """The op type of a node, with its domain if that is not ONNX's own: ``Conv``, ``com.microsoft.FusedConv``."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _modules_in_path(path: str) -> Iterator[str]:
    """The modules in the name of a node, if that is a path.

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
    """The strings in the text of a Python list; none if the text is something else."""
    if not text or len(text) > _LONGEST_LIST:
        return []
    try:
        items = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []
    return [item for item in items if _is_text(item)] if isinstance(items, (list, tuple, set)) else []


def _is_text(item: object) -> TypeGuard[str]:
    """Whether an item is a string that can be written to a file as UTF-8, which lone surrogates cannot."""
    return isinstance(item, str) and not _SURROGATE.search(item)
