"""``onnx-gconv converters``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.terminal_text import plain

if TYPE_CHECKING:
    from rich.console import Group

    from onnx_gconv.converters.converter_kind import ConverterKind

__all__ = ["converters"]


def converters(
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """List the converters (rules from weights to conductances) and their settings, with those of installed packages."""
    from onnx_gconv.converters.registry import CONVERTER_KINDS, converter_registry

    registry = converter_registry()
    report = _Converters((*CONVERTER_KINDS.values(), *registry.installed()), registry.problems())
    print_report(report, as_json=as_json, quiet=quiet)


@dataclass(frozen=True)
class _Converters:
    """The converters to show, and the problems of converters of installed packages that cannot be used."""

    kinds: tuple[ConverterKind, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The converters and problems as JSON values."""
        return {"converters": [_to_json(kind) for kind in self.kinds], "problems": list(self.problems)}

    def __rich__(self) -> Group:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table

        table = Table(title="Converters", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("converter", no_wrap=True)
        table.add_column("settings", overflow="fold")
        table.add_column("what it does", overflow="fold")
        for kind in self.kinds:
            package = "" if kind.package is None else f" ({kind.package})"
            settings = list(map(str, kind.settings.values())) or ["-"]
            table.add_row(kind.name, plain(*settings), plain(f"{_summary(kind)}{package}"))
        problems = (plain(problem, style="bold red") for problem in self.problems)
        hint = plain("All converters also take the conductance range, g_max and g_min.", style="dim")
        return Group(table, *problems, hint)


def _to_json(kind: ConverterKind) -> dict[str, Any]:
    package = kind.package
    return {
        "name": kind.name,
        "class": kind.class_name,
        "summary": _summary(kind),
        "settings": [
            {"name": each.name, "needed": each.is_needed, "default": None if each.is_needed else _json(each.default)}
            for each in kind.settings.values()
        ],
        "package": None if package is None else {"name": package.name, "version": package.version},
    }


def _json(value: object) -> Any:  # noqa: ANN401 - a default of any type
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _summary(kind: ConverterKind) -> str:
    """The first paragraph of the docstring of the converter's class, on one line."""
    text = inspect.getdoc(kind.converter) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("`", "").rstrip(":")
