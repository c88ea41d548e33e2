"""Loads, runs and releases models in ONNX Runtime, on the CPU."""

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
"""How much ONNX Runtime optimizes a model: all optimizations, as by default, or none."""

OPTIMIZATIONS: tuple[Optimization, ...] = ("all", "none")

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

_FLOAT32_ACTIVATIONS = "1"

# The session option for the folder of external data, for models that are given as bytes.
_FOLDER_OF_DATA = "session.model_external_initializers_file_folder_path"

_FATAL = 4  # the log level; errors arrive as exceptions, and the log would write them to stderr a second time

# NumPy has no bfloat16, so such arrays are passed as bytes.
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ONNX_BFLOAT16 = 16


class RuntimeRefusal(GconvError):  # noqa: N818 - not always an error: callers may try other inputs
    """ONNX Runtime does not load a model, or does not run it on some inputs.

    Attributes:
        stage: Where it failed: ``"load"`` or ``"run"``.
        message: ONNX Runtime's message, on one line.
    """

    def __init__(self, stage: Literal["load", "run"], message: str) -> None:
        self.stage = stage
        self.message: str = " ".join(message.split())
        super().__init__(f"ONNX Runtime does not {stage} the model: {self.message}")


class ModelSession:
    """A loaded model; leaving the ``with`` block releases its memory.

    Args:
        model: The model's file; its external data is beside it.
        optimization: How much ONNX Runtime optimizes the model.
        inner: Names of values inside the model that become outputs, too.
        is_single_threaded: Whether each run uses one thread. The default is one for each core of the machine. If a
            matrix of a product is an input, ONNX Runtime's order of additions depends on the number of threads.

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
        # Without an arena, the memory of rebuilt weights is freed when a run ends. An arena would keep it, and double.
        options.enable_cpu_mem_arena = False
        # By default, nodes with an output above 1 GiB are not folded, and large weights are rebuilt in every run.
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
        # By default, ONNX Runtime rounds activations to 8 bits for weights with blockwise scales. That error of 0.5 %
        # could hide other errors.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _FLOAT32_ACTIVATIONS)
        if optimization == "none":
            # Rebuilt weights cannot be prepacked. Without prepacking, plain and rebuilt weights use the same kernels;
            # other kernels add in another order and give other roundings.
            options.add_session_config_entry("session.disable_prepacking", "1")
        if inner:
            options.add_session_config_entry(_FOLDER_OF_DATA, str(model.parent.resolve()))
        try:
            content = _with_outputs(model, inner) if inner else str(model)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base class
            raise RuntimeRefusal("load", str(error)) from None
        # Kept, because these calls take as long as a run of a small model.
        self._specs: tuple[InputSpec, ...] | None = None
        self._names = [output.name for output in self._session.get_outputs()]
        self._lacking = [each.name for each in self._session.get_outputs() if each.type == "tensor(bfloat16)"]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _FATAL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Released now, so that this model is not in memory any more when the next one is loaded.
        self._session = None

    def read_input_specs(self) -> tuple[InputSpec, ...]:
        """Return the inputs that the model needs.

        Raises:
            ConfigError: An input is of a type that cannot be fed from an array.
        """
        if self._specs is None:
            self._specs = read_input_specs(self._session)
        return self._specs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Run the model and return its outputs by name.

        Tensors are returned as arrays, sequences as lists, maps as dicts; an optional output without a value as None.

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
                # This call returns OrtValues, which can hold bfloat16, instead of arrays.
                feeds = {name: _as_value(array) for name, array in inputs.items()}
                memory = self._session.run_with_ort_values(lacking, feeds, options)
                outputs.update(zip(lacking, map(_read_bfloat16, memory), strict=True))
        except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base class
            raise RuntimeRefusal("run", str(error)) from None
        return {name: outputs[name] for name in self._names}


def run_model(model: Path, inputs: Mapping[str, NDArray[Any]], optimization: Optimization) -> dict[str, Any]:
    """Load a model, run it once, release it, and return its outputs by name.

    Raises:
        RuntimeRefusal: The model does not load, or does not run on these inputs.
    """
    with ModelSession(model, optimization) as session:
        return session.run(inputs)


def _with_outputs(model: Path, names: Collection[str]) -> bytes:
    """Return a model as bytes with additional outputs; external data stays where it is."""
    import onnx

    proto = onnx.load(model, load_external_data=False)
    there = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in there)
    content: bytes = proto.SerializeToString()
    return content


def _copied(value: Any) -> Any:  # noqa: ANN401 - whatever ONNX Runtime gives
    """Return a copy of a value, because arrays of ONNX Runtime keep parts of their session in memory."""
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
