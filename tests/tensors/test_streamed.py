"""Tensors are read chunk by chunk from wherever they lie, and external data only from where it is safe."""

from __future__ import annotations

import io
import mmap
import os
import re
import tracemalloc
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors import streamed as streamed_tensor
from onnx_gconv.tensors.external import attribute_tensors, check_external_tensor, external_files, external_tensors
from onnx_gconv.tensors.streamed import StreamedTensor, all_elements, element_chunks

DTYPES = {
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "float32": ir.DataType.FLOAT,
    "float64": ir.DataType.DOUBLE,
}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 elements, so that tiny tensors have several."""
    monkeypatch.setattr(streamed_tensor, "CHUNK_ELEMENTS", 8)


def numbers(size, dtype="float32"):
    return np.random.default_rng(size).normal(size=size).astype(DTYPES[dtype].numpy())


def external(path, array, *, offset=0, location=None, length=None, name="W"):
    """A tensor whose data lies in a file at an offset; the file is written."""
    if array is not None:
        path.write_bytes(b"\xff" * offset + array.tobytes() + b"\xff" * 8)
    if array is None:
        shape, dtype = (4,), ir.DataType.FLOAT
    else:
        shape, dtype = array.shape, ir.DataType.from_numpy(array.dtype)
    return ir.ExternalTensor(
        path.name if location is None else location,
        offset,
        length,
        dtype,
        shape=ir.Shape(shape),
        name=name,
        base_dir=str(path.parent),
    )


def read(chunks):
    """All elements, each chunk copied while it is valid."""
    parts = [chunk.copy() for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty(0)


def tensor_of(kind, array, folder):
    """An array as one of the kinds of tensor that onnx-ir has for whole numbers of bytes."""
    dtype = ir.DataType.from_numpy(array.dtype)
    match kind:
        case "array":
            return ir.Tensor(array, name="W")
        case "lazy":
            return ir.LazyTensor(lambda: ir.Tensor(array), dtype=dtype, shape=ir.Shape(array.shape), name="W")
        case "protobuf":
            return ir.from_proto(ir.to_proto(ir.Tensor(array, name="W")))
        case "external":
            return external(folder / "kinds.data", array, offset=16)
        case "torch":
            torch = pytest.importorskip("torch")
            return ir.tensor_adapters.TorchTensor(
                torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
                if dtype == ir.DataType.BFLOAT16
                else torch.from_numpy(array)
            )
        case "streamed":
            return Streamed(array)


class Streamed(StreamedTensor):
    """A streamed tensor over an array."""

    def __init__(self, array):
        super().__init__(ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape), "W")
        self.array = array

    def chunks(self, start=0, stop=None):
        yield from element_chunks(ir.Tensor(self.array), start, stop)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["array", "external", "streamed"])
def test_all_elements_of_a_tensor_of_several_chunks_are_in_their_places(tmp_path, kind):
    array = numbers(35).reshape(5, 7)
    np.testing.assert_array_equal(all_elements(tensor_of(kind, array, tmp_path)), array)


def test_all_elements_of_external_data_are_read_and_never_mapped(tmp_path, monkeypatch):
    def no_map(*_args, **_options):
        raise AssertionError("a file was mapped")

    tensor = tensor_of("external", numbers(35), tmp_path)
    monkeypatch.setattr(mmap, "mmap", no_map)
    np.testing.assert_array_equal(all_elements(tensor), numbers(35))
    with pytest.raises(AssertionError, match="a file was mapped"):
        tensor.numpy()


@pytest.mark.usefixtures("small_chunks")
class TestElementChunks:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("kind", ["array", "lazy", "protobuf", "external", "torch", "streamed"])
    def test_every_kind_of_tensor_gives_its_elements_in_row_major_order(self, tmp_path, kind, dtype):
        array = numbers(35, dtype).reshape(5, 7)
        chunks = element_chunks(tensor_of(kind, array, tmp_path))
        assert read(chunks).tobytes() == array.tobytes()

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    @pytest.mark.parametrize("kind", ["array", "external", "streamed"])
    @pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 24])
    def test_chunks_of_all_types_have_the_same_number_of_elements(self, tmp_path, size, kind, dtype):
        array = numbers(size, dtype)
        sizes = [chunk.size for chunk in element_chunks(tensor_of(kind, array, tmp_path))]
        assert sizes == [8] * (size // 8) + [size % 8] * (size % 8 > 0)
        assert read(element_chunks(tensor_of(kind, array, tmp_path))).tobytes() == array.tobytes()

    @pytest.mark.parametrize("kind", ["array", "external", "streamed"])
    def test_a_part_is_read_from_its_start_to_its_stop(self, tmp_path, kind):
        array = numbers(40)
        tensor = tensor_of(kind, array, tmp_path)
        for start, stop in [(0, 40), (3, 20), (8, 16), (7, 9), (39, 40), (5, 5), (40, 40)]:
            assert read(element_chunks(tensor, start, stop)).tobytes() == array[start:stop].tobytes()

    @pytest.mark.parametrize("kind", ["array", "external", "streamed"])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_elements_are_cast_to_the_type_that_was_asked_for(self, tmp_path, kind, dtype):
        array = numbers(20, dtype)
        chunks = list(map(np.copy, element_chunks(tensor_of(kind, array, tmp_path), dtype=np.dtype(np.float32))))
        assert {chunk.dtype for chunk in chunks} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(np.concatenate(chunks), array.astype(np.float32))

    @pytest.mark.parametrize("kind", ["array", "external"])
    def test_a_tensor_without_elements_has_no_chunks(self, tmp_path, kind):
        assert list(element_chunks(tensor_of(kind, numbers(0), tmp_path))) == []

    def test_a_scalar_is_one_chunk_of_one_element(self, tmp_path):
        assert read(element_chunks(external(tmp_path / "scalar.data", np.array(2.5, np.float32)))).tolist() == [2.5]

    def test_packed_types_are_read_through_onnx_ir(self, tmp_path):
        array = np.arange(-8, 8).astype(ml_dtypes.int4)
        (tmp_path / "packed.data").write_bytes(ir.Tensor(array).tobytes())
        tensor = ir.ExternalTensor(
            "packed.data", 0, 8, ir.DataType.INT4, shape=ir.Shape((16,)), name="W", base_dir=str(tmp_path)
        )
        assert read(element_chunks(tensor)).astype(int).tolist() == list(range(-8, 8))

    @pytest.mark.parametrize("offset", [0, 3, 4096])
    def test_external_data_may_begin_anywhere_in_its_file(self, tmp_path, offset):
        array = numbers(20)
        tensor = external(tmp_path / "model.data", array, offset=offset, length=array.nbytes)
        assert read(element_chunks(tensor, 3, 19)).tobytes() == array[3:19].tobytes()

    def test_external_data_without_offset_and_length_begins_with_its_file(self, tmp_path):
        array = numbers(5)
        tensor = external(tmp_path / "model.data", array, offset=0)
        tensor = ir.ExternalTensor(
            tensor.location, None, None, tensor.dtype, shape=tensor.shape, name="W", base_dir=tensor.base_dir
        )
        assert read(element_chunks(tensor)).tobytes() == array.tobytes()

    def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(self, tmp_path):
        path = tmp_path / "model.data"
        chunks = element_chunks(external(path, numbers(40)))
        next(chunks)
        os.truncate(path, 50)
        with pytest.raises(ModelError, match=r"'.*model\.data' of tensor 'W' became shorter while read"):
            list(chunks)

    def test_a_file_is_never_mapped_into_memory(self, tmp_path, monkeypatch):
        tensor = external(tmp_path / "model.data", numbers(40))
        monkeypatch.setattr("mmap.mmap", None)
        assert read(element_chunks(tensor)).size == 40


class TestStreamedTensor:
    @pytest.fixture(params=list(DTYPES))
    def array(self, request):
        return numbers(14, request.param).reshape(2, 7)

    def test_array_bytes_and_file_agree(self, array):
        tensor, file = Streamed(array), io.BytesIO()
        tensor.tofile(file)
        assert tensor.numpy().tobytes() == tensor.tobytes() == file.getvalue() == array.tobytes()
        assert tensor.numpy().shape == (2, 7)
        assert tensor.numpy().dtype == array.dtype

    def test_it_says_its_size_type_and_name(self, array):
        tensor = Streamed(array)
        assert (tensor.size, tensor.nbytes, tensor.name) == (14, array.nbytes, "W")
        assert (tensor.dtype, tensor.shape) == (ir.DataType.from_numpy(array.dtype), ir.Shape((2, 7)))
        assert repr(tensor) == f"Streamed<{tensor.dtype},[2,7]>(name='W')"

    def test_onnx_ir_takes_it_for_a_tensor(self, array):
        assert isinstance(Streamed(array), ir.TensorProtocol)
        assert ir.from_proto(ir.to_proto(Streamed(array))).tobytes() == array.tobytes()

    def test_numpy_takes_it_for_an_array(self, array):
        np.testing.assert_array_equal(np.asarray(Streamed(array)), array)
        assert np.asarray(Streamed(array), np.float64).dtype == np.float64
        np.testing.assert_array_equal(np.asarray(Streamed(array), np.float64), array.astype(np.float64))

    def test_other_libraries_take_it_by_dlpack(self):
        array = numbers(14).reshape(2, 7)
        np.testing.assert_array_equal(np.from_dlpack(Streamed(array)), array)
        torch = pytest.importorskip("torch")
        np.testing.assert_array_equal(torch.from_dlpack(Streamed(array)).numpy(), array)

    def test_it_stands_for_itself(self, array):
        tensor = Streamed(array)
        assert tensor.raw is tensor

    def test_a_tensor_without_elements_is_empty_bytes(self):
        tensor = Streamed(np.empty((0, 3), np.float32))
        assert (tensor.size, tensor.nbytes, tensor.tobytes(), tensor.numpy().shape) == (0, 0, b"", (0, 3))

    def test_a_scalar_has_one_element(self):
        tensor = Streamed(np.array(1.5, np.float32))
        assert (tensor.size, tensor.nbytes, tensor.numpy().shape, tensor.numpy()) == (1, 4, (), 1.5)

    def test_it_is_written_to_external_data_by_onnx_ir(self, tmp_path, parse):
        array = numbers(2000).reshape(20, 100)
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=array)
        model.graph.initializers["W"].const_value = Streamed(array)
        ir.save(model, tmp_path / "model.onnx", external_data="model.data")
        written = ir.load(tmp_path / "model.onnx").graph.initializers["W"].const_value
        assert isinstance(written, ir.ExternalTensor)
        assert read(element_chunks(written)).tobytes() == array.tobytes()


def refusal(tensor):
    """What `check_external_tensor` says; reading the elements says the same."""
    with pytest.raises(ModelError) as error:
        check_external_tensor(tensor)
    with pytest.raises(ModelError, match="^" + re.escape(str(error.value)) + "$"):
        next(element_chunks(tensor))
    return str(error.value)


class TestUnsafeExternalData:
    def test_an_absolute_path_is_refused(self, tmp_path):
        path = tmp_path / "model.data"
        message = refusal(external(path, numbers(4), location=str(path)))
        assert f"tensor 'W' is at the absolute path '{path}'" in message
        assert "move the data file beside the model" in message

    @pytest.mark.parametrize("location", ["../secret.data", "sub/../../secret.data", "../other/secret.data"])
    def test_a_path_out_of_the_folder_is_refused(self, tmp_path, location):
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret.data").write_bytes(bytes(16))
        message = refusal(external(folder / "model.data", None, location=location))
        assert f"is at '{location}', outside the model's folder '{folder}'" in message

    def test_a_folder_whose_name_only_begins_like_the_models_is_outside(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model-secret").mkdir()
        (tmp_path / "model-secret" / "d").write_bytes(bytes(16))
        assert "outside the model's folder" in refusal(
            external(tmp_path / "model" / "d", None, location="../model-secret/d")
        )

    def test_a_path_that_leaves_the_folder_and_comes_back_is_read(self, tmp_path):
        (tmp_path / "sub").mkdir()
        array = numbers(4)
        tensor = external(tmp_path / "model.data", array, location="sub/../model.data")
        assert read(element_chunks(tensor)).tobytes() == array.tobytes()

    def test_a_file_in_a_folder_beside_the_model_is_read(self, tmp_path):
        (tmp_path / "weights").mkdir()
        array = numbers(4)
        (tmp_path / "weights" / "w.data").write_bytes(array.tobytes())
        tensor = external(tmp_path / "model", None, location="weights/w.data")
        assert read(element_chunks(tensor)).tobytes() == array.tobytes()

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_a_symbolic_link_out_of_the_folder_is_refused(self, tmp_path, what):
        outside, folder = tmp_path / "cache", tmp_path / "model"
        outside.mkdir()
        folder.mkdir()
        (outside / "model.data").write_bytes(bytes(16))
        if what == "file":
            (folder / "model.data").symlink_to(outside / "model.data")
            location = "model.data"
        else:
            (folder / "linked").symlink_to(outside)
            location = "linked/model.data"
        message = refusal(external(folder / "model.data", None, location=location))
        assert f"a symbolic link out of the model's folder (to '{outside / 'model.data'}')" in message
        assert "cp -rL" in message

    def test_a_symbolic_link_within_the_folder_is_read(self, tmp_path):
        array = numbers(4)
        (tmp_path / "blob").write_bytes(array.tobytes())
        (tmp_path / "model.data").symlink_to("blob")
        tensor = external(tmp_path / "model.data", None)
        assert read(element_chunks(tensor)).tobytes() == array.tobytes()

    def test_a_model_in_a_folder_that_is_a_link_itself_is_read(self, tmp_path):
        array = numbers(4)
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "model.data").write_bytes(array.tobytes())
        (tmp_path / "link").symlink_to("real")
        tensor = external(tmp_path / "link" / "model.data", None)
        assert read(element_chunks(tensor)).tobytes() == array.tobytes()

    def test_a_symbolic_link_to_itself_is_refused(self, tmp_path):
        (tmp_path / "model.data").symlink_to("model.data")
        assert "cannot be read" in refusal(external(tmp_path / "model.data", None))

    def test_a_hard_linked_file_is_refused(self, tmp_path):
        tensor = external(tmp_path / "model.data", numbers(4))
        os.link(tmp_path / "model.data", tmp_path / "other")
        message = refusal(tensor)
        assert f"'{tmp_path / 'model.data'}', a file with 2 hard links" in message
        assert "cp -r" in message

    def test_a_missing_file_is_refused(self, tmp_path):
        message = refusal(external(tmp_path / "model.data", None))
        assert f"cannot be read: '{tmp_path / 'model.data'}': No such file or directory; copy the data file" in message

    def test_a_folder_in_place_of_the_file_is_refused(self, tmp_path):
        (tmp_path / "model.data").mkdir()
        assert refusal(external(tmp_path / "model.data", None)).endswith(
            "which is not a file; put the data file there, or export the model again"
        )

    def test_a_tensor_without_a_location_is_refused(self, tmp_path):
        message = refusal(external(tmp_path / "model.data", None, location=""))
        assert message.endswith("is in no file, because its location is empty or missing; export the model again")

    @pytest.mark.parametrize(("offset", "size"), [(0, 15), (16, 31), (32, 16), (0, 0)])
    def test_a_truncated_file_is_refused(self, tmp_path, offset, size):
        (tmp_path / "model.data").write_bytes(bytes(size))
        message = refusal(external(tmp_path / "model.data", None, offset=offset))
        assert f"should be 16 bytes at offset {offset}" in message
        assert f"has only {size} bytes; it is truncated or belongs to another model" in message

    @pytest.mark.parametrize("offset", [0, 16])
    def test_a_file_that_is_just_long_enough_is_read(self, tmp_path, offset):
        (tmp_path / "model.data").write_bytes(bytes(offset + 16))
        assert read(element_chunks(external(tmp_path / "model.data", None, offset=offset))).size == 4

    def test_a_negative_offset_is_refused(self, tmp_path):
        (tmp_path / "model.data").write_bytes(bytes(64))
        assert "at offset -8" in refusal(external(tmp_path / "model.data", None, offset=-8))

    @pytest.mark.parametrize("length", [0, 8, 20])
    def test_a_length_that_does_not_fit_the_shape_is_refused(self, tmp_path, length):
        (tmp_path / "model.data").write_bytes(bytes(64))
        message = refusal(external(tmp_path / "model.data", None, length=length))
        assert f"has a length of {length} bytes, but its type and shape FLOAT [4] need 16; export or copy" in message

    def test_the_working_directory_is_the_folder_of_a_model_without_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "model.data").write_bytes(bytes(16))
        tensor = ir.ExternalTensor("model.data", 0, 16, ir.DataType.FLOAT, shape=ir.Shape((4,)), name="W")
        check_external_tensor(tensor)
        outside = ir.ExternalTensor("../model.data", 0, 16, ir.DataType.FLOAT, shape=ir.Shape((4,)), name="W")
        assert "outside" in refusal(outside)


class TestTensorsOfAModel:
    @pytest.fixture
    def found(self, tmp_path, parse, normal):
        """A model with external tensors in an initializer, a body and a Constant node, and what was made external."""
        model = parse(
            """g (bool c, float[2,2] x) => (float[2,2] y) {
                K = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                a = MatMul(x, K)
                m = MatMul(a, W)
                y = If (c) <
                    then_branch = t () => (float[2,2] p) <float[2,2] V = {1, 2, 3, 4}> { p = MatMul(m, V) },
                    else_branch = e () => (float[2,2] q) { q = Identity(m) }
                >
            }""",
            W=normal(2, 2),
        )
        tensors = {name: external(tmp_path / f"{name}.data", normal(2, 2), name=name) for name in ("W", "V", "K")}
        model.graph.initializers["W"].const_value = tensors["W"]
        constant, *_, choose = model.graph
        choose.attributes["then_branch"].as_graph().initializers["V"].const_value = tensors["V"]
        constant.attributes.add(ir.AttrTensor("value", tensors["K"]))
        return SimpleNamespace(model=model, tensors=tensors, folder=tmp_path)

    def test_external_ones_are_found_in_initializers_bodies_and_attributes(self, found):
        assert {tensor.name for tensor in external_tensors(found.model)} == {"W", "V", "K"}

    def test_their_files_are_listed(self, found):
        assert external_files(found.model) == {found.folder / f"{name}.data" for name in ("W", "V", "K")}

    def test_those_in_attributes_come_with_their_node_and_attribute(self, found):
        [(node, attribute, tensor)] = attribute_tensors(found.model)
        assert (node.op_type, attribute.name, tensor) == ("Constant", "value", found.tensors["K"])

    def test_attributes_with_several_tensors_give_all_of_them(self, parse, normal):
        model = parse("g (float x) => (float y) { y = Identity(x) }")
        [node] = model.graph
        node.attributes.add(ir.AttrTensors("several", [ir.tensor(normal(2)), ir.tensor(normal(3))]))
        assert [tensor.size for _, _, tensor in attribute_tensors(model)] == [2, 3]

    def test_attributes_of_functions_are_looked_into(self, parse):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { y = local.dense <factor = 1.0> (x) }
            <domain: "local", opset_import: ["" : 17]>
            dense <factor> (a) => (r) {
                k = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                f = Constant <value_float: float = @factor> ()
                b = MatMul(a, k)
                r = Mul(b, f)
            }""",
            opsets='"" : 17, "local" : 1',
        )
        assert [node.outputs[0].name for node, _, _ in attribute_tensors(model)] == ["k"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_view_of_an_array_is_read_in_row_major_order(small_chunks, data):
    """Exporters fold a transposition into a view; to flatten one would be to copy it."""
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    view = (
        np.arange(np.prod(shape), dtype=np.float32)
        .reshape(shape)
        .transpose(data.draw(st.permutations(range(len(shape)))))
    )
    view = view[tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in shape)]
    start = data.draw(st.integers(0, view.size))
    stop = data.draw(st.integers(start, view.size))
    found = read(element_chunks(ir.Tensor(view), start, stop))
    np.testing.assert_array_equal(found, view.reshape(-1)[start:stop])


def test_reading_a_view_takes_the_memory_of_one_chunk():
    view = np.ones((1024, 4096), np.float32).T
    tracemalloc.start()
    try:
        total = sum(float(chunk.sum()) for chunk in element_chunks(ir.Tensor(view)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == view.size
    assert peak < 2 * streamed_tensor.CHUNK_ELEMENTS * 4 < view.nbytes / 4
