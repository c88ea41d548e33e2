"""Reading models safely, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnx_gconv.files.models
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.models import check_output_path, load_model, save_model
from onnx_gconv.models import model_path
from onnx_gconv.passes import MapConductances
from onnx_gconv.tensors.streamed import StreamedTensor
from tests import graphs

STOPPED_RUNS = Path(__file__).parents[1] / "cli" / "stopped_runs.py"
FORMS = pytest.mark.parametrize("external_data", [False, True], ids=["inline", "external"])
IS_ROOT = os.geteuid() == 0


def weight(name="w", *shape, seed=0, dtype=np.float32):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=shape or (16, 16)).astype(dtype), name)


def external(name, shape, *, location="x.data", **place):
    return graphs.external_tensor(name, shape, location, **place)


def proto_of(*tensors, nodes=()):
    """A chain of MatMul nodes that read the tensors, and after it `nodes`, which lead from 'h' to 'y'."""
    chain = graphs.chain([tensor.name for tensor in tensors])
    chain.append(helper.make_node("Identity", [f"x{len(tensors)}"], ["h"]))
    nodes = [*chain, *(nodes or [helper.make_node("Identity", ["h"], ["y"])])]
    return graphs.model(nodes, [graphs.value("x0")], [graphs.value("y")], tensors, domains=["", "custom"])


def write(path, proto, *, data=None):
    """Write a model as onnx does, with all tensors in the file `data` if that is given."""
    if data is None:
        path.write_bytes(proto.SerializeToString())
    else:
        onnx.save(proto, path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def model_of(*tensors, **options):
    return ir.from_proto(proto_of(*tensors, **options))


def values(model):
    """The initializers of a model, by name."""
    return {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


def content(folder):
    """All files below a folder, hidden ones too."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if not f.is_dir()}


def names(folder):
    """Everything below a folder, folders too."""
    return sorted(str(item.relative_to(folder)) for item in folder.rglob("*"))


HALF = 1 << 20  # elements of a large tensor that are given at once


class Streamed(StreamedTensor):
    """A tensor of ones that does something after its first chunk."""

    def __init__(self, name, then=lambda: None, shape=(2, HALF)):
        super().__init__(ir.DataType.FLOAT, ir.Shape(shape), name)
        self._then = then

    def chunks(self, start=0, stop=None):  # noqa: ARG002 - the signature of the base; all is read here
        yield np.ones(HALF, np.float32)
        self._then()
        yield np.ones(self.size - HALF, np.float32)


def with_streamed(model, tensor):
    model.graph.initializers.add(ir.Value(name=tensor.name, const_value=tensor))
    return model


def stop(error):
    def raise_it():
        raise error

    return raise_it


# Round trips


@FORMS
def test_a_written_model_reads_back_as_it_was(tmp_path, external_data):
    model = load_model(model_path("digits_cnn.onnx"))
    save_model(model, tmp_path / "out.onnx", external_data=external_data)

    read = load_model(tmp_path / "out.onnx")
    assert equal(values(read), values(model))
    assert [node.name for node in read.graph] == [node.name for node in model.graph]
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


@pytest.mark.parametrize("source_data", [None, "in.data"], ids=["from-inline", "from-external"])
@FORMS
def test_a_model_can_be_written_to_another_folder(tmp_path, source_data, external_data):
    source = write(tmp_path / "in.onnx", proto_of(weight(), weight("v", seed=1)), data=source_data)
    expected = values(load_model(source))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_model(load_model(source), elsewhere / "out.onnx", external_data=external_data)

    assert names(elsewhere) == ["out.onnx", "out.onnx.data"] if external_data else ["out.onnx"]
    source.unlink()
    (tmp_path / "in.data").unlink(missing_ok=True)
    assert equal(values(load_model(elsewhere / "out.onnx")), expected)


@FORMS
def test_the_model_in_memory_is_as_before_after_it_was_written(tmp_path, external_data):
    write(tmp_path / "in.onnx", proto_of(weight(), nodes=[constant_of(external("c", [16]))]), data="x.data")
    model = load_model(tmp_path / "in.onnx")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    save_model(model, tmp_path / "out.onnx", external_data=external_data)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@FORMS
def test_streamed_tensors_are_computed_while_they_are_written(tmp_path, external_data):
    save_model(with_streamed(model_of(weight()), Streamed("s")), tmp_path / "out.onnx", external_data=external_data)
    written = values(load_model(tmp_path / "out.onnx"))["s"]
    assert written.shape == (2, HALF)
    assert (written == 1).all()


@FORMS
def test_the_same_model_is_written_as_the_same_bytes_twice(tmp_path, external_data):
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        model = load_model(model_path("digits_cnn.onnx"))
        MapConductances()(model)
        save_model(model, folder / "out.onnx", external_data=external_data)
        found.append(content(folder))
    assert found[0] == found[1]


def test_a_relative_path_without_a_folder_is_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = save_model(model_of(weight()), "out.onnx", external_data=True)
    assert written == [Path("out.onnx"), Path("out.onnx.data")]
    assert equal(values(load_model("out.onnx")), values(model_of(weight())))


def test_a_name_with_glob_characters_is_taken_literally(tmp_path):
    for name in ("[ab].onnx", "a?.onnx", "*.onnx", "%s {x}.onnx", "ünï.onnx", "-o.onnx"):
        for _ in range(2):
            save_model(model_of(weight()), tmp_path / name, external_data=True)
        assert equal(values(load_model(tmp_path / name)), values(model_of(weight())))
    assert len(names(tmp_path)) == 12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "int4", "bool"])
@FORMS
def test_tensors_of_any_type_keep_their_bits(tmp_path, dtype, external_data):
    data_type = ir.DataType[{"float64": "DOUBLE"}.get(dtype, dtype.upper())]
    array = (np.arange(600) % 7).astype(data_type.numpy())
    model = model_of(weight())
    tensor = ir.tensor(array, dtype=data_type, name="t")
    model.graph.initializers.add(ir.Value(name="t", const_value=tensor))
    save_model(model, tmp_path / "one.onnx", external_data=True)
    save_model(load_model(tmp_path / "one.onnx"), tmp_path / "out.onnx", external_data=external_data)
    assert load_model(tmp_path / "out.onnx").graph.initializers["t"].const_value.tobytes() == tensor.tobytes()


def test_progress_goes_from_nothing_to_everything(tmp_path):
    calls = []
    save_model(
        model_of(weight(), weight("v", seed=1)),
        tmp_path / "out.onnx",
        external_data=True,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(0, 2048), (1024, 2048), (2048, 2048)]


# Inline or external


@pytest.mark.parametrize(
    ("bytes_above", "expected"), [(0, ["out.onnx"]), (1, ["out.onnx", "out.onnx.data"])], ids=["at", "above"]
)
def test_a_model_above_the_threshold_gets_external_data_by_itself(tmp_path, monkeypatch, bytes_above, expected):
    monkeypatch.setattr(onnx_gconv.files.models, "EXTERNAL_DATA_THRESHOLD_BYTES", 1024 - bytes_above)
    save_model(model_of(weight()), tmp_path / "out.onnx")
    assert names(tmp_path) == expected


def test_the_threshold_is_256_mib():
    assert onnx_gconv.files.models.EXTERNAL_DATA_THRESHOLD_BYTES == 256 * 2**20


@pytest.mark.parametrize("data", [None, "in.data"], ids=["inline", "external"])
def test_the_form_of_the_source_is_kept(tmp_path, data):
    write(tmp_path / "in.onnx", proto_of(weight()), data=data)
    save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists() == (data is not None)


def test_a_constant_in_external_data_counts_as_external_data_of_the_source(tmp_path):
    (tmp_path / "x.data").write_bytes(bytes(64))
    write(tmp_path / "in.onnx", proto_of(weight(), nodes=[constant_of(external("c", [16]))]))
    save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()


@FORMS
def test_what_is_asked_for_goes_before_what_size_and_source_suggest(tmp_path, monkeypatch, external_data):
    monkeypatch.setattr(onnx_gconv.files.models, "EXTERNAL_DATA_THRESHOLD_BYTES", 0 if not external_data else 1 << 30)
    write(tmp_path / "in.onnx", proto_of(weight()), data=None if external_data else "in.data")
    save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", external_data=external_data)
    assert (tmp_path / "out.onnx.data").exists() == external_data


def test_no_empty_data_file_is_left_for_a_model_of_tiny_tensors(tmp_path):
    written = save_model(model_of(weight("w", 4, 4)), tmp_path / "out.onnx", external_data=True)
    assert written == [tmp_path / "out.onnx"]
    assert names(tmp_path) == ["out.onnx"]


def test_a_model_too_large_for_one_file_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_gconv.files.models, "_LARGEST_INLINE_BYTES", 1023)
    with pytest.raises(ConfigError, match=r"out\.onnx.* would hold .*2 GiB.*external data"):
        save_model(model_of(weight()), tmp_path / "out.onnx", external_data=False)
    assert names(tmp_path) == []


# Constants in attributes


def constant_of(tensor):
    """A node from 'h' to 'y' with a constant in its attribute."""
    node = helper.make_node("Use", ["h"], ["y"], domain="custom")
    node.attribute.append(helper.make_attribute("value", tensor))
    return node


def constant_in(model):
    (node,) = (node for node in model.graph if node.op_type == "Use")
    return node.attributes["value"]


@FORMS
def test_a_constant_in_external_data_is_carried_along(tmp_path, external_data):
    data = np.arange(16, dtype=np.float32)
    (tmp_path / "x.data").write_bytes(b"skip" + data.tobytes())
    write(tmp_path / "in.onnx", proto_of(weight(), nodes=[constant_of(external("c", [16], offset=4))]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_model(load_model(tmp_path / "in.onnx"), elsewhere / "out.onnx", external_data=external_data)

    (tmp_path / "x.data").unlink()
    assert constant_in(load_model(elsewhere / "out.onnx")).as_tensor().numpy().tolist() == data.tolist()


@FORMS
def test_a_list_of_constants_in_external_data_is_carried_along(tmp_path, external_data):
    data = np.arange(32, dtype=np.float32)
    (tmp_path / "x.data").write_bytes(data.tobytes())
    node = helper.make_node("Use", ["h"], ["y"], domain="custom")
    attribute = AttributeProto(name="value", type=AttributeProto.TENSORS)
    attribute.tensors.extend([external("c", [16]), external("d", [16], offset=64)])
    node.attribute.append(attribute)
    write(tmp_path / "in.onnx", proto_of(weight(), nodes=[node]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_model(load_model(tmp_path / "in.onnx"), elsewhere / "out.onnx", external_data=external_data)

    (tmp_path / "x.data").unlink()
    found = constant_in(load_model(elsewhere / "out.onnx")).as_tensors()
    assert np.concatenate([tensor.numpy() for tensor in found]).tolist() == data.tolist()


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "missing.data"])
def test_external_data_of_a_constant_is_checked_as_that_of_an_initializer(tmp_path, location):
    write(tmp_path / "in.onnx", proto_of(weight(), nodes=[constant_of(external("c", [1], location=location))]))
    with pytest.raises(ModelError, match=r"in\.onnx.*tensor 'c'"):
        load_model(tmp_path / "in.onnx")


# What is refused when it is read


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 4096,
        b"hello, world\n" * 100,
        b"{}",
        b"\x80\x04K\x01.",
        b"PK\x03\x04" + bytes(100),
        b"\xff" * 99,
    ],
    ids=["empty", "zero", "zeros", "text", "json", "pickle", "zip", "ones"],
)
def test_a_file_that_is_no_onnx_model_is_refused_by_name(tmp_path, data):
    (tmp_path / "in.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"in\.onnx' is not an ONNX model"):
        load_model(tmp_path / "in.onnx")


def test_random_bytes_are_refused(tmp_path):
    for seed in range(200):
        (tmp_path / "in.onnx").write_bytes(random.Random(seed).randbytes(seed))  # noqa: S311 - no secret
        with pytest.raises(ModelError, match=r"in\.onnx"):
            load_model(tmp_path / "in.onnx")


@pytest.mark.parametrize("kind", ["torch", "npz", "text form"])
def test_a_file_of_another_kind_is_refused(tmp_path, kind):
    path = tmp_path / "in.onnx"
    if kind == "npz":
        shutil.copyfile(model_path("digits_test.npz"), path)
    elif kind == "text form":
        path.write_text(onnx.printer.to_text(proto_of(weight())))
    else:
        path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with pytest.raises(ModelError, match=r"in\.onnx' is not an ONNX model"):
        load_model(path)


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_mlp.onnx", "digits_cnn_torchscript.onnx"])
def test_a_truncated_model_is_refused_wherever_it_ends(tmp_path, name):
    data = model_path(name).read_bytes()
    lengths = {*range(64), *range(len(data) - 64, len(data))}
    lengths.update(random.Random(0).sample(range(len(data)), 200))  # noqa: S311 - no secret
    for length in sorted(lengths):
        (tmp_path / "in.onnx").write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"in\.onnx' is not an ONNX model, or it is truncated.*copy it again"):
            load_model(tmp_path / "in.onnx")


def test_a_model_truncated_between_any_two_of_its_fields_is_refused(tmp_path):
    proto = onnx.load(model_path("digits_cnn.onnx"))
    fields = [field for field, _ in proto.ListFields()]
    assert fields[-1].name == "opset_import"
    for last in range(len(fields)):
        part = onnx.ModelProto()
        for field in fields[:last]:
            part.MergeFromString(single_field(proto, field.name).SerializeToString())
        write(tmp_path / "in.onnx", part)
        with pytest.raises(ModelError, match="not an ONNX model"):
            load_model(tmp_path / "in.onnx")


def single_field(proto, name):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for field, _ in proto.ListFields():
        if field.name != name:
            copy.ClearField(field.name)
    return copy


def test_a_mapped_model_that_lost_its_end_is_not_taken_for_a_plain_one(tmp_path):
    model = load_model(model_path("digits_cnn.onnx"))
    MapConductances()(model)
    save_model(model, tmp_path / "out.onnx")
    proto = onnx.load(tmp_path / "out.onnx")
    size = proto.ByteSize()
    proto.ClearField("metadata_props")  # the last field, with the manifest
    (tmp_path / "out.onnx").write_bytes((tmp_path / "out.onnx").read_bytes()[: proto.ByteSize()])
    assert proto.ByteSize() < size
    with pytest.raises(ModelError, match="mapped already"):
        MapConductances()(load_model(tmp_path / "out.onnx"))


@pytest.mark.parametrize("missing", ["graph", "opset_import", "ir_version"])
def test_a_model_without_an_essential_field_is_refused(tmp_path, missing):
    proto = proto_of(weight())
    proto.ClearField(missing)
    with pytest.raises(ModelError, match=r"in\.onnx' is not an ONNX model"):
        load_model(write(tmp_path / "in.onnx", proto))


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read .*no\.onnx': No such file or directory"):
        load_model(tmp_path / "no.onnx")


def test_a_folder_instead_of_a_model_is_an_error_that_names_it(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match=r"cannot read .*folder\.onnx': it is a folder; give the .onnx file in it"):
        load_model(tmp_path / "folder.onnx")


@pytest.mark.skipif(IS_ROOT, reason="root may read every file")
def test_a_file_without_read_permission_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "in.onnx", proto_of(weight())).chmod(0)
    with pytest.raises(ModelError, match=r"cannot read .*in\.onnx': Permission denied"):
        load_model(tmp_path / "in.onnx")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_file_that_cannot_be_read_is_an_error_that_names_it():
    with pytest.raises(ModelError, match=r"cannot read the model '/proc/self/mem': "):
        load_model("/proc/self/mem")


def test_sparse_initializers_are_refused_by_name(tmp_path):
    proto = proto_of(weight())
    proto.graph.sparse_initializer.add().values.name = "sparse"
    with pytest.raises(ModelError, match=r"in\.onnx' has the sparse initializer 'sparse'.*make it dense"):
        load_model(write(tmp_path / "in.onnx", proto))


def test_training_information_is_refused(tmp_path):
    proto = proto_of(weight())
    proto.training_info.add()
    with pytest.raises(ModelError, match=r"in\.onnx' has training information.*inference"):
        load_model(write(tmp_path / "in.onnx", proto))


def test_duplicate_initializers_are_refused_by_name(tmp_path):
    proto = proto_of(weight())
    proto.graph.initializer.append(weight("w", seed=1))
    with pytest.raises(ModelError, match=r"in\.onnx' has two initializers named 'w' in graph 'graph'"):
        load_model(write(tmp_path / "in.onnx", proto))


def test_unnamed_initializers_are_refused(tmp_path):
    proto = proto_of(weight())
    proto.graph.initializer.append(weight("", seed=1))
    with pytest.raises(ModelError, match=r"in\.onnx' has an initializer without a name"):
        load_model(write(tmp_path / "in.onnx", proto))


@pytest.mark.parametrize("attribute", ["graph", "graphs"])
@pytest.mark.parametrize("trouble", ["sparse", "duplicate", "unnamed"])
def test_what_is_refused_is_found_in_bodies_too(tmp_path, attribute, trouble):
    body = helper.make_graph([], "body", [], [], [weight("v")])
    if trouble == "sparse":
        body.sparse_initializer.add().values.name = "v"
    else:
        body.initializer.append(weight("v" if trouble == "duplicate" else ""))
    node = helper.make_node("Use", ["h"], ["y"], domain="custom")
    node.attribute.append(helper.make_attribute("value", body if attribute == "graph" else [body]))
    with pytest.raises(ModelError, match=r"sparse initializer 'v'|named 'v' in graph 'body'|without a name"):
        load_model(write(tmp_path / "in.onnx", proto_of(weight(), nodes=[node])))


def test_initializers_of_one_name_in_sibling_bodies_are_fine(tmp_path):
    bodies = [
        helper.make_graph([], name, [], [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)], [weight("v")])
        for name in ("then", "else")
    ]
    node = helper.make_node("Use", ["h"], ["y"], domain="custom")
    node.attribute.append(helper.make_attribute("value", bodies))
    assert len(list(load_model(write(tmp_path / "in.onnx", proto_of(weight(), nodes=[node]))).graphs())) == 3


@pytest.mark.parametrize("change", ["shorter", "longer", "none"])
def test_an_initializer_whose_data_does_not_fill_its_shape_is_refused_by_name(tmp_path, change):
    tensor = weight("w")
    tensor.raw_data = {"shorter": tensor.raw_data[:-4], "longer": tensor.raw_data + bytes(4), "none": b""}[change]
    if change == "none":
        tensor.ClearField("raw_data")
    with pytest.raises(ModelError, match=r"in\.onnx.*'w'"):
        load_model(write(tmp_path / "in.onnx", proto_of(tensor)))


# External data of what is read


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/hostname", "absolute path '/etc/hostname'.*beside the model"),
        ("../x.data", "outside the model's folder.*beside the model"),
        ("sub/../../x.data", "outside the model's folder"),
        ("", "its location is empty or missing"),
        (".", "not a file"),
        ("missing.data", "No such file or directory.*copy the data file there"),
        ("x.data\0", "tensor 'w'"),
        ("n" * 300, "File name too long"),
    ],
)
def test_unsafe_or_missing_external_data_is_refused(tmp_path, location, message):
    (tmp_path / "x.data").write_bytes(bytes(1024))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.data").write_bytes(bytes(1024))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(write(folder / "in.onnx", proto_of(external("w", [16, 16], location=location))))
    assert "in.onnx': " in str(caught.value)
    assert "tensor 'w'" in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "x.data").write_bytes(bytes(1024))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.data").symlink_to(tmp_path / "x.data")
    with pytest.raises(ModelError, match=r"symbolic link out of the model's folder.*cp -rL"):
        load_model(write(folder / "in.onnx", proto_of(external("w", [16, 16]))))


def test_a_link_inside_the_folder_is_followed(tmp_path):
    data = np.arange(256, dtype=np.float32)
    (tmp_path / "real.data").write_bytes(data.tobytes())
    (tmp_path / "x.data").symlink_to("real.data")
    model = load_model(write(tmp_path / "in.onnx", proto_of(external("w", [16, 16]))))
    assert values(model)["w"].ravel().tolist() == data.tolist()


def test_a_hard_link_is_refused_as_the_runtime_does(tmp_path):
    (tmp_path / "x.data").write_bytes(bytes(1024))
    (tmp_path / "y.data").hardlink_to(tmp_path / "x.data")
    with pytest.raises(ModelError, match="2 hard links"):
        load_model(write(tmp_path / "in.onnx", proto_of(external("w", [16, 16]))))


@pytest.mark.parametrize(("size", "offset"), [(1023, 0), (0, 0), (1024, 1), (1024, 1 << 62)])
def test_external_data_that_is_too_short_is_refused(tmp_path, size, offset):
    (tmp_path / "x.data").write_bytes(bytes(size))
    with pytest.raises(
        ModelError, match=rf"in\.onnx': .*'w' should be 1024 bytes at offset {offset}.*only {size} byte"
    ):
        load_model(write(tmp_path / "in.onnx", proto_of(external("w", [16, 16], offset=offset))))


def test_external_data_of_another_length_than_its_shape_needs_is_refused(tmp_path):
    (tmp_path / "x.data").write_bytes(bytes(4096))
    with pytest.raises(ModelError, match=r"'w' has a length of 1028 bytes.*need 1024"):
        load_model(write(tmp_path / "in.onnx", proto_of(external("w", [16, 16], length=1028))))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", "-4"),
        ("offset", "some"),
        ("length", "some"),
        ("dims", -1),
        ("data_type", 0),
        ("data_type", 8),
        ("data_type", 99),
    ],
)
def test_external_data_with_a_senseless_description_is_refused(tmp_path, field, value):
    (tmp_path / "x.data").write_bytes(bytes(1024))
    tensor = external("w", [16, 16])
    if field == "dims":
        tensor.dims[0] = value
    elif field == "data_type":
        tensor.data_type = value
    else:
        next(entry for entry in tensor.external_data if entry.key == field).value = value
    with pytest.raises(ModelError, match=r"in\.onnx") as caught:
        load_model(write(tmp_path / "in.onnx", proto_of(tensor)))
    assert "lambda" not in str(caught.value)


# Where the output may go


@pytest.mark.parametrize("write_it", [lambda path: save_model(model_of(weight()), path), check_output_path])
def test_a_missing_folder_of_the_output_is_an_error(tmp_path, write_it):
    with pytest.raises(ConfigError, match=r"out\.onnx': the folder '.*no' does not exist; create it"):
        write_it(tmp_path / "no" / "out.onnx")


@pytest.mark.parametrize("write_it", [lambda path: save_model(model_of(weight()), path), check_output_path])
def test_a_folder_in_the_place_of_the_output_is_an_error(tmp_path, write_it):
    (tmp_path / "out.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"out\.onnx': it is a folder"):
        write_it(tmp_path / "out.onnx")
    assert names(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize("write_it", [lambda path: save_model(model_of(weight()), path), check_output_path])
def test_a_folder_that_is_not_writable_is_an_error(tmp_path, monkeypatch, write_it):
    if IS_ROOT:  # who may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and Path(path) == tmp_path))
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"out\.onnx': no permission to write to the folder"):
        write_it(tmp_path / "out.onnx")
    tmp_path.chmod(0o700)
    assert names(tmp_path) == []


def ways_to_the_input(tmp_path):
    """Other names of the same file."""
    (tmp_path / "link.onnx").symlink_to("in.onnx")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    return [
        tmp_path / "in.onnx",
        tmp_path / ".." / tmp_path.name / "in.onnx",
        tmp_path / "link.onnx",
        tmp_path / "linked" / "in.onnx",
        Path(os.path.relpath(tmp_path / "in.onnx")),
    ]


@FORMS
def test_the_input_is_never_overwritten_whatever_it_is_called(tmp_path, monkeypatch, external_data):
    write(tmp_path / "in.onnx", proto_of(weight()), data="in.onnx.data")
    model = load_model(tmp_path / "in.onnx")
    monkeypatch.chdir(tmp_path)
    paths = ways_to_the_input(tmp_path)
    before = content(tmp_path)
    for path in paths:
        problem = "it is a symbolic link to 'in.onnx'" if path.is_symlink() else "is the input.*are never overwritten"
        with pytest.raises(ConfigError, match=problem):
            save_model(model, path, external_data=external_data, inputs=[tmp_path / "in.onnx"])
    assert content(tmp_path) == before


def test_the_data_file_of_the_input_is_never_overwritten(tmp_path):
    write(tmp_path / "in.onnx", proto_of(weight()), data="in.onnx.data")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"in\.onnx\.data"):
        save_model(load_model(tmp_path / "in.onnx"), tmp_path / "in.onnx.data", inputs=[tmp_path / "in.onnx"])
    assert content(tmp_path) == before


def test_a_model_that_is_no_input_may_be_replaced_by_itself(tmp_path):
    path = write(tmp_path / "model.onnx", proto_of(weight()), data="model.onnx.data")
    expected = values(load_model(path))
    save_model(load_model(path), path)
    assert equal(values(load_model(path)), expected)


def test_a_link_is_neither_followed_nor_replaced(tmp_path):
    (tmp_path / "target.onnx").write_text("target")
    (tmp_path / "out.onnx").symlink_to("target.onnx")
    with pytest.raises(ConfigError, match=r"out.onnx': it is a symbolic link to 'target.onnx', which would"):
        save_model(model_of(weight()), tmp_path / "out.onnx")
    assert (tmp_path / "target.onnx").read_text() == "target"
    assert (tmp_path / "out.onnx").is_symlink()


def test_a_replaced_output_keeps_its_mode(tmp_path):
    save_model(model_of(weight()), tmp_path / "out.onnx")
    (tmp_path / "out.onnx").chmod(0o640)
    save_model(model_of(weight()), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_mode & 0o777 == 0o640


def test_new_files_have_the_mode_that_the_umask_gives(tmp_path):
    (tmp_path / "reference").touch()
    expected = (tmp_path / "reference").stat().st_mode
    for file in save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True):
        assert file.stat().st_mode == expected


# An older output survives whatever goes wrong


@pytest.fixture(params=[False, True], ids=["over-inline", "over-external"])
def old_output(request, tmp_path):
    """A folder with an older output, complete, and files of others."""
    folder = tmp_path / "folder"
    folder.mkdir()
    save_model(model_of(weight("old")), folder / "out.onnx", external_data=request.param)
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture(params=["streamed", "copied"])
def new_model(request, tmp_path):
    """Gives a model with a large streamed tensor that does something in its middle."""

    def make(then=lambda: None):
        data = None if request.param == "streamed" else "in.data"
        source = write(tmp_path / "in.onnx", proto_of(weight("new"), weight("newer", seed=1)), data=data)
        return with_streamed(load_model(source), Streamed("s", then))

    return make


def assert_untouched(folder, before):
    assert content(folder) == before
    assert names(folder) == sorted(before)
    assert equal(values(load_model(folder / "out.onnx")), values(model_of(weight("old"))))


@FORMS
def test_a_tensor_that_fails_in_the_middle_leaves_the_old_output(old_output, new_model, external_data):
    before = content(old_output)
    with pytest.raises(ModelError, match="gone"):
        save_model(new_model(stop(ModelError("gone"))), old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


@FORMS
def test_an_unexpected_error_in_the_middle_leaves_the_old_output(old_output, new_model, external_data):
    before = content(old_output)
    with pytest.raises(Exception, match=r"."):
        save_model(new_model(stop(ZeroDivisionError("oops"))), old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


@FORMS
def test_a_full_disk_leaves_the_old_output(old_output, new_model, external_data):
    before = content(old_output)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ConfigError, match=r"out\.onnx': No space left on device; it needs 8\.0 MiB, free some"):
        save_model(new_model(stop(full)), old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


@FORMS
def test_an_error_while_the_model_itself_is_written_leaves_the_old_output(
    old_output, new_model, external_data, monkeypatch
):
    def write_half(proto, path, **options):
        Path(path).write_bytes(proto.SerializeToString()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before, model = content(old_output), new_model()
    monkeypatch.setattr(onnx, "save", write_half)
    with pytest.raises(ConfigError, match="No space left on device"):
        save_model(model, old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


@FORMS
def test_an_interrupt_in_the_middle_leaves_the_old_output(old_output, new_model, external_data):
    before = content(old_output)
    with pytest.raises(KeyboardInterrupt):
        save_model(new_model(stop(KeyboardInterrupt())), old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_interrupt_while_progress_is_shown_leaves_the_old_output(old_output, new_model, call):
    before, calls = content(old_output), []

    def progress(done, total):
        calls.append(done)
        if len(calls) == call:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_model(new_model(), old_output / "out.onnx", external_data=True, progress=progress)
    assert_untouched(old_output, before)


@FORMS
def test_an_interrupt_after_the_last_step_leaves_the_new_output(old_output, new_model, external_data):
    def progress(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_model(new_model(), old_output / "out.onnx", external_data=external_data, progress=progress)
    assert values(load_model(old_output / "out.onnx")).keys() == {"new", "newer", "s"}
    assert len(names(old_output)) == 2 + external_data


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["io", "interrupt"]
)
@FORMS
def test_a_failure_of_the_final_rename_leaves_the_old_output(old_output, new_model, external_data, error, monkeypatch):
    before, model, replace = content(old_output), new_model(), Path.replace

    def fail_at_the_model(self, target):
        if Path(target).name == "out.onnx":
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_model)
    with pytest.raises((ConfigError, KeyboardInterrupt)):
        save_model(model, old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


def test_a_failure_to_move_the_data_file_leaves_the_old_output(old_output, new_model, monkeypatch):
    before, model = content(old_output), new_model()
    for method in ("replace", "rename", "hardlink_to"):
        original = getattr(Path, method)

        def fail_at_the_data(self, target, original=original):
            if ".data" in {self.suffix, Path(target).suffix}:
                raise OSError(errno.EIO, "Input/output error")
            return original(self, target)

        monkeypatch.setattr(Path, method, fail_at_the_data)
    with pytest.raises(ConfigError, match="Input/output error"):
        save_model(model, old_output / "out.onnx", external_data=True)
    assert_untouched(old_output, before)


def test_data_that_another_program_writes_under_the_reserved_name_is_kept(tmp_path):
    def write_once(done, total):
        if done < total:
            (tmp_path / "out.onnx.data").write_bytes(b"somebody else's")

    with contextlib.suppress(ConfigError):
        save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True, progress=write_once)
    assert (tmp_path / "out.onnx.data").read_bytes() == b"somebody else's"


@FORMS
def test_a_source_that_is_cut_while_it_is_copied_is_a_model_error_and_leaves_the_old_output(
    old_output, tmp_path, external_data
):
    before = content(old_output)
    model = load_model(write(tmp_path / "in.onnx", proto_of(weight("new")), data="in.data"))
    MapConductances()(model)
    os.truncate(tmp_path / "in.data", 1000)
    with pytest.raises(ModelError, match=r"in\.data.*truncated"):
        save_model(model, old_output / "out.onnx", external_data=external_data)
    assert_untouched(old_output, before)


@FORMS
def test_a_success_replaces_the_old_output_and_its_data_file(old_output, new_model, external_data):
    written = save_model(new_model(), old_output / "out.onnx", external_data=external_data)
    assert values(load_model(old_output / "out.onnx")).keys() == {"new", "newer", "s"}
    assert names(old_output) == sorted(["notes.txt", *(file.name for file in written)])


# The name of the data file


def test_the_data_file_is_named_after_the_model(tmp_path):
    assert save_model(model_of(weight()), tmp_path / "a.b.onnx", external_data=True) == [
        tmp_path / "a.b.onnx",
        tmp_path / "a.b.onnx.data",
    ]


def test_a_taken_name_of_a_data_file_is_left_to_its_owner(tmp_path):
    for name in ("out.onnx.data", "out.onnx.1.data"):
        (tmp_path / name).write_text(name)
    assert save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)[1].name == "out.onnx.2.data"
    assert (tmp_path / "out.onnx.data").read_text() == "out.onnx.data"
    assert (tmp_path / "out.onnx.1.data").read_text() == "out.onnx.1.data"


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_a_name_taken_by_something_else_than_a_file_is_left_alone(tmp_path, kind):
    taken = tmp_path / "out.onnx.data"
    if kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to("nowhere")
    for _ in range(2):
        save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)
    assert taken.is_dir() if kind == "folder" else taken.is_symlink()
    assert equal(values(load_model(tmp_path / "out.onnx")), values(model_of(weight())))


def test_the_data_file_of_the_replaced_output_is_removed(tmp_path):
    written = [save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)[1].name for _ in range(3)]
    assert written == ["out.onnx.data", "out.onnx.1.data", "out.onnx.data"]
    assert names(tmp_path) == ["out.onnx", "out.onnx.data"]


@FORMS
def test_files_of_others_are_neither_overwritten_nor_removed(tmp_path, external_data):
    save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)
    others = [
        "out.onnx.3.data",
        "out.onnx.1.data",
        "out.onnx.x.data",
        "other.onnx.data",
        "out.onnx.data.bak",
        "out.data",
    ]
    for name in others:
        (tmp_path / name).write_text(name)
    for _ in range(2):
        save_model(model_of(weight()), tmp_path / "out.onnx", external_data=external_data)
    assert [(tmp_path / name).read_text() for name in others] == others


def test_a_data_file_that_the_old_output_shares_under_another_name_is_left_alone(tmp_path):
    write(tmp_path / "out.onnx", proto_of(weight()), data="shared.data")
    save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)
    assert (tmp_path / "shared.data").exists()


@FORMS
def test_the_data_file_of_the_input_is_never_removed_even_if_its_name_is_that_of_the_output(tmp_path, external_data):
    write(tmp_path / "in.onnx", proto_of(weight()), data="out.onnx.data")
    shutil.copyfile(tmp_path / "in.onnx", tmp_path / "out.onnx")
    before = content(tmp_path)
    model = load_model(tmp_path / "in.onnx")
    save_model(model, tmp_path / "out.onnx", external_data=external_data, inputs=[tmp_path / "in.onnx"])
    after = content(tmp_path)
    assert after["in.onnx"] == before["in.onnx"]
    assert after.get("out.onnx.data") == before["out.onnx.data"]


# What killed runs leave behind


def leftovers(folder, *, data=None, files=("out.onnx", "out.onnx.data")):
    """A hidden folder as a killed run leaves it, with the record of its data file."""
    staging = folder / ".out.onnx.partial-k1ll3d"
    staging.mkdir()
    for name in files:
        (staging / name).write_text("half")
    (staging / "lock").write_text("" if data is None else data)
    return staging


@FORMS
def test_leftovers_of_a_killed_run_are_removed_by_the_next_one(tmp_path, external_data):
    staging = leftovers(tmp_path, data="out.onnx.data")
    (staging / ".out.onnx.data.tmp").mkdir()
    (tmp_path / "out.onnx.data").write_text("half")
    written = save_model(model_of(weight()), tmp_path / "out.onnx", external_data=external_data)
    assert names(tmp_path) == sorted(file.name for file in written)


def test_an_empty_folder_of_a_killed_run_is_removed(tmp_path):
    (tmp_path / ".out.onnx.partial-k1ll3d").mkdir()
    save_model(model_of(weight()), tmp_path / "out.onnx")
    assert names(tmp_path) == ["out.onnx"]


def test_a_folder_whose_removal_was_killed_is_removed(tmp_path):
    staging = leftovers(tmp_path)
    (staging / "lock").unlink()
    save_model(model_of(weight()), tmp_path / "out.onnx")
    assert names(tmp_path) == ["out.onnx"]


def test_leftovers_of_runs_that_wrote_something_else_are_left_alone(tmp_path):
    for prefix in (".out.onnx", ".other.onnx.partial-1", "out.onnx.partial-1", ".xout.onnx.partial-1"):
        (tmp_path / prefix).mkdir()
        (tmp_path / prefix / "lock").touch()
    before = names(tmp_path)
    save_model(model_of(weight()), tmp_path / "out.onnx")
    assert names(tmp_path) == sorted([*before, "out.onnx"])


@FORMS
def test_leftovers_of_a_name_with_glob_characters_are_its_own(tmp_path, external_data):
    for name in (".[ab].onnx.partial-k1ll3d", ".a.onnx.partial-k1ll3d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    written = save_model(model_of(weight()), tmp_path / "[ab].onnx", external_data=external_data)
    assert names(tmp_path) == sorted(
        [".a.onnx.partial-k1ll3d", ".a.onnx.partial-k1ll3d/lock", *(file.name for file in written)]
    )


def test_leftovers_of_a_live_process_are_left_alone(tmp_path):
    staging = leftovers(tmp_path, data="out.onnx.data")
    (tmp_path / "out.onnx.data").write_text("half")
    before = content(tmp_path)
    with (staging / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"out.onnx", "out.onnx.1.data"}


def test_a_recorded_data_file_that_the_output_uses_is_kept(tmp_path):
    save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)
    before = content(tmp_path)
    leftovers(tmp_path, data="out.onnx.data")
    with pytest.raises(KeyboardInterrupt):
        save_model(
            with_streamed(model_of(weight()), Streamed("s", stop(KeyboardInterrupt()))),
            tmp_path / "out.onnx",
            external_data=True,
        )
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "record", ["notes.txt", "../notes.txt", "out.onnx", "other.onnx.data", "\udc80", "out.onnx.data/.."]
)
def test_a_record_that_names_anything_else_than_a_data_file_of_the_output_removes_nothing(tmp_path, record):
    folder = tmp_path / "folder"
    folder.mkdir()
    staging = leftovers(folder)
    (staging / "lock").write_bytes(record.encode("utf-8", "surrogateescape"))
    for file in (tmp_path / "notes.txt", folder / "notes.txt", folder / "other.onnx.data"):
        file.write_text("somebody else's")
    save_model(model_of(weight()), folder / "out.onnx")
    assert names(tmp_path) == [
        "folder",
        "folder/notes.txt",
        "folder/other.onnx.data",
        "folder/out.onnx",
        "notes.txt",
    ]


def test_a_killed_run_does_not_make_the_next_one_remove_the_data_of_its_input(tmp_path):
    write(tmp_path / "in.onnx", proto_of(weight()), data="out.onnx.data")
    leftovers(tmp_path, data="out.onnx.data")
    save_model(
        load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", external_data=True, inputs=[tmp_path / "in.onnx"]
    )
    assert equal(values(load_model(tmp_path / "in.onnx")), values(model_of(weight())))
    assert equal(values(load_model(tmp_path / "out.onnx")), values(model_of(weight())))


def test_an_old_output_that_cannot_be_read_is_replaced_and_its_data_left_alone(tmp_path):
    (tmp_path / "out.onnx").write_text("no model")
    (tmp_path / "out.onnx.data").write_text("whose?")
    save_model(model_of(weight()), tmp_path / "out.onnx", external_data=True)
    assert equal(values(load_model(tmp_path / "out.onnx")), values(model_of(weight())))
    assert (tmp_path / "out.onnx.data").read_text() == "whose?"


# Runs that are stopped at every single step; what is done there is in stopped_runs.py


def stopped(case, stop_by, *, slow=True):
    return pytest.param(case, stop_by, marks=[pytest.mark.slow] if slow else [], id=f"{case}-{stop_by}")


@pytest.fixture(scope="module")
def stopped_runs():
    """Asks a process that imports everything once."""
    with subprocess.Popen([sys.executable, STOPPED_RUNS], stdin=PIPE, stdout=PIPE, text=True) as process:

        def ask(folder, case, stop_by):
            print(json.dumps([os.fspath(folder), case, stop_by]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask


@pytest.mark.skipif(sys.platform != "linux", reason="pins its process to one core")
@pytest.mark.parametrize(
    ("case", "stop_by"),
    [
        # Killed: each state of the disk between two steps or two lines of Python is looked at
        stopped("external-over-external", "kill", slow=False),
        stopped("external-over-external", "kill-anywhere", slow=False),
        stopped("name-taken-by-the-input", "kill-anywhere", slow=False),
        stopped("readback", "kill-anywhere", slow=False),
        stopped("handoff", "kill-anywhere", slow=False),
        stopped("name-taken-by-a-foreign-file", "kill-anywhere"),
        stopped("inline-over-inline", "kill-anywhere"),
        stopped("inline-over-external", "kill-anywhere"),
        stopped("external-over-inline", "kill-anywhere"),
        stopped("external-over-nothing", "kill-anywhere"),
        stopped("external-over-external", "fail"),
        stopped("name-taken-by-the-input", "fail"),
        stopped("external-over-external", "interrupt"),
        # Stopped again while it clears up
        stopped("external-over-external", "kill-twice"),
        stopped("external-over-external", "interrupt-and-kill"),
        # Interrupted at every line of Python that writes files
        stopped("inline-over-external", "interrupt-at-lines"),
    ],
)
def test_a_run_stopped_at_any_step_leaves_a_whole_output_and_the_next_run_clears_up(
    stopped_runs, tmp_path, case, stop_by
):
    found = stopped_runs(tmp_path, case, stop_by)
    assert found["problems"] == []
    assert found["steps"] > 15
    assert found["states"] > 3
