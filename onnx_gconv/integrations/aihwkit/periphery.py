"""The periphery of the tiles of an analog layer: converters of inputs and outputs, and errors of the products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from onnx_gconv.integrations.aihwkit.layers import AnalogLayer

__all__ = ["LayerPeriphery", "lost_settings", "periphery_of"]

# Errors of products that aihwkit simulates and the twin does not have, by names of `IOParameters`; 0 means no error.
_ERRORS = (
    "inp_noise",
    "inp_asymmetry",
    "out_noise",
    "out_asymmetry",
    "out_nonlinearity",
    "ir_drop",
    "r_series",
    "v_offset_std",
    "w_read_asymmetry_dtod",
)


@dataclass(frozen=True)
class LayerPeriphery:
    """The periphery with which an analog layer was trained. The exported twin has none of it; chip designers need it.

    Attributes:
        name: The name of the layer in the model.
        kind: The name of the layer's class.
        parameters: The names of the twin's weights that contain the layer's tiles.
        tiles: For each piece of the inputs, the sizes of its tiles, as (inputs, outputs).
        input_ranges: For each piece of the inputs, the |x| at which inputs are clipped; empty if no range was learned
            or given. If tiles of one piece have different ranges, the largest.
        dac_steps: Number of steps between -`dac_bound` and +`dac_bound` to which inputs are rounded; None for no
            rounding.
        dac_bits: The bits of such a converter, whose codes are symmetric around 0: log2(steps + 2).
        dac_bound: The bound at which inputs are clipped, after division by the input range or by the factor of noise
            management; None for no bound.
        adc_steps: Number of steps between -`adc_bound` and +`adc_bound` to which outputs are rounded; None for no
            rounding.
        adc_bits: The bits of such a converter, like `dac_bits`.
        adc_bound: The bound at which outputs are clipped, in units of the weights on the tile; None for no bound.
        scales: For each piece of the inputs, the factors by which outputs of its tiles are multiplied digitally; empty
            for no factors.
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    tiles: tuple[tuple[tuple[int, int], ...], ...]
    input_ranges: tuple[float, ...]
    dac_steps: float | None
    dac_bits: float | None
    dac_bound: float | None
    adc_steps: float | None
    adc_bits: float | None
    adc_bound: float | None
    scales: tuple[tuple[float, ...], ...] = field(repr=False)


def periphery_of(layer: AnalogLayer, parameters: tuple[str, ...]) -> LayerPeriphery:
    """Return the periphery of a layer.

    Args:
        layer: The layer.
        parameters: The names of the twin's weights that contain the layer's tiles.
    """
    forward = None if _is_ideal(layer) else layer.config.forward
    dac_steps, adc_steps = (_steps(getattr(forward, name, 0)) for name in ("inp_res", "out_res"))
    return LayerPeriphery(
        name=layer.name,
        kind=layer.kind,
        parameters=parameters,
        tiles=tuple(tuple((each.weights.shape[1], each.weights.shape[0]) for each in row) for row in layer.tiles),
        input_ranges=_input_ranges(layer),
        dac_steps=dac_steps,
        dac_bits=_bits(dac_steps),
        dac_bound=_bound(getattr(forward, "inp_bound", 0)),
        adc_steps=adc_steps,
        adc_bits=_bits(adc_steps),
        adc_bound=_bound(getattr(forward, "out_bound", 0)),
        scales=_scales(layer),
    )


def lost_settings(layer: AnalogLayer, found: LayerPeriphery) -> Iterator[str]:
    """Yield a note for each part of the periphery that the outputs of the twin lack."""
    if found.input_ranges:
        yield "input ranges: the twin does not clip its inputs"
    for what, steps, bits, bound in (
        ("inputs (DAC)", found.dac_steps, found.dac_bits, found.dac_bound),
        ("outputs (ADC)", found.adc_steps, found.adc_bits, found.adc_bound),
    ):
        if steps is not None:
            yield f"{steps:g} steps of {what}, {bits:g} bits: the twin does not round them"
        if bound is not None:
            yield f"a bound of {bound:g} of {what}: the twin does not clip them"
    if not _is_ideal(layer):
        yield from _lost_of_products(layer.config.forward)
    modifier = getattr(layer.config, "modifier", None)
    if modifier is not None and modifier.enable_during_test:
        yield f"modifier {modifier.type.name} with enable_during_test: the twin has the weights without it"
    quantized = getattr(getattr(layer.config, "pre_post", None), "periph_quant", None)
    if quantized is not None and quantized.n_bits > 0:
        yield f"scales and bias quantized to {quantized.n_bits} bits: the twin has them as they are"
    activations = getattr(layer.config, "act_quant_config", None)
    if activations is not None and activations.n_bits > 0:
        yield f"outputs quantized to {activations.n_bits} bits: the twin does not quantize them"


def _lost_of_products(forward: Any) -> Iterator[str]:  # noqa: ANN401 - aihwkit's IOParameters
    for name in _ERRORS:
        if (value := getattr(forward, name, 0.0)) > 0:
            yield f"{name} = {value:g}: products of the twin have no such error"
    weight_noise = getattr(forward, "w_noise_type", None)
    if weight_noise is not None and weight_noise.name != "NONE" and forward.w_noise > 0:
        yield f"w_noise = {forward.w_noise:g} ({weight_noise.name}): products of the twin have no such error"
    if (scale := getattr(forward, "out_scale", 1.0)) != 1:
        yield f"out_scale = {scale:g}: outputs of the twin are not multiplied by it"
    for name in ("noise_management", "bound_management"):
        kind = getattr(forward, name, None)
        if kind is not None and kind.name != "NONE":
            yield f"{name} {kind.name}: the twin needs none, as it does not round or clip"
    kind = getattr(forward, "mv_type", None)
    if kind is not None and kind.name != "ONE_PASS":
        yield f"mv_type {kind.name}: the twin multiplies in one pass"


def _is_ideal(layer: AnalogLayer) -> bool:
    """Whether products are computed without converters and errors."""
    forward = getattr(layer.config, "forward", None)
    return (
        forward is None
        or getattr(forward, "is_perfect", False)
        or getattr(getattr(forward, "mv_type", None), "name", "") == "IDEAL"
    )


def _input_ranges(layer: AnalogLayer) -> tuple[float, ...]:
    ranges: list[list[float]] = []
    for number, row in enumerate(layer.tiles):
        of_row = []
        for tile in row:
            if (given := getattr(tile.source, "input_range", None)) is not None:
                flat = given.detach().reshape(-1)
                of_row.append(float(flat[number if tile.source is layer.module else 0]))
        ranges.append(of_row)
    return tuple(max(of_row) for of_row in ranges) if all(ranges) else ()


def _scales(layer: AnalogLayer) -> tuple[tuple[float, ...], ...]:
    if not layer.is_scaled:
        return ()
    return tuple(
        tuple(
            scale
            for tile in row
            for scale in ([1.0] * tile.weights.shape[0] if tile.scales is None else tile.scales.tolist())
        )
        for row in layer.tiles
    )


def _steps(resolution: float) -> float | None:
    """Return the number of steps of a converter, which aihwkit gives as n or 1 / n; None for no rounding."""
    if resolution <= 0:
        return None
    steps = resolution if resolution > 1 else 1 / resolution
    return float(round(steps)) if math.isclose(steps, round(steps), rel_tol=1e-9) else float(steps)


def _bits(steps: float | None) -> float | None:
    return None if steps is None else math.log2(steps + 2)


def _bound(bound: float) -> float | None:
    return float(bound) if 0 < bound < math.inf else None
