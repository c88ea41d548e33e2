"""Makes the configuration that the options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_gconv.errors import ConfigError

if TYPE_CHECKING:
    from onnx_gconv.cli.options import MappingOptions
    from onnx_gconv.configuration import Configuration

__all__ = ["mapping_configuration"]


def mapping_configuration(options: MappingOptions) -> Configuration:
    """The configuration of the file, if one is given, with the options on top.

    Raises:
        ConfigError: If the file is wrong, an option has a wrong value, or options contradict each other.
    """
    from onnx_gconv.configuration.options import configuration_of

    given = {
        "device": _device(options),
        "granularity": _granularity(options),
        "clipping": _clipping(options),
        "levels": _levels(options.levels),
        "storage": _STORAGE[options.level_codes],
        "include": options.include,
        "exclude": options.exclude,
        "include_ops": options.include_op,
        "quantized": options.quantized,
        "conductance_dtype": options.conductance_dtype,
        "freeze_inputs": options.freeze_inputs,
        "inline_functions": options.inline_functions,
        "upgrade_opset": options.upgrade_opset,
        "shared": options.shared,
    }
    names = {
        "device": ", ".join(_DEVICE_OPTIONS[name] for name in _device(options) or ()),
        "converter": "--converter" if options.converter is not None else "--exact",
        "granularity": "--granularity" if options.tile is None else "--tile",
        "clipping": "--clip-value" if options.clip_percentile is None else "--clip-percentile",
        "levels": "--levels",
        "storage": "--level-codes",
        "include_ops": "--include-op",
    }
    if options.conductance_dtype is not None:
        names["conductance_dtype"] = "--conductance-dtype"
    return configuration_of(options.config, _converter(options), given, names=names)  # type: ignore[arg-type]


_STORAGE = {None: None, True: "codes", False: "float"}


def _given(**settings: Any) -> dict[str, Any] | None:  # noqa: ANN401 - values of all kinds
    return {name: value for name, value in settings.items() if value is not None} or None


_DEVICE_OPTIONS = {"preset": "--preset", "g_max": "--g-max", "g_min": "--g-min"}


def _device(options: MappingOptions) -> dict[str, Any] | None:
    return _given(preset=options.preset, g_max=options.g_max, g_min=options.g_min)


def _clipping(options: MappingOptions) -> dict[str, Any] | None:
    return _given(percentile=options.clip_percentile, value=options.clip_value)


def _converter(options: MappingOptions) -> dict[str, Any] | None:
    """The converter and what it needs; what belongs to another one is refused in the words of the command line."""
    from onnx_gconv.converters.registry import CONVERTER_KINDS, kinds_taking

    settings = {
        "--exact": ("exact", options.exact or None),
        "--factor": ("factors", options.factor or None),
        "--bits": ("bits", options.bits),
        "--slice-bits": ("slice_bits", options.slice_bits),
    }
    given = {option: setting for option, setting in settings.items() if setting[1] is not None}
    name = options.converter
    if name is None:
        if not given:
            return None
        name = "single-pair"
    kind = CONVERTER_KINDS[name]
    for option, (setting, _) in given.items():
        if setting not in kind.takes:
            raise ConfigError(f"{option} needs --converter {kinds_taking(setting)}, not {name}; leave one of them out")
    if "table" in kind.needs:
        raise ConfigError(
            f"--converter {name} needs a table of conductances, which only a file can hold; give one with --config, "
            f'where converter = {{ name = "{name}", factors = [...], table = [[...], [...]] }}'
        )
    if "factors" in kind.needs and not options.factor:
        raise ConfigError(f"--converter {name} needs factors, one for each pair: e.g. --factor 1 --factor 3")
    return {"name": name, **dict(given.values())}


def _granularity(options: MappingOptions) -> dict[str, Any] | None:
    return _given(kind=options.granularity, tile=options.tile, partition=options.partition)


def _levels(text: str | None) -> int | list[float] | str | None:
    """The levels in the text of the option: a number of them, a list in µS, or a word."""
    if text is None or text in {"none", "preset"}:
        return text
    try:
        return int(text) if "," not in text else [float(level) for level in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--levels is a number of levels, a list of them in µS such as 0,1.5,25, preset or none, but not '{text}'"
        ) from None
