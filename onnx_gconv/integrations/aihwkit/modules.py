"""The torch modules of digital twins whose computation no single layer of torch has.

This module needs torch, so it is imported only when a twin is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["RecurrentState", "RecurrentTwin", "TiledTwin"]


class RecurrentState(NamedTuple):
    """The state of a layer in one direction, [batch, features].

    Attributes:
        hx: The output of the last step, [batch, features].
        cx: The cell state of an LSTM, [batch, features]; None for other layers.
    """

    hx: Tensor
    cx: Tensor | None


_State: TypeAlias = Any  # a tensor or a RecurrentState; a list of two of them for a bidirectional layer


class TiledTwin(nn.Module):
    """A layer whose tiles have digital scales: ``y = sum_i scale_i * (W_i @ x_i) + bias``.

    The weight W_i of each piece is the weight that the devices of the tiles stand for, and the scales stay a digital
    multiplication, as on the chip. If weights were multiplied by scales, they would be rounded once more, and the
    conductances would not be those of the tiles.

    Args:
        pieces: A linear layer or a convolution without bias for each piece of the inputs.
        ranges: First index and length of each piece: in features, or in channels.
        scales: For each piece, the factors of the outputs, [outputs]; None for no factors.
        bias: The bias, [outputs]; None for no bias.
        spatial: Number of axes of outputs after the axis of channels; 0 for linear layers.
    """

    def __init__(
        self,
        pieces: Sequence[nn.Module],
        ranges: Sequence[tuple[int, int]],
        scales: Sequence[Tensor | None],
        bias: Tensor | None,
        spatial: int,
    ) -> None:
        super().__init__()
        self.pieces: nn.ModuleList = nn.ModuleList(pieces)
        self.ranges: list[tuple[int, int]] = list(ranges)
        self.spatial = spatial
        for number, scale in enumerate(scales):
            self.register_buffer(f"scale_{number}", None if scale is None else self._along_channels(scale))
        self.bias: nn.Parameter | None = None if bias is None else nn.Parameter(self._along_channels(bias))

    def _along_channels(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * self.spatial).clone()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum of the scaled outputs of all pieces, plus the bias."""
        axis = -1 - self.spatial
        result: Tensor | None = None
        for number, (piece, (start, length)) in enumerate(zip(self.pieces, self.ranges, strict=True)):
            part = inputs if length == inputs.shape[axis] else inputs.narrow(axis, start, length)
            output = piece(part)
            scale = getattr(self, f"scale_{number}")
            output = output if scale is None else output * scale
            result = output if result is None else result + output
        assert result is not None  # noqa: S101 - there is a piece
        return result if self.bias is None else result + self.bias


class RecurrentTwin(nn.Module):
    """A recurrent layer of torch that is called like AnalogRNN: with a list of states, one for each layer.

    Args:
        rnn: The layer, with one direction or two.
        in_pairs: Whether states are `RecurrentState` instead of tensors.
    """

    def __init__(self, rnn: nn.RNN | nn.LSTM | nn.GRU, *, in_pairs: bool) -> None:
        super().__init__()
        self.rnn = rnn
        self.in_pairs = in_pairs

    def get_zero_state(self, batch_size: int) -> list[_State]:
        """Return states of zeros, one for each layer."""
        rnn = self.rnn
        shape = (rnn.num_layers * self._directions, batch_size, rnn.hidden_size)
        weight = next(rnn.parameters())
        zeros = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        return self._listed((zeros, zeros) if isinstance(rnn, nn.LSTM) else zeros)

    def forward(self, inputs: Tensor, states: list[_State] | None = None) -> tuple[Tensor, list[_State]]:
        """Return the outputs, [steps, batch, features], and the state of each layer after the last step."""
        output, last = self.rnn(inputs, None if states is None else self._stacked(states))
        return output, self._listed(last)

    @property
    def _directions(self) -> int:
        return 2 if self.rnn.bidirectional else 1

    def _stacked(self, states: list[_State]) -> _State:
        """Return a list of states in the form that torch's layers take."""
        flat = [each for state in states for each in state] if self._directions > 1 else list(states)
        if not self.in_pairs:
            return torch.stack(flat)
        hidden = torch.stack([each for each, _ in flat])
        return (hidden, torch.stack([cell for _, cell in flat])) if isinstance(self.rnn, nn.LSTM) else hidden

    def _listed(self, stacked: _State) -> list[_State]:
        """The inverse of `_stacked`."""
        flat: list[_State]
        if isinstance(self.rnn, nn.LSTM):
            flat = [RecurrentState(hidden, cell) for hidden, cell in zip(*stacked, strict=True)]
        else:
            flat = [RecurrentState(hidden, None) if self.in_pairs else hidden for hidden in stacked]
        if self._directions == 1:
            return flat
        return [flat[place : place + 2] for place in range(0, len(flat), 2)]
