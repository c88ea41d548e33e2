"""Replaces the analog layers of a model by layers of torch, which can be exported."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from onnx_gconv.integrations.aihwkit.twin_plan import LayerPlan, Piece, RecurrentPlan, twin_plan

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["to_digital"]


def to_digital(analog_model: nn.Module) -> nn.Module:
    """Return a copy of a model of aihwkit or aihwkit-lightning with layers of torch instead of its analog layers.

    The copy computes what the analog model computes with a perfect forward pass: with the trained weights, digital
    scales and biases, and without noise, drift, and converters of inputs and outputs. The model itself is not changed.
    The names of modules, shared modules, and the mode (training or evaluation) stay the same.

    - `AnalogLinear` and `AnalogConv1d` to `3d`, and their ``Mapped`` variants, become `Linear` and `Conv1d` to `Conv3d`
      if their tiles have no digital scales. If they have, they become modules that multiply outputs by the scales, as
      the chip does, with a layer of torch for each piece of the inputs on separate tiles. The weights, and the
      conductances they are mapped to, are then those of the tiles.
    - `AnalogRNN` becomes an `RNN`, `LSTM` or `GRU` with the same call, if it has cells of that kind and its tiles have
      no scales and contain all outputs of their layer. If not, it keeps its loop, which is exported step by step.
    - `AnalogSequential` and `AnalogWrapper` become the classes that they were before the conversion to analog.

    For a model that was programmed, the weights are the targets of its devices.

    Args:
        analog_model: The model.

    Returns:
        The copy, on the same device.

    Raises:
        ModelError: If it has no analog layer, or one that cannot be converted; the message names the layer and its
            class.
    """
    plan = twin_plan(analog_model)
    # `deepcopy` replaces objects by their entry in its memo, so each reference to a layer becomes one to its twin.
    twins: dict[int, Any] = {id(each.layer.module): _layer(each) for each in plan.layers}
    twins |= {id(each.module): _recurrent(each) for each in plan.recurrent}
    twin: nn.Module = copy.deepcopy(analog_model, twins)
    for module in twin.modules():
        _make_plain(module)
    return twin


def _make_plain(module: nn.Module) -> None:
    """Give a container of aihwkit the class that it had before the conversion to analog."""
    from torch import nn

    kind = type(module)
    if hasattr(kind, "SUBCLASSES"):  # AnalogWrapper derives a class from itself and the module's class
        module.__class__ = kind.__bases__[1]
    elif kind.__name__ == "AnalogSequential" and isinstance(module, nn.Sequential):
        module.__class__ = nn.Sequential


def _layer(plan: LayerPlan) -> nn.Module:
    layer = plan.layer
    if plan.is_plain:
        twin = _torch_layer(plan, plan.pieces[0], layer.bias)
    else:
        from onnx_gconv.integrations.aihwkit.modules import TiledTwin

        twin = TiledTwin(
            [_torch_layer(plan, piece, None) for piece in plan.pieces],
            [(piece.start, piece.channels) for piece in plan.pieces],
            [_scales(plan, piece) for piece in plan.pieces],
            layer.bias,
            spatial=layer.axes,
        )
    return twin.train(layer.module.training)


def _torch_layer(plan: LayerPlan, piece: Piece, bias: Tensor | None) -> nn.Module:
    from torch import nn

    layer, module = plan.layer, plan.layer.module
    weight = _weight(plan, piece)
    # The device "meta" avoids drawing initial weights, which are replaced anyway.
    twin: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    if layer.axes:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[layer.axes - 1]
        kernel, stride, padding, dilation = (
            getattr(module, name)[-layer.axes :] for name in ("kernel_size", "stride", "padding", "dilation")
        )
        twin = kind(
            piece.channels, layer.outputs, kernel, stride, padding, dilation, bias=bias is not None, device="meta"
        )
        weight = weight.reshape(layer.outputs, piece.channels, *kernel)
    else:
        twin = nn.Linear(piece.channels, layer.outputs, bias=bias is not None, device="meta")
    twin.weight = nn.Parameter(weight)
    if bias is not None:
        twin.bias = nn.Parameter(bias.to(weight.device))
    return twin


def _weight(plan: LayerPlan, piece: Piece) -> Tensor:
    """Return the weights of the tiles of a piece, [outputs, inputs]."""
    import torch

    rows = plan.layer.tiles[slice(*piece.rows)]
    weight = torch.cat([torch.cat([tile.weights for tile in row]) for row in rows], dim=1)
    return torch.nn.functional.pad(weight, (piece.before, piece.after)) if piece.before or piece.after else weight


def _scales(plan: LayerPlan, piece: Piece) -> Tensor | None:
    """Return the digital scales of the outputs of a piece, [outputs]; None for no scales."""
    import torch

    [row] = plan.layer.tiles[slice(*piece.rows)]
    if all(tile.scales is None for tile in row):
        return None
    return torch.cat([torch.ones_like(tile.weights[:, 0]) if tile.scales is None else tile.scales for tile in row])


def _recurrent(plan: RecurrentPlan) -> nn.Module:
    from torch import nn

    from onnx_gconv.integrations.aihwkit.modules import RecurrentTwin

    first, hidden = plan.layers["weight_ih_l0"].layer, plan.layers["weight_hh_l0"].layer
    dropout = plan.module.rnn.dropout_layer
    kinds: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
    twin = kinds[plan.kind](
        first.inputs,
        hidden.inputs,
        len(plan.module.rnn.layers),
        bias=first.bias is not None,
        dropout=0.0 if dropout is None else dropout.p,
        bidirectional="weight_ih_l0_reverse" in plan.layers,
        device="meta",
    )
    for parameter, each in plan.layers.items():
        weight = _weight(each, each.pieces[0])
        setattr(twin, parameter, nn.Parameter(weight))
        if each.layer.bias is not None:
            bias = nn.Parameter(each.layer.bias.to(weight.device))
            setattr(twin, parameter.replace("weight", "bias"), bias)
    return RecurrentTwin(twin, in_pairs=first.is_lightning or plan.kind == "LSTM").train(plan.module.training)
