"""The analog layers of a model of aihwkit or aihwkit-lightning, read by their attributes.

aihwkit (1.1.0) keeps the weights of a layer on tiles: one tile (`analog_module`), or an array of tiles
(`analog_module.array`; `array` itself in convolutions that are cut between channels). The outputs of a tile are
multiplied by digital scales, one for the tile or one for each output. In aihwkit-lightning (2.1) a layer has an
ordinary weight, which `in_sizes` cuts into tiles.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_gconv.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AnalogLayer", "Tile", "analog_layers", "layer_of", "shown_name"]


@dataclass(frozen=True, eq=False)
class Tile:
    """One crossbar array of a layer.

    Attributes:
        weights: The weights that its devices stand for, [outputs, inputs], without noise and drift.
        scales: The factors by which its outputs are multiplied digitally, [outputs]; None for no factors.
        column: The bias column of the tile, [outputs]; None if the bias is digital.
        source: aihwkit's tile; for aihwkit-lightning, the layer itself.
    """

    weights: Tensor
    scales: Tensor | None
    column: Tensor | None
    source: Any


@dataclass(frozen=True, eq=False)
class AnalogLayer:
    """An analog linear layer or convolution.

    Attributes:
        name: The name of the layer in the model; empty if the model itself is the layer.
        module: The layer.
        config: Its `rpu_config`.
        tiles: Its tiles: for each piece of the inputs, a tile for each piece of the outputs.
        bias: The bias, [outputs]; None for no bias. Both a digital bias and the bias column of a tile are part of it.
    """

    name: str
    module: Any
    config: Any
    tiles: tuple[tuple[Tile, ...], ...]
    bias: Tensor | None

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return type(self.module).__name__

    @property
    def is_lightning(self) -> bool:
        """Whether the layer is from aihwkit-lightning."""
        return self.tiles[0][0].source is self.module

    @property
    def axes(self) -> int:
        """Number of spatial axes of a convolution; 0 for a linear layer."""
        if not hasattr(self.module, "kernel_size"):
            return 0
        # `tensor_view` is the shape of a bias for broadcasting: one axis for channels, one for each spatial axis. It is
        # preferred, because the kernel of a Conv1d in aihwkit-lightning has two axes.
        view = getattr(self.module, "tensor_view", None)
        return len(self.module.kernel_size) if view is None else len(view) - 1

    @property
    def kernel(self) -> int:
        """Number of inputs of one channel: the elements of a convolution's kernel; 1 for a linear layer."""
        return math.prod(self.module.kernel_size) if self.axes else 1

    @property
    def input_starts(self) -> tuple[int, ...]:
        """The input at which each piece of the inputs begins."""
        return _starts(row[0].weights.shape[1] for row in self.tiles)

    @property
    def output_starts(self) -> tuple[int, ...]:
        """The output at which each piece of the outputs begins."""
        return _starts(tile.weights.shape[0] for tile in self.tiles[0])

    @property
    def inputs(self) -> int:
        """Number of inputs; for a convolution, channels times elements of a kernel."""
        return sum(row[0].weights.shape[1] for row in self.tiles)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return sum(tile.weights.shape[0] for tile in self.tiles[0])

    @property
    def is_matrix_and_bias(self) -> bool:
        """Whether the layer computes a product with one matrix plus a bias, without digital scales, in one type.

        aihwkit keeps the bias of an array of tiles in float32, whatever the type of the tiles.
        """
        is_one_type = self.bias is None or self.bias.dtype == self.tiles[0][0].weights.dtype
        return is_one_type and not self.is_scaled

    @property
    def is_scaled(self) -> bool:
        """Whether any tile has digital scales."""
        return any(tile.scales is not None for row in self.tiles for tile in row)


def analog_layers(model: Any) -> dict[str, AnalogLayer]:  # noqa: ANN401 - a torch module
    """Return the analog layers of a model by name, in the order in which the model registers them.

    Raises:
        ModelError: If there is none, or the model has an analog layer of an unknown kind.
    """
    if not hasattr(model, "named_modules"):
        raise ModelError(f"a model of aihwkit is a torch module, but not a {type(model).__name__}; give the model")
    found: dict[str, AnalogLayer] = {}
    known: list[str] = []
    for name, module in model.named_modules():
        if any(not outer or name.startswith(f"{outer}.") for outer in known):
            continue
        if (layer := layer_of(name, module)) is not None:
            found[name] = layer
            known.append(name)
        elif _is_unknown(module):
            raise ModelError(
                f"the analog layer {shown_name(name)} is a {type(module).__name__}, which has no counterpart in torch: "
                "linear layers, convolutions and AnalogRNN can be turned; replace the layer, or leave it digital"
            )
    if not found:
        raise ModelError(
            f"the {type(model).__name__} has no analog layers; give a model that convert_to_analog of aihwkit or "
            "aihwkit-lightning has made"
        )
    return found


def layer_of(name: str, module: Any) -> AnalogLayer | None:  # noqa: ANN401 - a torch module
    """Return a module as an analog layer; None if it is none of a known kind."""
    is_linear = hasattr(module, "in_features") and hasattr(module, "out_features")
    is_convolution = hasattr(module, "kernel_size") and not getattr(module, "transposed", False)
    if not (is_linear or is_convolution):
        return None
    if hasattr(module, "rpu_config") and hasattr(module, "in_sizes") and getattr(module, "weight", None) is not None:
        return _lightning_layer(name, module)
    holder = getattr(module, "analog_module", module)
    if hasattr(holder, "array"):
        rows = [[_tile(tile) for tile in row] for row in holder.array]
        bias = holder.bias
    elif _is_tile(holder):
        rows = [[_tile(holder)]]
        bias = holder.bias if holder.digital_bias else _analog_bias(rows[0][0])
    else:
        return None
    if not _has_forward_of(module, "aihwkit"):
        raise _foreign_forward(name, module)
    return AnalogLayer(
        name,
        module,
        rows[0][0].source.rpu_config,
        tuple(map(tuple, rows)),
        None if bias is None else bias.detach().clone(),
    )


def shown_name(name: str) -> str:
    """Return the name of a layer in messages."""
    return f"'{name}'" if name else "(the model itself)"


def _has_forward_of(module: Any, package: str) -> bool:  # noqa: ANN401 - a torch module
    """Whether the `forward` of a layer is that of a package, not one that the user has written."""
    origin: str = type(module).forward.__module__
    return origin.partition(".")[0] == package


def _foreign_forward(name: str, module: Any) -> ModelError:  # noqa: ANN401 - a torch module
    return ModelError(
        f"the analog layer {shown_name(name)} is a {type(module).__name__}, which overrides forward; have it call a "
        "layer of aihwkit instead of being one"
    )


def _is_tile(module: Any) -> bool:  # noqa: ANN401 - a torch module
    return all(hasattr(module, attribute) for attribute in ("tile", "get_scales", "rpu_config"))


def _is_unknown(module: Any) -> bool:  # noqa: ANN401 - a torch module
    """Whether a module of an unknown kind has weights on tiles, or is marked as an analog layer."""
    return _is_tile(module) or getattr(module, "IS_CONTAINER", None) is False


def _tile(tile: Any) -> Tile:  # noqa: ANN401 - of aihwkit
    # After programming, the tile's weights have noise, and `reference_combined_weights` has the target weights.
    reference = tile.reference_combined_weights
    combined = (tile.tile.get_weights() if reference is None else reference).detach().to(tile.device)
    column = None
    if tile.analog_bias:
        combined, column = combined[:, :-1], combined[:, -1]
    scales = tile.get_scales()
    if scales is not None:
        scales = scales.detach().reshape(-1).to(combined.device).expand(combined.shape[0])
        scales = None if bool((scales == 1).all()) else scales
    return Tile(combined, scales, column, tile)


def _analog_bias(tile: Tile) -> Tensor | None:
    if tile.column is None or tile.scales is None:
        return tile.column
    return tile.column * tile.scales


def _lightning_layer(name: str, module: Any) -> AnalogLayer:  # noqa: ANN401 - of aihwkit-lightning
    if not _has_forward_of(module, "aihwkit_lightning"):
        raise _foreign_forward(name, module)
    weight = _effective_weight(module).reshape(module.weight.shape[0], -1)
    ends = list(itertools.accumulate(module.in_sizes))
    bias = module.bias
    return AnalogLayer(
        name,
        module,
        module.rpu_config,
        tuple(
            (Tile(weight[:, end - size : end], None, None, module),)
            for size, end in zip(module.in_sizes, ends, strict=True)
        ),
        None if bias is None else bias.detach().clone(),
    )


def _effective_weight(module: Any) -> Tensor:  # noqa: ANN401 - of aihwkit-lightning
    """Return the weight with which a layer computes: clipped to learned ranges and quantized, if trained that way."""
    config = module.rpu_config
    weight: Tensor = module.weight
    if config.modifier.quantization_type.name == "NONE" and config.clip.type.name != "LEARNABLE_PER_CHANNEL":
        return weight.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it changes the layer's settings, but this layer is a copy
        quantized = copy.deepcopy(module)
        quantized.quantize_weights()
    weight = quantized.weight
    return weight.detach()


def _starts(sizes: Iterator[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(sizes, initial=0))[:-1]
