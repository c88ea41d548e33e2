"""Arrays of tiles are the parts of the stored matrices, however long they are kept and wherever their memory was."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnx_gconv import converters
from onnx_gconv.crossbars import tile_arrays as tiles_of_layers
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tile_arrays import tile_arrays
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.devices.recycled_memory import RecycledMemory
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.tensors.streamed import worker_count

PAIRS = converters.NPairConductanceConverter([1, 3])


def layers(parse, normal, folder, shapes, **options):
    """The layers of a model whose weights are in a data file, on arrays of 3 x 5."""
    names = [f"W{number}" for number in range(len(shapes))]
    steps = " ".join(f"{name}.y = MatMul(x{number}, {name})" for number, name in enumerate(names))
    inputs = ", ".join(f"float[2,{rows}] x{number}" for number, (rows, _) in enumerate(shapes))
    outputs = ", ".join(f"float {name}.y" for name in names)
    weights = {
        name: normal(*shape, seed=number) for number, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }
    model = parse(f"g ({inputs}) => ({outputs}) {{ {steps} }}".replace(".y", "_y"), **weights)
    MapConductances(**options)(model)
    save_model(model, folder / "mapped.onnx", external_data=True)
    return layers_of(load_model(folder / "mapped.onnx"), ArrayGeometry(3, 5), None)


def parts(layer, arrays, stored):
    """The parts of the stored matrices that the arrays of a tile should be."""
    (top, bottom), (left, right) = arrays.tile.inputs, arrays.tile.outputs
    return [tensor.numpy()[top:bottom, left:right] for tensor in stored(layer)]


@pytest.mark.parametrize(
    "options", [{}, {"converter": PAIRS}, {"levels": 5, "storage": "codes"}, {"levels": 300, "storage": "codes"}]
)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("cells", [1, 40, 1 << 21])
def test_arrays_are_parts_of_the_stored_matrices(parse, normal, tmp_path, monkeypatch, options, kept, cells):
    monkeypatch.setattr(tiles_of_layers, "_BLOCK_CELLS", cells)
    memory, found = RecycledMemory(), 0
    with ThreadPoolExecutor(2) as executor:
        for layer in layers(parse, normal, tmp_path, [(7, 13), (3, 1), (20, 6)], **options):
            arriving = tile_arrays(layer, executor, memory)
            for arrays in list(arriving) if kept else arriving:
                found += 1
                if arrays.codes is not None:
                    for mine, expected in zip(
                        arrays.codes, parts(layer, arrays, lambda layer: layer.mapped.stored_tensors), strict=True
                    ):
                        np.testing.assert_array_equal(mine, expected)
                for mine, expected in zip(
                    arrays.conductances, parts(layer, arrays, lambda layer: layer.mapped.tensors), strict=True
                ):
                    np.testing.assert_array_equal(mine, expected)
                    assert mine.flags.c_contiguous
                    assert mine.flags.aligned
                every = (*arrays.conductances, *(arrays.codes or ()))
                assert arrays.digests == tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in every)
    assert found == 9 + 1 + 14


def test_a_caller_that_drops_each_tile_needs_the_memory_of_two_blocks(parse, normal, tmp_path, monkeypatch):
    monkeypatch.setattr(tiles_of_layers, "_BLOCK_CELLS", 40)
    memory = RecycledMemory()
    with ThreadPoolExecutor(2) as executor:
        for layer in layers(parse, normal, tmp_path, [(20, 25), (25, 20)]):
            for arrays in tile_arrays(layer, executor, memory):
                del arrays
    assert len(memory._pieces) <= max(worker_count(), 2)


def test_memory_is_used_again_once_nothing_refers_to_it():
    memory = RecycledMemory()
    first = memory.empty(100)
    second = memory.empty(50)
    address = first.ctypes.data
    row = first.view(np.float32)[3:5]
    del first
    assert memory.empty(60).ctypes.data not in {address, second.ctypes.data}  # a view is left of the first
    del row
    assert memory.empty(80).ctypes.data == address
    assert memory.empty(1000).size == 1000
    assert second.size == 50
