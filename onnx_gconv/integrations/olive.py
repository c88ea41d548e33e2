"""A pass for Olive that maps the weights of a model to conductances.

Olive finds the pass by a package configuration, which ``onnx-gconv olive-config`` writes::

    onnx-gconv olive-config -o passes.json
    olive run --config workflow.json --package-config passes.json

This module imports Olive, and only Olive imports this module.
"""

from __future__ import annotations

import copy
import logging
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.files.naming import MAPPED_SUFFIX
from onnx_gconv.integrations.olive_config import INSTALL_OLIVE
from onnx_gconv.integrations.olive_options import (
    as_written,
    cache_key,
    check_names,
    configuration_of_options,
    options_as_written,
    pass_options,
)
from onnx_gconv.operations import MappingReport, map_model
from onnx_gconv.version import __version__

try:
    from olive.common.config_utils import ParamCategory
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.passes import PassParamDefault
    from olive.passes.pass_config import PassConfigParam
    from olive.search.search_parameter import Categorical, SearchParameter, SpecialParamValue, json_to_search_parameter
except ModuleNotFoundError as _error:
    raise ConfigError(f"the pass for Olive needs {_error.name}, which is missing; {INSTALL_OLIVE}") from None

if TYPE_CHECKING:
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model.handler.base import OliveModelHandler
    from olive.passes.pass_config import BasePassConfig

    class Pass:
        """The base class of Olive's passes for type checkers, because Olive ships no types."""

        @classmethod
        def get_config_params(
            cls,
            accelerator_spec: AcceleratorSpec,
            config: dict[str, Any] | None = None,
            disable_search: bool | None = False,  # noqa: FBT001, FBT002 - Olive's signature
        ) -> tuple[type[BasePassConfig], dict[str, Any], dict[str, SearchParameter]]:
            """Return the class of the options, their values, and the options that are searched."""
            ...

else:
    from olive.passes import Pass

__all__ = ["MappingPassError", "OnnxGConv"]

# The key of Olive's model attributes, which it writes to model_config.json and footprint.json.
_ATTRIBUTE = "onnx_gconv"

_COUNTS = (
    *("mapped_weights", "mapped_parameters", "skipped_mvm_weights", "skipped_mvm_parameters", "mvm_share"),
    *("skipped_by_reason", "notes", "remarks"),
)
_OF_WEIGHTS = ("name", "graph", "shape", "dtype", "converter", "granularity", "scale_range", "loss")

# Before it evaluates a model, Olive asks of each text among its attributes whether a file has it as its path, and fails
# if a name in the path has more bytes than file systems allow.
_LONGEST_TEXT = 255

# A child of Olive's own logger, so that it uses Olive's level, handlers and log file.
_logger = logging.getLogger("olive.onnx_gconv")


class MappingPassError(GconvError, ValueError):
    """A model cannot be mapped in a workflow.

    Olive ends a workflow with an error only for a few kinds of exceptions; ValueError is one of them. It logs all other
    exceptions and ends as if there were no error.
    """


class OnnxGConv(Pass):
    """Maps the weights of an ONNX model to conductances, in µS.

    Its options are the settings of a mapping, see `onnx_gconv.configuration`. The model is streamed from file to file.
    The mapping report goes to Olive's log and, as a table ``onnx_gconv``, to the attributes of the model.

    The mapping has to be the last change of a model, because optimizers fold it away.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:  # noqa: ARG003 - Olive's
        return {
            name: PassConfigParam(
                type_=option.kind,
                category=ParamCategory.PATH if option.is_path else ParamCategory.NONE,
                description=option.sentence,
            )
            for name, option in pass_options().items()
        }

    @classmethod
    def get_config_params(
        cls,
        accelerator_spec: AcceleratorSpec,
        config: dict[str, Any] | None = None,
        disable_search: bool | None = False,  # noqa: FBT001, FBT002 - Olive's signature
    ) -> tuple[type[BasePassConfig], dict[str, Any], dict[str, SearchParameter]]:
        """Check the options of a workflow before its first pass runs, and separate those that are searched.

        Raises:
            ConfigError: If an option is unknown, a value is wrong, or options contradict each other.
        """
        config = options_as_written(config or {})
        check_names(config)
        searched = {name: value for name, value in config.items() if _is_searched(value)}
        fixed = {name: value for name, value in config.items() if name not in searched and not _is_marker(value)}
        if disable_search and searched:
            raise ConfigError(
                f"{next(iter(searched))}: it is to be searched, but the workflow has no search_strategy, or one that "
                "does not include options of passes; add one, or give a value"
            )
        configuration = configuration_of_options(fixed)
        if not searched:
            configuration.check()
        for name, value in searched.items():
            for choice in _choices(value):
                configuration_of_options({name: choice})
        config_class, values, parameters = super().get_config_params(accelerator_spec, config, disable_search)
        values["cache_key"] = cache_key(values["config_file"])
        return config_class, values, parameters

    def _run_for_config(
        self, model: OliveModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        _check_handler(model)
        source = _beside_model(model, model.onnx_file_name) or Path(model.model_path)
        target = Path(resolve_onnx_path(output_model_path, _mapped_name(source)))
        target.parent.mkdir(parents=True, exist_ok=True)
        options = {name: getattr(config, name) for name in pass_options()}
        options = {name: None if _is_marker(value) else value for name, value in options.items()}
        try:
            configuration = configuration_of_options(options)
            report = map_model(source, target, config=configuration, external_data=options["save_as_external_data"])
        except GconvError as error:
            raise MappingPassError(str(error)) from None
        _log(report)
        return _mapped_handler(model, target, report)


def _is_searched(value: object) -> bool:
    is_json = isinstance(value, dict) and value.get("olive_parameter_type") == "SearchParameter"
    return is_json or isinstance(value, SearchParameter)


def _choices(value: dict[str, Any] | SearchParameter) -> list[Any]:
    """Return the values that a search tries for an option; none if they depend on other options."""
    parameter = json_to_search_parameter(value) if isinstance(value, dict) else value
    return list(parameter.get_support()) if isinstance(parameter, Categorical) else []


def _is_marker(value: object) -> bool:
    """Whether a value is one of Olive's markers for an option that is not given."""
    return isinstance(value, str) and value in {*SpecialParamValue, *PassParamDefault}


def _check_handler(model: OliveModelHandler) -> None:
    """Refuse models that are not ONNX, and models with weights in a file that is no external data of ONNX."""
    if not isinstance(model, ONNXModelHandler):
        kind = type(model).__name__.removesuffix("Handler")
        raise MappingPassError(f"the model is a {kind}, and only ONNX models are mapped; put OnnxConversion before it")
    if model.external_initializers_path:
        raise MappingPassError(
            f"'{model.model_path}' lacks the weights that ONNX Runtime is to be given from "
            f"'{model.external_initializers_file_name}'; take ExtractAdapters out, or let it make inputs of them "
            "(make_inputs)"
        )


def _beside_model(model: ONNXModelHandler, name: str | None) -> Path | None:
    """Return a file in the folder of a model; None if no name is given.

    The name is used as it was written: if the current folder has a file of that name, Olive has turned the name into
    the absolute path of that file.
    """
    return None if name is None else Path(model.get_resource("model_path"), as_written(name))


def _mapped_name(source: Path) -> str:
    """Return a name for the mapped model that no file in the current folder has, because Olive would take that file."""
    name = f"{source.stem}{MAPPED_SUFFIX}.onnx"
    while Path(name).exists():
        name = f"mapped-{name}"
    return name


def _mapped_handler(model: ONNXModelHandler, target: Path, report: MappingReport) -> ONNXModelHandler:
    """Return the handler with which Olive continues: the mapped model, and the settings and attributes of the model."""
    constant_inputs = _beside_model(model, model.constant_inputs_file_name)
    if constant_inputs is not None:
        shutil.copy(constant_inputs, target.parent)
    attributes = copy.deepcopy(model.model_attributes or {})
    attributes[_ATTRIBUTE] = _attribute(report)
    # The path of the folder, not of the model: Olive would not copy the data file otherwise.
    is_folder = len(report.files) > 1 or constant_inputs is not None
    return ONNXModelHandler(
        model_path=str(target.parent if is_folder else target),
        onnx_file_name=target.name if is_folder else None,
        inference_settings=copy.deepcopy(model.inference_settings),
        use_ort_extensions=model.use_ort_extensions,
        model_attributes=attributes,
        constant_inputs_file_name=None if constant_inputs is None else constant_inputs.name,
    )


def _attribute(report: MappingReport) -> dict[str, Any]:
    """Return a short report for Olive's files, which repeat it; only the manifest has all facts on each weight.

    A text that is too long for Olive is a list of its parts.
    """
    content = report.to_json()
    counts = {key: content[key] for key in _COUNTS}
    mapped = [{key: weight[key] for key in _OF_WEIGHTS} for weight in content["mapped"]]
    skipped = [item for item in content["skipped"] if item["is_mvm"]]
    attribute: dict[str, Any] = _in_parts({"version": __version__, **counts, "mapped": mapped, "skipped": skipped})
    return attribute


def _in_parts(value: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """A value of JSON whose texts that are too long for Olive are lists of their parts, in order."""
    if isinstance(value, dict):
        return {key: _in_parts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_parts(item) for item in value]
    if not isinstance(value, str) or len(value.encode()) <= _LONGEST_TEXT:
        return value
    width = _LONGEST_TEXT // max(len(character.encode()) for character in value)
    return textwrap.wrap(value, width, expand_tabs=False, replace_whitespace=False, drop_whitespace=False)


def _log(report: MappingReport) -> None:
    _logger.info("%s", f"mapping to conductances\n{report}")
    skipped = sum(item.is_mvm for item in report.skipped)
    if skipped:
        _logger.warning(
            "%d of %d weights of MVM ops are not mapped; model_attributes.%s.skipped in model_config.json says why",
            skipped,
            skipped + len(report.mapped),
            _ATTRIBUTE,
        )
