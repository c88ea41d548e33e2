"""``onnx-gconv presets``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.terminal_text import assembled, plain

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from onnx_gconv.devices.presets import DevicePreset

__all__ = ["presets"]


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="The preset to show in detail; a table of all if not given.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """List published devices: conductance range, levels, array size and tolerance, with their sources."""
    from onnx_gconv.devices import presets as known

    shown = known.presets() if name is None else (known.preset(name),)
    print_report(_Presets(shown, is_detailed=name is not None), as_json=as_json, quiet=quiet)


@dataclass(frozen=True)
class _Presets:
    """The presets to show.

    Attributes:
        presets: The presets.
        is_detailed: Whether to show each preset in detail instead of a table.
    """

    presets: tuple[DevicePreset, ...]
    is_detailed: bool

    def to_json(self) -> dict[str, Any]:
        """The presets as JSON values; conductances are in µS."""
        return {"presets": [preset.to_json() for preset in self.presets]}

    def __rich__(self) -> Group:
        from rich.console import Group

        if self.is_detailed:
            return Group(*(_details(preset) for preset in self.presets))
        hint = plain(
            "onnx-gconv presets NAME shows the notes and the whole sources of one; onnx-gconv devices lists the device "
            "models, which have errors, and onnx-gconv converters the converters.",
            style="dim",
        )
        return Group(_table(self.presets), plain("Sources", style="bold"), _short_sources(self.presets), "", hint)


def _table(presets: tuple[DevicePreset, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Published devices", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("preset", no_wrap=True)
    table.add_column("range in µS", no_wrap=True)
    table.add_column("levels", justify="right", no_wrap=True)
    table.add_column("array", justify="right", no_wrap=True)
    table.add_column("tolerance", justify="right", no_wrap=True)
    for preset in presets:
        table.add_row(
            preset.name,
            _range(preset),
            "-" if preset.levels is None else str(preset.levels),
            _array(preset) or "-",
            _tolerance(preset) or "-",
        )
    return table


def _short_sources(presets: tuple[DevicePreset, ...]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for preset in presets:
        table.add_row(preset.name, plain(", ".join(dict.fromkeys(source.short for source in preset.sources))))
    return table


def _details(preset: DevicePreset) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("range", f"{_range(preset)} µS"),
        ("levels", "any conductance in the range" if preset.levels is None else str(preset.levels)),
        ("array", f"{_array(preset)} (rows x columns)" if preset.array else "not known"),
        ("tolerance", _tolerance(preset) or "not known"),
        ("converter", preset.converter or "single-pair"),
        ("model", preset.model or "none of its errors"),
    ]
    rows += [("" if number else "notes", note) for number, note in enumerate(preset.notes)]
    rows += [("" if number else "sources", str(source)) for number, source in enumerate(preset.sources)]
    for label, text in rows:
        table.add_row(label, plain(text))
    return Group(assembled((preset.name, "bold"), (f": {preset.description}", "")), table)


def _range(preset: DevicePreset) -> str:
    return f"{preset.g_min:.6g} .. {preset.g_max:.6g}"


def _array(preset: DevicePreset) -> str:
    return "" if preset.array is None else f"{preset.array[0]} x {preset.array[1]}"


def _tolerance(preset: DevicePreset) -> str:
    parts = []
    if preset.tolerance_us is not None:
        parts.append(f"{preset.tolerance_us:g} µS")
    if preset.tolerance_relative is not None:
        parts.append(f"{100 * preset.tolerance_relative:g} %")
    return ", ".join(parts)
