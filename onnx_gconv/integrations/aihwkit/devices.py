"""Translates converters and noise models of aihwkit to those of this package.

They are read from objects of aihwkit 1.1.0 and recognized by the name of their class. A class of another name, even a
derived one, is the user's own and may do something else, so it has no equivalent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_gconv.errors import ConfigError
from onnx_gconv.integrations.aihwkit.layers import AnalogLayer, shown_name

__all__ = ["ConverterChoice", "DeviceChoice", "converter_of", "device_of"]

_DEFAULT_G_MAX_US = 25.0


@dataclass(frozen=True)
class ConverterChoice:
    """A rule weight ⇄ conductances.

    Attributes:
        settings: Its settings in a configuration.
        g_max: The upper end of the conductance range, in µS.
        g_min: The lower end of the conductance range, in µS.
        note: A note on what has no equivalent here; None if everything has one.
    """

    settings: Mapping[str, Any]
    g_max: float
    g_min: float
    note: str | None = None


@dataclass(frozen=True)
class DeviceChoice:
    """A device model.

    Attributes:
        name: The name of the device model here; None if there is no equivalent.
        settings: Its settings.
        notes: Notes on what has no equivalent here.
    """

    name: str | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def converter_of(layer: AnalogLayer) -> ConverterChoice:
    """Return the converter of the noise model of a layer.

    Raises:
        ConfigError: If it is not one of aihwkit's own converters.
    """
    noise = getattr(layer.config, "noise_model", None)
    converter = getattr(noise, "g_converter", None)
    if converter is None:
        note = f"no converter: single pairs with the default range of 0 to {_DEFAULT_G_MAX_US:g} \u00b5S are taken"
        return ConverterChoice({"name": "single-pair"}, _DEFAULT_G_MAX_US, 0.0, note)
    kind = type(converter).__name__
    if kind == "FusionConductanceConverter":
        note = (
            "FusionConductanceConverter: the magnitudes of its devices are those of single pairs, of which one device "
            'is always in reset; write_bundle(..., formats=["fusion"]) hands off one device for each weight'
        )
        return ConverterChoice({"name": "single-pair"}, float(converter.g_max), 0.0, note)
    if kind not in _CONVERTERS:
        known = ", ".join((*_CONVERTERS, "FusionConductanceConverter"))
        raise ConfigError(
            f"the layer {shown_name(layer.name)} has the converter {kind}, which has no equivalent; aihwkit's own have "
            f"one: {known}. Map with a converter of your own, registered with "
            "onnx_gconv.converters.register_converter"
        )
    return ConverterChoice(_CONVERTERS[kind](converter), float(converter.g_max), float(converter.g_min))


def _custom_pair(converter: Any) -> dict[str, Any]:  # noqa: ANN401 - of aihwkit
    table = [[float(conductance) for conductance in row] for row in converter.g_lst]
    # No test: if the user wanted it, aihwkit has tested the converter when it was made.
    return {"name": "custom-pair", "factors": _numbers(converter.f_lst), "table": table, "invertibility_test": False}


_CONVERTERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "SinglePairConductanceConverter": lambda _: {"name": "single-pair"},
    "NPairConductanceConverter": lambda converter: {"name": "n-pair", "factors": _numbers(converter.f_lst)},
    "DualPairConductanceConverter": lambda converter: {"name": "dual-pair", "factors": _numbers(converter.f_lst)},
    "CustomPairConductanceConverter": _custom_pair,
    "SingleDeviceConductanceConverter": lambda _: {"name": "single-device"},
}


def device_of(layer: AnalogLayer, converter: ConverterChoice) -> DeviceChoice:
    """Return the device model of a layer.

    Args:
        layer: The layer.
        converter: The converter of the layer; the device has the same conductance range.
    """
    noise = getattr(layer.config, "noise_model", None)
    if noise is None:
        return DeviceChoice(None, {}, ("no noise model: choose a device for simulate and program_model",))
    kind = type(noise).__name__
    if kind not in _DEVICES:
        said = f"the noise model {kind} has no equivalent: choose a device for simulate and program_model"
        return DeviceChoice(None, {}, (said,))
    name, settings, notes = _DEVICES[kind](noise)
    return DeviceChoice(name, {"g_max": converter.g_max, "g_min": converter.g_min} | settings, notes)


_Found = tuple[str, dict[str, Any], tuple[str, ...]]


def _power_law(noise: Any) -> dict[str, Any]:  # noqa: ANN401 - of aihwkit
    return {
        "programming_scale": float(noise.prog_noise_scale),
        "drift_scale": float(noise.drift_scale),
        "read_scale": float(noise.read_noise_scale),
        "t_0": float(noise.t_0),
        "t_read": float(noise.t_read),
    }


_PCM_COEFFICIENTS = [0.26348, 1.9650, -1.1731]
_HERMES_COEFFICIENTS = {
    1: [0.15781817, 2.32443916, -2.16310839, 0.68841818],
    2: [0.16603222, 4.71806468, -8.48101252, 4.68961419],
}
_WAN_TIMES = {
    1.0: [0.348, 16.030, -43.853, 45.393, -16.815],
    86400.0: [0.701, 22.086, -50.773, 47.095, -16.458],
    172800.0: [0.782, 20.274, -43.507, 37.062, -11.934],
}
_CMO_COEFFICIENTS = {0.2: [0.00081107, 0.00106879], 2.0: [0.0112185391, 0.01129027418]}
_CMO_DECAY = {"mean": [-0.08900206], "std": [0.04201137, 0.41183342]}
_CMO_READ = {"K": 0.0277316483, "t_read": 1e-6}


def _pcm(noise: Any) -> _Found:  # noqa: ANN401 - of aihwkit
    return "pcm", _power_law(noise), _own_coefficients(noise, "prog_coeff", _PCM_COEFFICIENTS)


def _custom_drift(noise: Any) -> _Found:  # noqa: ANN401 - of aihwkit
    measured = noise.custom_drift_model
    settings = {
        "g_us": _numbers(measured["g_lst"]),
        "nu_mean": _numbers(measured["nu_mean_lst"]),
        "nu_spread": _numbers(measured["nu_std_lst"]),
    }
    notes = _own_coefficients(noise, "prog_coeff", _PCM_COEFFICIENTS)
    return "pcm-custom-drift", settings | _power_law(noise), notes


def _hermes(noise: Any) -> _Found:  # noqa: ANN401 - of aihwkit
    devices = 1 if noise.num_devices == 1 else 2
    notes = _own_coefficients(noise, "prog_coeff", _HERMES_COEFFICIENTS[devices])
    return f"pcm-hermes-{devices}", _power_law(noise), notes


def _state_independent(noise: Any) -> _Found:  # noqa: ANN401 - of aihwkit
    constant, *others = _numbers(noise.prog_coeff)
    notes = _own_coefficients(noise, "prog_coeff", [constant, *[0.0] * len(others)])
    settings = {
        "sigma_us": constant,
        "nu_mean": float(noise.drift_nu_mean),
        "nu_spread": float(noise.drift_nu_std),
    }
    return "state-independent", settings | _power_law(noise), notes


def _wan(noise: Any) -> _Found:  # noqa: ANN401 - of aihwkit
    notes = _own_coefficients(noise, "coeff_dic", _WAN_TIMES)
    return "reram-wan2022", {"noise_scale": float(noise.noise_scale)}, notes


def _cmo(noise: Any) -> _Found:  # noqa: ANN401 - of aihwkit
    known = (("coeff_dict", _CMO_COEFFICIENTS), ("decay_dict", _CMO_DECAY), ("read_dict", _CMO_READ))
    notes = tuple(note for name, published in known for note in _own_coefficients(noise, name, published))
    settings = {
        "acceptance_percent": float(noise.acceptance_range),
        "programming_scale": float(noise.prog_noise_scale),
        "drift_scale": float(noise.drift_scale),
        "read_scale": float(noise.read_noise_scale),
    }
    return "reram-cmo", settings, notes


_DEVICES: dict[str, Callable[[Any], _Found]] = {
    "PCMLikeNoiseModel": _pcm,
    "CustomDriftPCMLikeNoiseModel": _custom_drift,
    "HermesNoiseModel": _hermes,
    "StateIndependentNoiseModel": _state_independent,
    "ReRamWan2022NoiseModel": _wan,
    "ReRamCMONoiseModel": _cmo,
}


def _own_coefficients(noise: Any, name: str, published: object) -> tuple[str, ...]:  # noqa: ANN401 - of aihwkit
    """Return a note if the user has changed coefficients, which the device models here cannot take."""
    found = getattr(noise, name)
    if found == published:
        return ()
    return (f"{name} = {found} of {type(noise).__name__} has no equivalent: the device has {published}",)


def _numbers(values: Any) -> list[float]:  # noqa: ANN401 - of aihwkit
    return [float(value) for value in values]
