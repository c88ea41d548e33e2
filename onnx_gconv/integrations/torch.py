"""From PyTorch to a mapped model: ``torch.onnx.export`` and the mapping in one call.

The weights stay in torch's memory and are read in chunks while the mapped model is written. Only `export` imports
torch; torch's results are recognized by their attributes.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions, configuration_of
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.given import ModelLike, is_program
from onnx_gconv.files.models import check_output_path
from onnx_gconv.files.progress import Progress
from onnx_gconv.operations import MappingReport, map_model
from onnx_gconv.suggestions import suggestion

if TYPE_CHECKING:
    import torch

__all__ = ["ExportReport", "export", "map_program"]

_EXTRA = "onnx_gconv[torch]"

# Options of torch.onnx.export that would have no effect here.
_OF_THE_WRITTEN_FILE = frozenset({"export_params", "keep_initializers_as_inputs"})
_ANALOG_PACKAGES = frozenset({"aihwkit", "aihwkit_lightning"})

_OF_THE_OLDER_EXPORTER = frozenset(
    {
        "autograd_inlining",
        "custom_opsets",
        "do_constant_folding",
        "export_modules_as_functions",
        "fallback",
        "operator_export_type",
        "training",
    }
)


@dataclass(frozen=True, repr=False)
class ExportReport(MappingReport):
    """The mapping report of an exported program.

    Attributes:
        program: The program before the mapping, a ``torch.onnx.ONNXProgram``; `verify` takes it as the original. It
            keeps the weights of the module in memory as long as the report exists.
    """

    program: ModelLike | None = field(default=None, compare=False)


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...] | torch.Tensor,
    path: str | os.PathLike[str],
    converter: ConverterLike | None = None,
    *,
    dynamic_shapes: Mapping[str, Any] | tuple[Any, ...] | list[Any] | None = None,
    config: ConfigurationLike | None = None,
    external_data: bool | None = None,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - torch's, which are of all types
) -> ExportReport:
    """Export a module with ``torch.onnx.export`` and write it mapped. No file of the plain model is written.

    Memory beyond that of torch's own export does not grow with the model.

    Args:
        module: A ``torch.nn.Module`` in evaluation mode, or a ``torch.export.ExportedProgram``.
        args: Example inputs.
        path: The mapped model to write.
        converter: The rule weight ⇄ conductances, as for `map_model`.
        dynamic_shapes: Which axes are dynamic, as for ``torch.onnx.export``.
        config: A configuration of the mapping, as for `map_model`.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        progress: Called with the step, the bytes done and the total, as for `map_model`.
        **options: The keys of `MappingOptions` say how the program is mapped, such as ``granularity="channel"``. All
            other keys are options of ``torch.onnx.export``, such as ``input_names=["image"]`` or ``opset_version=20``.

    Returns:
        The report of what was mapped, and what was skipped and why; with the program.

    Raises:
        ConfigError: If torch or onnxscript is not installed, an option is wrong or would have no effect, or the output
            cannot be written.
        ModelError: If the program has nothing to map.
        UnmappableWeightError: If a weight has values that no conductance can hold.
        TypeError: If neither torch nor the mapping has such an option.

    Errors of ``torch.onnx.export`` are raised unchanged.
    """
    if is_program(module):
        raise ConfigError("the module is exported already: map_program(program, path) maps it")
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"path is the file of the mapped model to write, but it is {path!r}; name a file")
    _refuse_analog_layers(module)
    torch_export = _torch_export()
    mapping, of_torch = _told_apart(options, list(inspect.signature(torch_export).parameters))
    # Errors in the arguments are reported before the export, which takes long.
    check_output_path(Path(path), configuration_of(config, converter, mapping).source.files)
    program = torch_export(module, args, dynamo=True, dynamic_shapes=dynamic_shapes, **of_torch)
    return map_program(
        program, path, converter, config=config, external_data=external_data, progress=progress, **mapping
    )


def map_program(
    program: ModelLike,
    path: str | os.PathLike[str],
    converter: ConverterLike | None = None,
    *,
    config: ConfigurationLike | None = None,
    external_data: bool | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Unpack[MappingOptions],
) -> ExportReport:
    """Map the program that ``torch.onnx.export`` returned and write the mapped model. The program is not changed.

    Args:
        program: A ``torch.onnx.ONNXProgram``, or any other model that `map_model` takes.
        path: The mapped model to write.
        converter: The rule weight ⇄ conductances, as for `map_model`.
        config: A configuration of the mapping, as for `map_model`.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        dry_run: Whether everything is done except writing files.
        progress: Called with the step ("scan", "write"), the bytes done and the total.
        **options: The keys of `MappingOptions`.

    Returns:
        The report of what was mapped, and what was skipped and why; with the program.

    Raises:
        ModelError: If `program` is no model, is mapped already, or has nothing to map.
        UnmappableWeightError: If a weight has values that no conductance can hold.
        ConfigError: If a pattern matches no weight, an option or the configuration is wrong, or the output cannot be
            written.
        TypeError: If an option is unknown.
    """
    report = map_model(
        program,
        path,
        converter,
        config=config,
        external_data=external_data,
        dry_run=dry_run,
        progress=progress,
        **options,
    )
    found = {item.name: getattr(report, item.name) for item in fields(report)}
    return ExportReport(**found, program=program)


def _refuse_analog_layers(module: object) -> None:
    """Refuse models with analog layers, such as aihwkit's: torch's exporter fails, or treats tiles as digital layers.

    Raises:
        ConfigError: If there is an analog layer; the message says how to export the digital twin.
    """
    named = module.named_modules() if hasattr(module, "named_modules") else ()
    for name, layer in named:
        package = type(layer).__module__.partition(".")[0]
        if package in _ANALOG_PACKAGES and (hasattr(layer, "analog_module") or hasattr(layer, "rpu_config")):
            called = f"module '{name}'" if name else "model"
            raise ConfigError(
                f"the {called} is an analog layer of {package}, which torch does not export; make its digital "
                "twin first, with onnx_gconv.integrations.aihwkit.to_digital(module), and export that"
            )


def _torch_export() -> Callable[..., Any]:
    """Return ``torch.onnx.export``.

    Raises:
        ConfigError: If torch, or a package that its exporter needs, is not installed.
    """
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"exporting a module needs {' and '.join(missing)}, which {verb} missing; pip install '{_EXTRA}'"
        )
    import torch

    return cast("Callable[..., Any]", torch.onnx.export)


def _told_apart(options: Mapping[str, Any], of_torch: list[str]) -> tuple[MappingOptions, dict[str, Any]]:
    """Separate the options of the mapping from those of torch.

    Raises:
        ConfigError: If an option would have no effect here.
        TypeError: If an option is unknown to both.
    """
    mapping = {name: value for name, value in options.items() if name in MappingOptions.__annotations__}
    others = {name: value for name, value in options.items() if name not in mapping}
    for name, value in others.items():
        if name == "f":
            raise ConfigError("f: the path of the mapped model is what export writes; no other file is written")
        if name in _OF_THE_WRITTEN_FILE:
            raise ConfigError(f"{name}: torch.onnx.export uses it only in a file that it writes itself; leave it out")
        if name in _OF_THE_OLDER_EXPORTER or (name == "dynamo" and not value):
            raise ConfigError(
                f"{name}: this is for torch's older exporter, which gives no program; leave it out, or export to a "
                "file and give that to map_model"
            )
        if name not in of_torch:
            raise TypeError(_unknown_option(name, [*MappingOptions.__annotations__, *of_torch]))
    others.pop("dynamo", None)
    return cast("MappingOptions", mapping), others


def _unknown_option(name: str, known: list[str]) -> str:
    hint = suggestion(name, known, lists_all=False)
    return f"neither the mapping nor torch.onnx.export has an option '{name}'" + (f"; {hint}" if hint else "")
