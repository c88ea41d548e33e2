"""``onnx-gconv devices``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.terminal_text import plain

if TYPE_CHECKING:
    from rich.console import Group

    from onnx_gconv.devices.registry import DeviceModelKind

__all__ = ["devices"]


def devices(
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """List the device models (errors, drift and noise) and their settings, with those of installed packages."""
    from onnx_gconv.devices.presets import presets
    from onnx_gconv.devices.registry import device_model_kinds

    kinds, problems = device_model_kinds()
    of_presets = {item.name: item.model for item in presets() if item.model is not None}
    print_report(_Devices(kinds, problems, of_presets), as_json=as_json, quiet=quiet)


@dataclass(frozen=True)
class _Devices:
    """The device models to show.

    Attributes:
        kinds: The device models.
        problems: What is wrong with those of installed packages that cannot be used.
        of_presets: The name of the device model of each preset that has one.
    """

    kinds: tuple[DeviceModelKind, ...]
    problems: tuple[str, ...]
    of_presets: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The device models, presets and problems as JSON values."""
        return {
            "devices": [_to_json(kind) for kind in self.kinds],
            "presets": self.of_presets,
            "problems": list(self.problems),
        }

    def __rich__(self) -> Group:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table

        table = Table(title="Device models", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("device", no_wrap=True)
        table.add_column("settings", overflow="fold")
        table.add_column("what it is", overflow="fold")
        for kind in self.kinds:
            package = "" if kind.package is None else f" ({kind.package})"
            settings = [_setting(name, default) for name, default in kind.settings.items()] or ["-"]
            table.add_row(plain(kind.name), plain(", ".join(settings)), plain(f"{_summary(kind)}{package}"))
        problems = (plain(problem, style="bold red") for problem in self.problems)
        presets = ", ".join(f"{name} ({model})" if name != model else name for name, model in self.of_presets.items())
        hint = plain(
            f"Presets that are names of devices, too, with their range: {presets}.",
            "All devices also take stuck_low and stuck_high, the fractions of devices that are stuck at an end of the "
            "range. Settings are given to onnx-gconv simulate and program as --device-option NAME=VALUE.",
            style="dim",
        )
        return Group(table, *problems, hint)


def _setting(name: str, default: object) -> str:
    if default is inspect.Parameter.empty:
        return f"{name} (needed)"
    return name if default is None else f"{name} = {default}"


def _to_json(kind: DeviceModelKind) -> dict[str, Any]:
    settings = kind.settings.items()
    return {
        "name": kind.name,
        "summary": _summary(kind),
        "settings": [
            {"name": name, "needed": default is inspect.Parameter.empty, "default": _json(default)}
            for name, default in settings
        ],
        "package": kind.package,
    }


def _json(default: object) -> Any:  # noqa: ANN401 - a default of any type
    if default is inspect.Parameter.empty:
        return None
    return default if isinstance(default, (bool, int, float, str, type(None))) else repr(default)


def _summary(kind: DeviceModelKind) -> str:
    """The first sentence of the docstring of the class, on one line."""
    text = " ".join((inspect.getdoc(kind.model) or "").partition("\n\n")[0].split())
    return text.partition(". ")[0].replace("`", "").rstrip(":.") + "."
