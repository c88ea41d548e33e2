"""Reads NeuroSim's files by the rules of its program, number by number."""

from __future__ import annotations

import numpy as np


def code_of(text, bits):
    """The code of a weight, by the arithmetic of ``LoadInWeightData``."""
    newdata = (2.0**bits - 0) / (1 - -1) * (float(text) - 1) + 2.0**bits
    newdata += 0.5 if newdata >= 0 else -0.5
    return int(newdata)


def cells_of(code, bits, cell_bits):
    """The digits of the cells of a weight, the most significant first, and what they hold together."""
    count, digits = -(-bits // cell_bits), []
    for _ in range(count):
        digits.insert(0, code % 2**cell_bits)
        code //= 2**cell_bits
    return digits, sum(digit << cell_bits * place for place, digit in enumerate(reversed(digits)))


def weights_read(path, bits, cell_bits=4):
    """What the cells of all weights hold, [inputs, outputs]."""
    lines = path.read_text().splitlines()
    return np.array([[cells_of(code_of(text, bits), bits, cell_bits)[1] for text in line.split(",")] for line in lines])


def codes_that_should_be(weights, bits, largest=None):
    """The codes of weights, the largest of which are to stand for ``2^bits - 1``."""
    largest = np.abs(weights).max() if largest is None else largest
    scaled = np.clip(weights.astype(np.float64) / largest, -1, 1)
    return np.minimum(np.floor(2 ** (bits - 1) * (scaled - 1) + 2**bits + 0.5), 2**bits - 1).astype(int)


def network_read(path):
    return [[int(number) for number in line.split(",")] for line in path.read_text().splitlines()]


def vectors_read(line):
    """How many vectors NeuroSim reads of the file of what arrives at a layer (``numInVector``)."""
    height, width, _, kernel_height, kernel_width, _, _, stride = line
    return int((height - kernel_height + 1) / stride * (width - kernel_width + 1) / stride)


def traces_read(path, bits):
    """The integers that V1.4 takes for what arrives, [inputs, positions]."""
    digits = np.array([line.split(",") for line in path.read_text().splitlines()], dtype=int)
    assert set(np.unique(digits)) <= {0, 1}
    digits = digits.reshape(len(digits), -1, bits)
    worth = 2 ** np.arange(bits - 1, -1, -1)
    worth[0] *= -1
    return digits @ worth


def command_of(path):
    """The arguments of a command: the network, numbers, and a weight file and an input file of each layer."""
    *_, line = path.read_text().splitlines()
    network, *rest = line.split()[2:]
    numbers, files = [int(text) for text in rest[:4]], rest[4:]
    return network, numbers, list(zip(files[::2], files[1::2], strict=True))
