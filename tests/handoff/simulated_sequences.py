"""Recurrent ops, attention and experts whose products are computed by tiles, in NumPy."""

from __future__ import annotations

import numpy as np

from tests.handoff.rounded import Rounded
from tests.handoff.simulated_products import Operands, quantized

ONE = Rounded.exact(1.0)


class Gates:
    """The products ``x @ W`` and ``h @ R`` of one direction, with the gates side by side, and the biases."""

    def __init__(self, o: Operands, direction: int, count: int) -> None:
        self._o, self.direction, self._count = o, direction, count
        self._biases = [self._bias(slot)[place] for place, slot in enumerate((1, 2))]
        self.hidden_size = o.attributes["hidden_size"]

    def of_inputs(self, x: Rounded) -> list[list[Rounded]]:
        """For each step W's share of all gates, with its bias, of [steps, batch, inputs]."""
        y = self._product(1, x.reshape(-1, x.shape[-1])) + self._biases[0]
        y = y.reshape(*x.shape[:2], -1)
        return [self._split(y[step]) for step in range(x.shape[0])]

    def of_state(self, h: Rounded) -> list[Rounded]:
        """R's share of all gates, with its bias."""
        return self._split(self._product(2, h) + self._biases[1])

    def _bias(self, slot: int) -> tuple[Rounded, Rounded]:
        """What is added to the products of W, and of R: the manifest names both halves for either weight."""
        found = self._o.bias(slot)
        if found is None:
            return Rounded.exact(0), Rounded.exact(0)
        own = found[self.direction]
        return own[: own.shape[0] // 2], own[own.shape[0] // 2 :]

    def _split(self, y: Rounded) -> list[Rounded]:
        width = self.hidden_size
        return [y[:, place * width : (place + 1) * width] for place in range(self._count)]

    def _product(self, slot: int, x: Rounded) -> Rounded:
        return self._o.layers[slot].product(x, self.direction)


class QuantizedGates(Gates):
    """Those of DynamicQuantizeLSTM: activations are quantized as they come, those of all steps together."""

    def _product(self, slot: int, x: Rounded) -> Rounded:
        codes, scale = quantized(x)
        first = 8 if slot == 1 else 10
        scales, zeros = (self._o.array(first + place)[self.direction] for place in range(2))
        y = super()._product(slot, codes).value
        y -= zeros.astype(np.float64) * codes.value.sum(axis=1, keepdims=True)
        return Rounded.exact(y) * (scale * Rounded.exact(scales))


def lstm_cell(w: list[Rounded], gates: Gates, states: list[Rounded], o: Operands) -> list[Rounded]:
    h, c = states
    i, out, f, g = (a + b for a, b in zip(w, gates.of_state(h), strict=True))
    peepholes = o.array(7)
    if peepholes is None:
        p_i = p_o = p_f = Rounded.exact(np.zeros(gates.hidden_size))
    else:
        p_i, p_o, p_f = (Rounded.exact(part) for part in np.split(peepholes[gates.direction], 3))
    c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
    return [(out + p_o * c).sigmoid() * c.tanh(), c]


def gru_cell(w: list[Rounded], gates: Gates, states: list[Rounded], o: Operands) -> list[Rounded]:
    [h] = states
    from_state = gates.of_state(h)
    z, r = ((a + b).sigmoid() for a, b in zip(w[:2], from_state[:2], strict=True))
    # Else the reset gate comes before R: the arrays of R are driven twice in a step.
    last = r * from_state[2] if o.attribute("linear_before_reset", 0) else gates.of_state(r * h)[2]
    return [(ONE - z) * (w[2] + last).tanh() + z * h]


def rnn_cell(w: list[Rounded], gates: Gates, states: list[Rounded], o: Operands) -> list[Rounded]:
    [h] = states
    return [(w[0] + gates.of_state(h)[0]).tanh()]


def recurrent(count: int, cell, initial: tuple[int, ...], gates_type: type[Gates] = Gates):
    """A recurrent op of so many gates: Y [steps, directions, batch, hidden], then the last of each state."""

    def op(o: Operands) -> list[Rounded]:
        x, direction = o.value(0), o.attribute("direction", "forward")
        orders = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}[direction]
        outputs, lasts = [], []
        for number, order in enumerate(orders):
            gates = gates_type(o, number, count)
            zeros = Rounded.exact(np.zeros((x.shape[1], gates.hidden_size)))
            states = [zeros if (start := o.value(slot)) is None else start[number] for slot in initial]
            found = []
            for w in gates.of_inputs(x[::order]):
                states = cell(w, gates, states, o)
                found.append(states[0])
            outputs.append(Rounded.stack(found[::order]))
            lasts.append(states)
        return [Rounded.stack(outputs, axis=1), *(Rounded.stack(part) for part in zip(*lasts, strict=True))]

    return op


def attention_of(o: Operands, qkv: Rounded) -> Rounded:
    """softmax(Q K' / sqrt(d)) V for each head, of [batch, steps, 3 hidden]."""
    heads, (batch, steps, width) = o.attributes["num_heads"], qkv.shape
    q, k, v = (
        qkv[:, :, place * width // 3 : (place + 1) * width // 3].reshape(batch, steps, heads, -1).transpose(0, 2, 1, 3)
        for place in range(3)
    )
    root = Rounded.exact(1 / np.sqrt(q.shape[-1]))
    found = ((q @ k.transpose(0, 1, 3, 2)) * root).softmax() @ v
    return found.transpose(0, 2, 1, 3).reshape(batch, steps, -1)


def attention(o: Operands) -> list[Rounded]:
    x = o.value(0)
    y = o.layer.product(x.reshape(-1, x.shape[-1])) + o.bias()
    return [attention_of(o, y.reshape(*x.shape[:2], -1))]


def quantized_attention(o: Operands) -> list[Rounded]:
    x = o.shifted(0, 6)
    x = x.reshape(-1, x.shape[-1])
    codes = o.layer.product(x).value
    if (zero := o.array(7)) is not None:
        codes = codes - zero.astype(np.float64) * x.value.sum(axis=1, keepdims=True)
    y = Rounded.exact(codes) * (o.value(3) * o.value(4)) + o.bias()
    return [attention_of(o, y.reshape(*o.array(0).shape[:2], -1))]


def experts(o: Operands) -> list[Rounded]:
    """One expert for each token: that of the largest router probability, which counts as after softmax."""
    x, router = o.value(0), o.value(1)
    chosen, share = router.value.argmax(-1), router.softmax()
    rows = []
    for token, expert in enumerate(chosen):
        inner = (o.layers[2].product(x[token : token + 1], expert) + o.bias(2)[expert]).relu()
        y = o.layers[4].product(inner, expert) + o.bias(4)[expert]
        rows.append(y[0] * share[token, expert])
    return [Rounded.stack(rows)]
