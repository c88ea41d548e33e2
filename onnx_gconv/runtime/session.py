"""Models in ONNX Runtime, on the CPU: loaded, run, and released again."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any, Literal, Self

import ml_dtypes
import numpy as np
import onnxruntime

from onnx_gconv.errors import GconvError
from onnx_gconv.runtime.inputs import InputSpec, read_input_specs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["OPTIMIZATIONS", "ModelSession", "Optimization", "RuntimeRefusal", "run_model"]

Optimization = Literal["all", "none"]
"""How much ONNX Runtime may rewrite a model: as it does by default, or not at all."""

OPTIMIZATIONS: tuple[Optimization, ...] = ("all", "none")

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

_FLOAT32_ACTIVATIONS = "1"

# Where a model that is given as bytes has its external data.
_FOLDER_OF_DATA = "session.model_external_initializers_file_folder_path"

_FATAL = 4  # errors arrive as exceptions; what the log says of them would only stand on the user's stderr twice

# NumPy has no bfloat16: its arrays go in and come out as their bytes.
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ONNX_BFLOAT16 = 16


class RuntimeRefusal(GconvError):  # noqa: N818 - what the runtime says, which is an error only for who asked
    """ONNX Runtime does not load a model, or does not run it on some inputs.

    Attributes:
        stage: Where it stopped, ``"load"`` or ``"run"``.
        message: What it said, on one line.
    """

    def __init__(self, stage: Literal["load", "run"], message: str) -> None:
        self.stage = stage
        self.message = " ".join(message.split())
        super().__init__(f"ONNX Runtime does not {stage} the model: {self.message}")


class ModelSession:
    """One model, loaded; leaving the ``with`` block releases its memory.

    Args:
        model: The model's file; external data is found next to it.
        optimization: How much the runtime may rewrite it.
        inner: Names of values inside the model that are outputs, too.
        is_single_threaded: Whether each run has one thread. In a product with a matrix that comes as an input, ONNX
            Runtime adds in an order that depends on their number, which is that of the machine's cores otherwise.

    Raises:
        RuntimeRefusal: The model does not load.
    """

    def __init__(
        self,
        model: Path,
        optimization: Optimization,
        *,
        inner: Collection[str] = (),
        is_single_threaded: bool = False,
    ) -> None:
        options = onnxruntime.SessionOptions()
        if is_single_threaded:
            options.intra_op_num_threads = 1
        options.graph_optimization_level = _LEVELS[optimization]
        options.log_severity_level = _FATAL
        # The memory of rebuilt weights goes back when a run ends, rather than into an arena that doubles as it grows.
        options.enable_cpu_mem_arena = False
        # Without this, nodes whose output is over 1 GiB are not folded, and large weights are rebuilt in every run.
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
        # ONNX Runtime would multiply weights of integer blocks with activations of 8 bits: an error of 0.5 % by itself,
        # behind which others could hide.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _FLOAT32_ACTIVATIONS)
        if optimization == "none":
            # Weights that nodes rebuild cannot be packed ahead. Where no weight is, plain and rebuilt ones go through
            # the same kernels, whose results otherwise differ by the order in which they add.
            options.add_session_config_entry("session.disable_prepacking", "1")
        if inner:
            options.add_session_config_entry(_FOLDER_OF_DATA, str(model.parent.resolve()))
        try:
            content = _with_outputs(model, inner) if inner else str(model)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the runtime's errors have no base of their own
            raise RuntimeRefusal("load", str(error)) from None
        # Asked for once, as a small model runs in the time that this takes.
        self._names = [output.name for output in self._session.get_outputs()]
        self._lacking = [each.name for each in self._session.get_outputs() if each.type == "tensor(bfloat16)"]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _FATAL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Not left to the garbage collector: the next model must not be loaded while this one is in memory.
        self._session = None

    def read_input_specs(self) -> tuple[InputSpec, ...]:
        """The inputs that the model needs.

        Raises:
            ConfigError: An input is of a type that cannot be fed from an array.
        """
        return read_input_specs(self._session)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The model's outputs for these inputs, by name.

        Tensors are arrays, sequences lists, maps dicts, and an optional output without a value is None.

        Raises:
            RuntimeRefusal: The model does not run on these inputs.
        """
        lacking, options = self._lacking, self._run_options
        native = [name for name in self._names if name not in lacking]
        outputs: dict[str, Any] = {}
        try:
            if native:
                feeds = {
                    name: _as_value(array) if array.dtype == _BFLOAT16 else array for name, array in inputs.items()
                }
                found = self._session.run(native, feeds, options)
                outputs.update(zip(native, map(_copied, found), strict=True))
            if lacking:
                # This call hands out memory rather than arrays.
                feeds = {name: _as_value(array) for name, array in inputs.items()}
                memory = self._session.run_with_ort_values(lacking, feeds, options)
                outputs.update(zip(lacking, map(_read_bfloat16, memory), strict=True))
        except Exception as error:  # noqa: BLE001 - the runtime's errors have no base of their own
            raise RuntimeRefusal("run", str(error)) from None
        return {name: outputs[name] for name in self._names}


def run_model(model: Path, inputs: Mapping[str, NDArray[Any]], optimization: Optimization) -> dict[str, Any]:
    """The outputs of a model by name; it is loaded, run once and released.

    Raises:
        RuntimeRefusal: The model does not load, or does not run on these inputs.
    """
    with ModelSession(model, optimization) as session:
        return session.run(inputs)


def _with_outputs(model: Path, names: Collection[str]) -> bytes:
    """A model's file with more outputs; external data stays where it is."""
    import onnx

    proto = onnx.load(model, load_external_data=False)
    there = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in there)
    content: bytes = proto.SerializeToString()
    return content


def _copied(value: Any) -> Any:  # noqa: ANN401 - whatever ONNX Runtime gives
    """The value in memory of its own: the runtime's arrays keep parts of their session alive."""
    if isinstance(value, list):
        return [_copied(element) for element in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def _as_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    if array.dtype != _BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    raw = np.array(array, order="C").view(np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, _ONNX_BFLOAT16)


def _read_bfloat16(value: onnxruntime.OrtValue) -> NDArray[Any]:
    shape = tuple(value.shape())
    size = math.prod(shape) * _BFLOAT16.itemsize
    content = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(content, _BFLOAT16).reshape(shape)
