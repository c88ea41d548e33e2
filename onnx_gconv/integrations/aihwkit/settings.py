"""The settings of a trained analog model, for the twin that `to_digital` makes and torch exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_gconv.configuration import Configuration
from onnx_gconv.configuration.toml_text import toml_text
from onnx_gconv.integrations.aihwkit.devices import ConverterChoice, DeviceChoice, converter_of, device_of
from onnx_gconv.integrations.aihwkit.layers import AnalogLayer
from onnx_gconv.integrations.aihwkit.periphery import LayerPeriphery, lost_settings, periphery_of
from onnx_gconv.integrations.aihwkit.twin_plan import LayerPlan, Piece, TwinPlan, tile_limits, twin_plan

if TYPE_CHECKING:
    from torch import nn

    from onnx_gconv.simulation.chips.chip_weight import DriftCompensation

__all__ = ["AnalogSettings", "settings_from"]

# Modules of torch with weights that look like matrices, but are not multiplied with activations.
_TABLES = ("Embedding", "EmbeddingBag")

_SHOWN = 4  # names of layers in a note


@dataclass(frozen=True)
class AnalogSettings:
    """The settings of a trained analog model and its chip.

    Attributes:
        configuration: How the exported twin is mapped: converters, conductance ranges, and scales for each tile. If
            layers differ, or some are digital, weights are selected by the names of their parameters, which torch's
            exporter (``dynamo=True``) notes in the model.
        device: The name of the device model; None if there is no equivalent.
        device_settings: The settings of the device model.
        drift_compensation: How drift is compensated.
        array: Inputs (rows) and outputs (columns) of the chip's arrays; None if the model limits neither.
        layers: For each analog layer, its tiles, digital scales, input ranges, and converters of inputs and outputs.
        notes: What has no equivalent here, a line for each: the layers, the value, and what is done instead.
    """

    configuration: Configuration
    device: str | None
    device_settings: Mapping[str, Any]
    drift_compensation: DriftCompensation
    array: tuple[int, int] | None
    layers: tuple[LayerPeriphery, ...]
    notes: tuple[str, ...]

    @property
    def chip(self) -> dict[str, Any]:
        """The arguments of `simulate` and `program_model` besides the model; without a device, the default is used."""
        named = {} if self.device is None else {"device": self.device, "settings": dict(self.device_settings)}
        return {**named, "drift_compensation": self.drift_compensation}

    @property
    def handoff(self) -> dict[str, Any]:
        """The arguments of `write_bundle` besides the model, with which the arrays of the bundle are the tiles."""
        return {} if self.array is None else {"array": self.array, "partition": "equal"}

    def toml(self) -> str:
        """Return the configuration as the text of a TOML file for ``--config``, with the notes as comments."""
        lines = [f"# {' '.join(note.split())}\n" for note in self.notes]
        return "".join([*lines, *(["\n"] if lines else []), toml_text(self.configuration)])


def settings_from(analog_model: nn.Module) -> AnalogSettings:
    """Return the settings of a trained model of aihwkit or aihwkit-lightning, for its exported twin.

    With these settings, each weight of the twin that `to_digital` makes is mapped to the conductances that the
    converter of the model gives for its tiles, in float32 bit for bit. aihwkit-lightning has no converters, devices and
    drift compensation, so only tiles, input ranges, and converters of inputs and outputs come from its models.

    Args:
        analog_model: The model.

    Raises:
        ModelError: If it has no analog layer, or one that cannot be converted.
        ConfigError: If a converter is not one of aihwkit's own.
    """
    plan = twin_plan(analog_model)
    notes = _Notes()
    plans = list(plan.all_layers())
    converters = [converter_of(each.layer) for each in plans]
    found = [periphery_of(each.layer, tuple(piece.parameter for piece in each.pieces)) for each in plans]
    for each, converter, periphery in zip(plans, converters, found, strict=True):
        notes.add(each.layer, [converter.note] if converter.note and not each.layer.is_lightning else [])
        notes.add(each.layer, _notes_of_tiles(each))
        notes.add(each.layer, lost_settings(each.layer, periphery))
    if any(each.layer.is_lightning for each in plans):
        notes.of_model("aihwkit-lightning has no converters, devices and drift compensation: choose them yourself")
    for name in plan.unrolled:
        notes.of_model(
            f"layer '{name}': no recurrent layer of torch can have its cells, tiles or digital scales; it is exported "
            "step by step, for the number of steps of the example"
        )
    device = _device(plans, converters, notes)
    weights = [_settings(*each, plans) for each in zip(plans, converters, strict=True)]
    compensation = _compensation(plans, converters, notes)
    sizes = _largest(plans)
    limits = Counter(tile_limits(each.layer) for each in plans).most_common(1)[0][0]
    array = None if limits == (None, None) else (limits[0] or sizes[0], limits[1] or sizes[1])
    if any(each.is_plain for each in plans):
        _note_folding(analog_model, notes)
    return AnalogSettings(
        configuration=_configuration(analog_model, plan, [item for each in weights for item in each]),
        device=device.name,
        device_settings=device.settings,
        drift_compensation=compensation,
        array=array,
        layers=tuple(found),
        notes=notes.lines(),
    )


class _Notes:
    """Collects notes; each note appears once, with all layers to which it applies."""

    def __init__(self) -> None:
        self._layers: dict[str, list[str]] = {}
        self._of_model: list[str] = []

    def add(self, layer: AnalogLayer, texts: Iterable[str]) -> None:
        for text in texts:
            self._layers.setdefault(text, []).append(layer.name or layer.kind)

    def of_model(self, text: str) -> None:
        self._of_model.append(text)

    def lines(self) -> tuple[str, ...]:
        return (*self._of_model, *(f"{_listed(names)}: {text}" for text, names in self._layers.items()))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{'layer' if len(names) == 1 else 'layers'} {shown}{more}"


def _notes_of_tiles(plan: LayerPlan) -> Iterable[str]:
    layer = plan.layer
    if any(piece.before or piece.after for piece in plan.pieces):
        yield (
            "tiles end inside of a channel, between elements of a kernel: each piece of the twin has whole channels, "
            "with weights of 0 for what is on another tile"
        )
    columns = [tile.column for row in layer.tiles for tile in row if tile.column is not None]
    if columns:
        yield "the bias is a column of the tile: the twin adds it in digital, and the scale of the tile is kept"
    kind = str(layer.tiles[0][0].weights.dtype).removeprefix("torch.")
    if kind in {"float16", "bfloat16"}:
        yield f"weights are {kind}, in which aihwkit computes conductances, too: here they are computed in float32"
    modifier = getattr(layer.config, "modifier", None)
    quantization = getattr(modifier, "quantization_type", None)
    if modifier is not None and quantization is not None and quantization.name != "NONE":
        yield (
            f"weights are quantized ({quantization.name}, res = {modifier.res:g}): the twin has the quantized weights, "
            "and conductances take any value; give levels to the mapping"
        )


def _device(plans: Sequence[LayerPlan], converters: Sequence[ConverterChoice], notes: _Notes) -> DeviceChoice:
    """Return the device of most layers, because a chip has one kind of device; note the layers that differ."""
    choices = [device_of(each.layer, converter) for each, converter in zip(plans, converters, strict=True)]
    keys = [repr((choice.name, dict(choice.settings))) for choice in choices]
    first = keys.index(Counter(keys).most_common(1)[0][0])
    chosen = choices[first]
    for each, choice, key in zip(plans, choices, keys, strict=True):
        notes.add(each.layer, () if each.layer.is_lightning else choice.notes)
        if key != keys[first]:
            said = ", ".join(f"{name} = {value}" for name, value in choice.settings.items())
            notes.add(
                each.layer, [f"the device {choice.name} ({said}) differs from most; {chosen.name} is used for all"]
            )
    return chosen


def _compensation(
    plans: Sequence[LayerPlan], converters: Sequence[ConverterChoice], notes: _Notes
) -> DriftCompensation:
    """Return how drift is compensated; aihwkit does it tile by tile. Note the layers that differ."""
    kinds = [_compensation_of(each.layer) for each in plans]
    most = Counter(kinds).most_common(1)[0][0]
    by_channel = [_has_scales_of_channels(*each) for each in zip(plans, converters, strict=True)]
    for each, kind in zip(plans, kinds, strict=True):
        if kind != most:
            notes.add(each.layer, [f"drift compensation {kind} differs from most; {most} is used for all"])
    if most == "GlobalDriftCompensationWithExactReference":
        notes.of_model(f"{most}: here the reference is what the chip gives after programming, not the ideal weights")
    if most == "PerColumnDriftCompensation":
        if all(by_channel):
            return "column"
        notes.of_model(
            f"{most}: a factor for each output needs a scale for each output, and the tiles have one scale each; drift "
            "is compensated with one factor for each tile"
        )
    elif most == "None":
        return "none"
    elif most not in {"GlobalDriftCompensation", "GlobalDriftCompensationWithExactReference"}:
        notes.of_model(f"{most} has no equivalent: drift is compensated with one factor for each tile")
    if any(by_channel):
        notes.of_model("weights have a scale for each output: drift is compensated with one factor for each weight")
        return "global"
    return "tile"


def _compensation_of(layer: AnalogLayer) -> str:
    compensation = getattr(layer.config, "drift_compensation", None)
    return "None" if compensation is None else type(compensation).__name__


def _has_scales_of_channels(plan: LayerPlan, converter: ConverterChoice) -> bool:
    """Whether each output of a tile has its own scale.

    This holds for the Fusion converter, and for aihwkit-lightning if noise or clipping in training was relative to each
    output. With compensation of drift for each column, it is also done for tiles whose outputs all have the same
    largest weight: their scales are then equal, and each output gets its own compensation factor.
    """
    layer = plan.layer
    config = layer.config
    if layer.is_lightning:
        kinds = (config.modifier.noise_type, config.modifier.quantization_type, config.clip.type)
        return config.forward.out_noise_per_channel or any("PER_CHANNEL" in kind.name for kind in kinds)
    noise = getattr(config, "noise_model", None)
    if type(getattr(noise, "g_converter", None)).__name__ == "FusionConductanceConverter":
        return True
    if _compensation_of(layer) != "PerColumnDriftCompensation" or converter.settings["name"] == "single-device":
        return False
    tiles = [tile.weights.abs().amax(dim=1) for row in layer.tiles for tile in row]
    return all(bool((largest == largest[0]).all()) for largest in tiles)


def _settings(
    plan: LayerPlan, converter: ConverterChoice, plans: Sequence[LayerPlan]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the settings of each weight of a layer, with the name of its parameter in the twin."""
    device = {"g_max": converter.g_max, "g_min": converter.g_min}
    by_channel = _has_scales_of_channels(plan, converter)
    found = []
    for piece in plan.pieces:
        settings: dict[str, Any] = {"device": device, "converter": dict(converter.settings)}
        settings["parts"] = "none"  # a Split of the output must not change the tiles, which are the analog layer's
        settings["granularity"] = _granularity(plan, piece, plans, by_channel=by_channel)
        if (value := _largest_is_bias(plan.layer)) is not None:
            settings["clipping"] = {"value": value}
        found.append((piece.parameter, settings))
    return found


def _largest_is_bias(layer: AnalogLayer) -> float | None:
    """Return the largest bias in the column of a layer's only tile, if it is larger than all weights; else None."""
    tile = layer.tiles[0][0]
    if tile.column is None:
        return None
    largest = float(tile.column.abs().max())
    return largest if largest > float(tile.weights.abs().max()) else None


def _granularity(plan: LayerPlan, piece: Piece, plans: Sequence[LayerPlan], *, by_channel: bool) -> dict[str, Any]:
    """Return the granularity of a weight: a scale for each tile. An unlimited tile is as large as the largest layer."""
    if piece.tile == (None, None) and plan.layer.is_lightning:
        return {"kind": "channel" if by_channel else "tensor"}
    rows, columns = (limit or size for limit, size in zip(piece.tile, _largest(plans), strict=True))
    partition = {} if piece.partition == "equal" else {"partition": piece.partition}
    return {"kind": "tile-channel" if by_channel else "tile", "tile": [rows, columns], **partition}


def _largest(plans: Sequence[LayerPlan]) -> tuple[int, int]:
    """Return the largest number of inputs, and of outputs, of all layers."""
    return max(each.layer.inputs for each in plans), max(each.layer.outputs for each in plans)


def _configuration(model: Any, plan: TwinPlan, weights: Sequence[tuple[str, dict[str, Any]]]) -> Configuration:  # noqa: ANN401
    """Return a configuration: the settings of most weights are its defaults, the others are overrides."""
    keys = [repr(settings) for _, settings in weights]
    common = Counter(keys).most_common(1)[0][0]
    defaults = weights[keys.index(common)][1]
    overrides = []
    for key in dict.fromkeys(key for key in keys if key != common):
        parameters = [name for (name, _), each in zip(weights, keys, strict=True) if each == key]
        settings = weights[keys.index(key)][1]
        changed = {name: value for name, value in settings.items() if value != defaults.get(name)}
        overrides.append({"parameter": parameters, **changed})
    others = _has_digital_weights(model, plan)
    return Configuration.of(
        {
            "defaults": defaults,
            "model": {"include": [name for name, _ in weights]} if others else {},
            "overrides": overrides,
        }
    )


def _has_digital_weights(model: Any, plan: TwinPlan) -> bool:  # noqa: ANN401 - a torch module
    """Whether the twin has weights of digital layers, which must not be mapped."""
    analog = [each.layer.name for each in plan.all_layers()]
    for name, module in model.named_modules():
        is_analog = any(not each or name == each or name.startswith(f"{each}.") for each in analog)
        if is_analog or type(module).__name__ in _TABLES:
            continue
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            return True
    return False


def _note_folding(model: Any, notes: _Notes) -> None:  # noqa: ANN401 - a torch module
    for name, module in model.named_modules():
        if type(module).__name__.startswith("BatchNorm"):
            notes.of_model(
                f"layer '{name}': torch's exporter folds a {type(module).__name__} into the weights of the "
                "layer before it, which are then not those of its tiles; export with optimize=False"
            )
            return
