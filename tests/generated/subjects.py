"""A generated model under test: how it is mapped, written, checked and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnx_gconv import SinglePairConductanceConverter
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.scheme import MappingScheme
from tests.generated.random_models import RandomModel
from tests.generated.schemes import random_scheme

__all__ = [
    "EXACT",
    "LOSSLESS",
    "SCHEME",
    "LawBrokenError",
    "OriginalDoesNotRunError",
    "Outputs",
    "Subject",
    "demand",
    "run",
]

# The ways to map a model; one of them for each seed, to keep the suite short.
EXACT, LOSSLESS, SCHEME = "exact", "lossless", "scheme"
_WAYS = (EXACT, LOSSLESS, SCHEME)

_LEVELS = {"all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL, "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
_FATAL = 4
_LEAST_BESIDE_G_MIN, _MOST_BESIDE_G_MIN = 1e-4, 1e3
_INLINE_TYPES = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}

Outputs = dict[str, np.ndarray]


class LawBrokenError(AssertionError):
    """A law does not hold for a model."""


class OriginalDoesNotRunError(Exception):
    """ONNX Runtime cannot run the model before it is mapped: its optimizer breaks some valid models with integers.

    Which ones depends on what else is in the model, so that it may break the mapped one alone.
    """


# What its optimizer (1.32) says where it moved a QuantizeLinear to codes with another sign.
_MIXED_CODES = "does not match y_zero_point type"


def demand(holds: bool, message: str) -> None:
    """Say that a law is broken if it does not hold."""
    if not holds:
        raise LawBrokenError(message)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under test.

    Attributes:
        model: The model.
        folder: For files; empty.
        way: How it is mapped: to weights with equal bits, to weights within the rounding of their type, or by any
            scheme, which may round weights to levels and clip them.
    """

    model: RandomModel
    folder: Path
    way: str

    @classmethod
    def of(cls, model: RandomModel, folder: Path) -> Subject:
        """The subject of a model; one that is external is written to the folder."""
        subject = cls(model, folder, _WAYS[model.seed % len(_WAYS)])
        if model.is_external:
            subject._write_external()
        return subject

    @property
    def file(self) -> Path | None:
        """Its file, if its data is external."""
        return self.folder / "model.onnx" if self.model.is_external else None

    @property
    def source(self) -> bytes | str:
        """What ONNX Runtime and the checker read."""
        return self.model.proto.SerializeToString() if self.file is None else str(self.file)

    @property
    def scheme(self) -> MappingScheme | None:
        """The scheme, if it is mapped by one."""
        return random_scheme(self.model.seed) if self.way == SCHEME else None

    def mapping(self) -> MapConductances:
        """The pass that maps it."""
        if self.way == SCHEME:
            return MapConductances(scheme=self.scheme)
        g_max = (25.0, 25.0, 40.0, 1e3, 0.3)[self.model.seed % 5]
        if self.way == EXACT:
            return MapConductances(SinglePairConductanceConverter(g_max=g_max, exact=True))
        return MapConductances(SinglePairConductanceConverter(g_max=g_max, g_min=self._g_min()))

    def _g_min(self) -> float:
        """One in four has a g_min, in which weights far below one, or far below the largest, vanish."""
        largest = [np.abs(slot.weight.array).max() for slot in self.model.slots]
        is_lost = any(0 < number < _LEAST_BESIDE_G_MIN or number > _MOST_BESIDE_G_MIN for number in largest)
        return 0.1 if self.model.seed % 4 == 0 and not is_lost else 0.0

    def load(self) -> ir.Model:
        """The original, new every time: onnx-ir shares the tensors of a proto, and renames them there."""
        source = self.source
        return load_model(source) if isinstance(source, str) else ir.from_proto(onnx.ModelProto.FromString(source))

    def mapped(self) -> ir.Model:
        """The mapped model, new every time."""
        model = self.load()
        self.mapping()(model)
        return model

    def run(self, model: ir.Model, name: str) -> dict[str, Outputs]:
        """The outputs of a model at both levels, once it is checked; its data is external if that of the original is.

        Args:
            model: The model.
            name: What it is, for a folder and for messages.
        """
        proto = ir.to_proto(model)
        for which in ("input", "output"):
            before, after = (list(getattr(graph, which)) for graph in (self.model.proto.graph, proto.graph))
            demand(before == after, f"the {which}s of the {name} model are not those of the original")
        source: bytes | str = proto.SerializeToString()
        if self.file is not None:
            path = self.folder / name / "model.onnx"
            path.parent.mkdir()
            save_model(model, path, external_data=True)
            source = str(path)
        try:
            if self.model.is_valid:
                onnx.checker.check_model(source, full_check=self.model.full_check)
        except Exception as error:
            raise LawBrokenError(f"the {name} model is not valid: {' '.join(str(error).split())}") from error
        try:
            return run(source, self.model.feeds)
        except Exception as error:
            if _MIXED_CODES in str(error):
                raise OriginalDoesNotRunError(" ".join(str(error).split())) from error
            raise LawBrokenError(f"the {name} model does not run: {' '.join(str(error).split())}") from error

    def _write_external(self) -> None:
        """The model as a file with the data of its weights beside it; ONNX Runtime wants shapes and axes inline."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        data = bytearray()
        for tensor in _initializers(proto.graph):
            if tensor.data_type in _INLINE_TYPES:
                continue
            entries = {"location": "model.data", "offset": len(data), "length": len(tensor.raw_data)}
            data += tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
        (self.folder / "model.data").write_bytes(data)
        (self.folder / "model.onnx").write_bytes(proto.SerializeToString())


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _initializers(attribute.g)


def run(
    model: bytes | str, feeds: Mapping[str, np.ndarray], levels: Sequence[str] = ("all", "none")
) -> dict[str, Outputs]:
    """The outputs of a model at levels of optimization, set up as `runtime.session.ModelSession` does."""
    outputs: dict[str, Outputs] = {}
    for level in levels:
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[level]
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        if level == "none":
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs[level] = dict(zip(names, session.run(names, feeds), strict=True))
    return outputs
