"""Plans which weight of a digital twin contains which tiles, so that the mapped twin has the tiles' conductances.

A layer without digital scales becomes one layer of torch if a granularity of tiles cuts its weight where the analog
tiles end. If its outputs are scaled, or the tiles end elsewhere, each piece of the inputs becomes a separate weight.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_gconv.integrations.aihwkit.layers import AnalogLayer, analog_layers
from onnx_gconv.schemes.granularity import Granularity, Partition

__all__ = ["LayerPlan", "Piece", "RecurrentPlan", "TwinPlan", "tile_limits", "twin_plan"]

_RECURRENT_CELLS = {"AnalogVanillaRNNCell": "RNN", "AnalogLSTMCell": "LSTM", "AnalogGRUCell": "GRU"}


@dataclass(frozen=True)
class Piece:
    """One weight of a twin, and the inputs of the analog layer that it multiplies.

    Attributes:
        parameter: The name of the weight in the twin.
        rows: Numbers of the first piece of the inputs in the weight, and of the piece after the last.
        start: The first channel, or feature, that the weight reads.
        channels: Number of channels, or features.
        before: Number of inputs of the first channel that are on another tile; their weights are 0 here.
        after: Number of inputs of the last channel that are on another tile; their weights are 0 here.
        tile: Inputs and outputs of a tile, for the granularity that cuts the weight where its tiles end; None for no
            limit.
        partition: How that granularity cuts the matrix.
    """

    parameter: str
    rows: tuple[int, int]
    start: int
    channels: int
    before: int
    after: int
    tile: tuple[int | None, int | None]
    partition: Partition


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """An analog layer, and its weights in the twin.

    Attributes:
        layer: The layer.
        pieces: The weights in the twin.
        is_plain: Whether the layer becomes one layer of torch; if not, it becomes a `TiledTwin`.
    """

    layer: AnalogLayer
    pieces: tuple[Piece, ...]
    is_plain: bool


@dataclass(frozen=True, eq=False)
class RecurrentPlan:
    """An AnalogRNN that becomes an RNN, LSTM or GRU of torch.

    Attributes:
        name: The name of the AnalogRNN in the model.
        module: The AnalogRNN.
        kind: ``RNN``, ``LSTM`` or ``GRU``.
        layers: The plans of its linear layers, by the names of torch's parameters, such as ``weight_ih_l0``.
    """

    name: str
    module: Any
    kind: str
    layers: Mapping[str, LayerPlan]


@dataclass(frozen=True, eq=False)
class TwinPlan:
    """The plan for all analog layers of a model.

    Attributes:
        layers: The layers that are replaced one by one.
        recurrent: The AnalogRNN modules that become one recurrent layer of torch.
        unrolled: The names of the AnalogRNN modules that keep their loop over the steps.
    """

    layers: tuple[LayerPlan, ...]
    recurrent: tuple[RecurrentPlan, ...]
    unrolled: tuple[str, ...]

    def all_layers(self) -> Iterator[LayerPlan]:
        """Yield all layers, including those of AnalogRNN modules."""
        yield from self.layers
        for each in self.recurrent:
            yield from each.layers.values()


def twin_plan(model: Any) -> TwinPlan:  # noqa: ANN401 - a torch module
    """Return the plan for the analog layers of a model.

    Raises:
        ModelError: If there is no analog layer, or one of them cannot be converted.
    """
    plans = {name: _layer_plan(layer) for name, layer in analog_layers(model).items()}
    recurrent, unrolled = [], []
    for name, module in model.named_modules():
        inner = [each for each in plans if not name or each.startswith(f"{name}.")]
        if not (inner and _is_recurrent(module)):
            continue
        plan = _recurrent_plan(name, module, plans)
        if plan is None:
            unrolled.append(name)
            continue
        recurrent.append(plan)
        for each in inner:
            del plans[each]
    return TwinPlan(tuple(plans.values()), tuple(recurrent), tuple(unrolled))


def tile_limits(layer: AnalogLayer) -> tuple[int | None, int | None]:
    """Return the largest number of inputs and of outputs of a tile, from the layer's settings; None for no limit."""
    mapping = getattr(layer.config, "mapping", None)
    most = (getattr(mapping, f"max_{what}_size", 0) for what in ("input", "output"))
    rows, columns = (int(each) if each > 0 else None for each in most)
    return rows, columns


def _layer_plan(layer: AnalogLayer) -> LayerPlan:
    prefix = f"{layer.name}." if layer.name else ""
    cut = _cut(layer) if layer.is_matrix_and_bias else None
    if cut is not None:
        channels = layer.inputs // layer.kernel
        whole = Piece(f"{prefix}weight", (0, len(layer.tiles)), 0, channels, 0, 0, *cut)
        return LayerPlan(layer, (whole,), is_plain=True)
    return LayerPlan(layer, tuple(_pieces(layer, prefix)), is_plain=False)


def _cut(layer: AnalogLayer) -> tuple[tuple[int | None, int | None], Partition] | None:
    """Return the tile and the partition that cut the whole weight where its tiles end; None if there are none."""
    limits = tile_limits(layer)
    if _starts(layer, limits, "equal") == (layer.input_starts, layer.output_starts):
        return limits, "equal"
    largest = _longest(layer.input_starts, layer.inputs), _longest(layer.output_starts, layer.outputs)
    if _starts(layer, largest, "max") == (layer.input_starts, layer.output_starts):
        return largest, "max"
    return None


def _starts(
    layer: AnalogLayer, tile: tuple[int | None, int | None], partition: Partition
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = (layer.inputs, layer.outputs)
    limits = [limit or size for limit, size in zip(tile, sizes, strict=True)]
    granularity = Granularity("tile", (limits[0], limits[1]), partition)
    return granularity.starts(sizes[0], limits[0]), granularity.starts(sizes[1], limits[1])


def _longest(starts: tuple[int, ...], size: int) -> int:
    return max(stop - start for start, stop in itertools.pairwise((*starts, size)))


def _pieces(layer: AnalogLayer, prefix: str) -> Iterator[Piece]:
    """Yield a weight for each piece of the inputs. If a tile ends inside a channel, two weights read that channel."""
    kernel = layer.kernel
    most_rows, most_columns = tile_limits(layer)
    columns = most_columns
    granularity = Granularity("tile", (1, columns or layer.outputs))
    if granularity.starts(layer.outputs, columns or layer.outputs) != layer.output_starts:
        columns = _longest(layer.output_starts, layer.outputs)
    for number, (start, stop) in enumerate(itertools.pairwise((*layer.input_starts, layer.inputs))):
        first, last = start // kernel, -(-stop // kernel)
        rows = (last - first) * kernel
        yield Piece(
            parameter=f"{prefix}pieces.{number}.weight",
            rows=(number, number + 1),
            start=first,
            channels=last - first,
            before=start - first * kernel,
            after=last * kernel - stop,
            tile=(None if most_rows is None else max(most_rows, rows), columns),
            partition="equal",
        )


def _is_recurrent(module: Any) -> bool:  # noqa: ANN401 - a torch module
    """Whether a module has the structure of an AnalogRNN."""
    return hasattr(module, "get_zero_state") and hasattr(getattr(module, "rnn", None), "layers")


def _recurrent_plan(name: str, module: Any, plans: Mapping[str, LayerPlan]) -> RecurrentPlan | None:  # noqa: ANN401
    """Return the plan of a recurrent layer of torch for an AnalogRNN.

    None if it has scales, cells or tiles that such a layer cannot have. Several tiles along the inputs are possible,
    but not along the outputs, because ONNX orders the gates differently from torch.
    """
    if type(module).__name__ != "AnalogRNN":  # a user's class may compute something else
        return None
    prefix = f"{name}." if name else ""
    kinds, layers = set(), {}
    for number, layer in enumerate(module.rnn.layers):
        directions = getattr(layer, "directions", None)
        for reverse, direction in enumerate([layer] if directions is None else directions):
            path = f"{prefix}rnn.layers.{number}." + (f"directions.{reverse}." if directions is not None else "")
            kinds.add(_RECURRENT_CELLS.get(type(direction.cell).__name__))
            for part in ("ih", "hh"):
                plan = plans.get(f"{path}cell.weight_{part}")
                if plan is None or not plan.is_plain or len(plan.layer.output_starts) > 1:
                    return None
                parameter = f"weight_{part}_l{number}{'_reverse' if reverse else ''}"
                layers[parameter] = _renamed(plan, f"{prefix}rnn.{parameter}")
    [kind] = kinds if len(kinds) == 1 else [None]
    has_bias = {plan.layer.bias is not None for plan in layers.values()}
    return None if kind is None or len(has_bias) > 1 else RecurrentPlan(name, module, kind, layers)


def _renamed(plan: LayerPlan, parameter: str) -> LayerPlan:
    [piece] = plan.pieces
    renamed = Piece(
        parameter, piece.rows, piece.start, piece.channels, piece.before, piece.after, piece.tile, piece.partition
    )
    return LayerPlan(plan.layer, (renamed,), is_plain=True)
