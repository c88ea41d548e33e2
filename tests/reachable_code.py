"""Which definitions of the package a function may run, found in its sources; it finds a few more than there are.

A function reaches the definitions that it names. A method is reached if its class is, and if reached code reads an
attribute of its name. What is looked up by a string is not found.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeAlias

import onnx_gconv

Place: TypeAlias = tuple[str, str]
"""A module, and a name in it: a function, a class, ``Class.method`` or a variable; ``""`` for all other statements."""

_ROOT = Path(onnx_gconv.__file__).parent
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Definition:
    """What a definition names, and the texts that it has.

    Attributes:
        named: The definitions that it names.
        attributes: The names of attributes that it reads.
        texts: Its string literals without docstrings, with their lines; ``{}`` stands for what an f-string fills in.
    """

    named: set[Place] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    texts: list[tuple[int, str]] = field(default_factory=list)


def reached_from(start: Place) -> set[Place]:
    """All definitions that a function may run, and itself."""
    known, reached, waiting, attributes = definitions(), set[Place](), {start}, set[str]()
    while waiting:
        reached |= waiting
        attributes = attributes.union(*(known[place].attributes for place in waiting))
        named = set[Place]().union(*(known[place].named for place in waiting), ((module, "") for module, _ in waiting))
        methods = {place for place in known if _is_method_of(place, reached, attributes)}
        waiting = ((named | methods) & known.keys()) - reached
    return reached


def _is_method_of(place: Place, reached: set[Place], attributes: set[str]) -> bool:
    module, name = place
    owner, dot, method = name.partition(".")
    return bool(dot) and (module, owner) in reached and (method in attributes or method.endswith("__"))


@cache
def definitions() -> dict[Place, Definition]:
    """All definitions of the package, except those of `onnx_gconv.models`."""
    modules = {module: _Module(module, tree) for module, tree in _trees()}
    found: dict[Place, Definition] = {}
    for module in modules.values():
        found[module.name, ""] = Definition()
        for name, node in module.parts():
            _note(node, module, modules, found.setdefault((module.name, name), Definition()))
    return found


def _trees() -> Iterator[tuple[str, ast.Module]]:
    # `passes` may be a symbolic link, which rglob does not follow.
    for path in sorted({*_ROOT.rglob("*.py"), *(_ROOT / "passes").rglob("*.py")}):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        if parts[0] != "models":
            name = ".".join(("onnx_gconv", *parts)).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


class _Module:
    """The names of a module.

    Attributes:
        name: Its name.
        own: The names that it defines.
        imported: The names that it imports from the package, also in functions: their module, and the name there; the
            name is None for a module.
    """

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self._tree = tree
        self.own = {part for part, _ in self.parts()} - {""}
        self.imported: dict[str, tuple[str, str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("onnx_gconv"):
                self.imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}

    def parts(self) -> Iterator[tuple[str, ast.AST]]:
        """Its definitions, and the nodes that make them up."""
        for node in self._tree.body:
            if isinstance(node, _FUNCTIONS):
                yield node.name, node
            elif isinstance(node, ast.ClassDef):
                for part in (*node.bases, *node.decorator_list, *node.keywords, *node.body):
                    is_method = isinstance(part, _FUNCTIONS)
                    yield f"{node.name}.{part.name}" if is_method else node.name, part
                yield node.name, ast.Pass()
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
                yield from ((name, node) for name in names or [""])
            elif not isinstance(node, ast.Import | ast.ImportFrom):
                yield "", node


def _resolved(name: str, module: str, modules: dict[str, _Module]) -> Place | None:
    """The definition that a name stands for in a module; None if it is none of the package, or a module."""
    seen: set[Place] = set()
    while module in modules and (module, name) not in seen:
        if name in modules[module].own:
            return module, name
        seen.add((module, name))
        module, name = modules[module].imported.get(name, ("", ""))
    return None


def _note(node: ast.AST, module: _Module, modules: dict[str, _Module], into: Definition) -> None:
    """Note what a node names, and its texts."""
    passed_over: set[ast.AST] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            passed_over.add(each.value)  # a docstring
        elif isinstance(each, ast.Name):
            if (place := _resolved(each.id, module.name, modules)) is not None:
                into.named.add(place)
        elif isinstance(each, ast.Attribute):
            into.attributes.add(each.attr)
            if isinstance(each.value, ast.Name) and each.value.id in module.imported:
                package = ".".join(module.imported[each.value.id])
                if (place := _resolved(each.attr, package, modules)) is not None:
                    into.named.add(place)
        elif isinstance(each, ast.JoinedStr):
            passed_over.update(each.values)
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in each.values]
            into.texts.append((each.lineno, "".join(parts)))
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and each not in passed_over:
            into.texts.append((each.lineno, each.value))
