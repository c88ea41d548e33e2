"""The inputs that models take, and generated arrays for them."""

from __future__ import annotations

import ast
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnxruntime
    from numpy.typing import NDArray

__all__ = [
    "FALLBACK_SIZES",
    "MOST_NAMED",
    "InputSpec",
    "ValueRange",
    "check_known",
    "generate_attempts",
    "generate_inputs",
    "parse_dim",
    "parse_value",
    "read_input_specs",
]

FALLBACK_SIZES: tuple[int, ...] = (32, 64, 576, 224, 320, 16, 8, 1)
"""Sizes that are tried for symbolic axes of unknown size: common ones in vision, text and audio, then small ones.

576 comes before 224 because audio networks accept short windows that do not reach most of their layers.
"""

MOST_NAMED = 20
"""The largest number of input names in a message."""

# Larger attempts are left out: they would need gigabytes, and most models reject them.
_LARGEST_ATTEMPT = 2**26

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bool)": np.dtype(np.bool_),
}

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(frozen=True)
class InputSpec:
    """Name, type and shape of an input of a model.

    Attributes:
        name: The input's name.
        dtype: The type of its elements; ``"string"`` for text, the type of ml_dtypes for bfloat16.
        shape: One entry for each axis: a fixed size, the name of a symbolic size, or None for an unnamed one. ONNX
            Runtime gives ``()`` both for a scalar and for an input of unknown rank.
    """

    name: str
    dtype: np.dtype[Any] | Literal["string"]
    shape: tuple[int | str | None, ...]

    def to_json(self) -> dict[str, object]:
        """Return the spec as plain Python values for a JSON document."""
        return {"name": self.name, "dtype": str(self.dtype), "shape": list(self.shape)}


@dataclass(frozen=True)
class ValueRange:
    """The values that a generated input takes: uniform from ``low`` to ``high``, both included.

    Attributes:
        low: The smallest value.
        high: The largest value; equal to ``low`` for a constant input.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (abs(self.low) < float("inf") and abs(self.high) < float("inf")):
            raise ConfigError(f"the range {self} is not finite; give two finite numbers, such as 0..1")
        if self.low > self.high:
            raise ConfigError(f"the range {self} is empty; give the smaller number first: {self.high}..{self.low}")

    def __str__(self) -> str:
        return f"{self.low}" if self.low == self.high else f"{self.low}..{self.high}"


def parse_value(text: str) -> tuple[str, ValueRange]:
    """Read ``NAME=NUMBER`` or ``NAME=LOW..HIGH``.

    Raises:
        ConfigError: The text has neither form, or the range is empty or not finite.
    """
    # The last "=" separates them: names may contain "=", numbers cannot.
    name, equals, numbers = text.rpartition("=")
    low, dots, high = numbers.partition("..")
    try:
        values = ValueRange(_parse_number(low), _parse_number(high if dots else low))
    except ConfigError as error:
        raise ConfigError(f"{text!r}: {error}") from None
    except ValueError:
        values = None
    if values is None or not equals or not name:
        raise ConfigError(
            f"{text!r} does not say which values an input takes; write NAME=NUMBER or NAME=LOW..HIGH, "
            "such as sample_rate=16000 or input_ids=0..1000"
        )
    return name, values


def parse_dim(text: str) -> tuple[str, int]:
    """Read ``NAME=SIZE``, where the name is that of a symbolic dimension or ``INPUT:AXIS``.

    Raises:
        ConfigError: The text is not of that form, or the size is negative.
    """
    name, equals, size = text.rpartition("=")
    try:
        number = int(size)
    except ValueError:
        number = -1
    if not equals or not name or number < 0:
        raise ConfigError(
            f"{text!r} does not set the size of a dimension; write NAME=SIZE or INPUT:AXIS=SIZE with a whole number "
            "from 0, such as batch=2 or pixels:2=320"
        )
    return name, number


def read_input_specs(session: onnxruntime.InferenceSession) -> tuple[InputSpec, ...]:
    """Return the inputs that a loaded model needs, in the model's order.

    Raises:
        ConfigError: An input is no tensor (but a sequence, for example), or has an unsupported element type.
    """
    return tuple(_read_spec(argument) for argument in session.get_inputs())


def generate_inputs(
    specs: Sequence[InputSpec],
    *,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    fallback_size: int,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Generate random inputs: floats from normal(0, 1), integers and bools from {0, 1}, empty strings.

    A symbolic dimension takes the size that ``dims`` gives it by its name or by ``INPUT:AXIS``. Otherwise, a name that
    is an expression of other names ("past + sequence") is evaluated; a batch dimension has the size 1; all others have
    ``fallback_size``. A dimension is the batch if it is axis 0 of the first input that has it (inputs with one axis are
    looked at last). A name has the same size everywhere.

    Args:
        specs: The inputs of the model.
        dims: Sizes by symbolic name or ``INPUT:AXIS``.
        values: Ranges by input name, for inputs that do not take the defaults.
        fallback_size: The size of symbolic dimensions that nothing else decides.
        seed: The same seed gives the same arrays.

    Raises:
        ConfigError: A name is unknown, sizes contradict each other, or a range does not fit its input's type.
    """
    check_known(values, [spec.name for spec in specs], "input")
    for name, value in values.items():
        if not isinstance(value, ValueRange):
            raise ConfigError(
                f"the values of the input '{name}' are a ValueRange(low, high) of onnx_gconv.runtime.inputs, but not "
                f"{value!r}"
            )
    if seed < 0:
        raise ConfigError(f"the seed {seed} is negative; give a whole number from 0")
    shapes = _resolve_shapes(specs, dims, fallback_size)
    rng = np.random.default_rng(seed)
    return {spec.name: _draw(spec, shapes[spec.name], values.get(spec.name), rng) for spec in specs}


def generate_attempts(
    specs: Sequence[InputSpec], *, dims: Mapping[str, int], values: Mapping[str, ValueRange], seed: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield generated inputs of several sizes, because a real network rejects most sizes of its axes.

    First, each of ``FALLBACK_SIZES`` is used for all unknown sizes; then, each is used for the first input only, with 1
    for the unknown sizes of other inputs. Repeated shapes are left out, so there is one attempt if ``dims`` or the
    model decide every size. For arguments and errors see `generate_inputs`.
    """
    tried: set[tuple[tuple[int, ...], ...]] = set()
    for sizes in (dims, {**_ones_after_first(specs, dims), **dims}):
        for fallback_size in FALLBACK_SIZES:
            shapes = tuple(_resolve_shapes(specs, sizes, fallback_size).values())
            elements = sum(map(math.prod, shapes))
            if shapes in tried or (tried and elements > _LARGEST_ATTEMPT):
                continue
            tried.add(shapes)
            yield generate_inputs(specs, dims=sizes, values=values, fallback_size=fallback_size, seed=seed)


def _parse_number(text: str) -> float:
    """Return a number; an int if it is written as one, because a float cannot hold all 64-bit integers."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _read_spec(argument: onnxruntime.NodeArg) -> InputSpec:
    if argument.type != "tensor(string)" and argument.type not in _DTYPES:
        raise ConfigError(f"input {argument.name!r} is a {argument.type}, which cannot be fed from an array")
    # Some exporters write -1 for an unknown size.
    shape = tuple(None if isinstance(size, int) and size < 0 else size for size in argument.shape)
    return InputSpec(argument.name, _DTYPES.get(argument.type, "string"), shape)


def check_known(names: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuse names that the model does not have.

    Raises:
        ConfigError: A name is unknown; the message suggests the most similar known name.
    """
    for name in names:
        if name in known:
            continue
        raise ConfigError(
            f"no {what} is named {name!r}; {suggestion(name, known, of_model=True) or 'the model has none'}"
        )


def _resolve_shapes(
    specs: Sequence[InputSpec], dims: Mapping[str, int], fallback_size: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input, with a size for every symbolic dimension."""
    symbols, axes = _given_sizes(specs, dims)
    first_axes: dict[str, int] = {}
    # Inputs with one axis come last: the only axis of a vector of positions is not the batch.
    for spec in sorted(specs, key=lambda spec: len(spec.shape) == 1):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                first_axes.setdefault(size, axis)
    open_symbols = [symbol for symbol in first_axes if symbol not in symbols]
    # Expressions are evaluated after the plain names whose sizes they need.
    composed = [symbol for symbol in open_symbols if _names_in(symbol) and _names_in(symbol) <= first_axes.keys()]
    for symbol in open_symbols:
        if symbol not in composed:
            symbols[symbol] = fallback_size if first_axes[symbol] else 1
    for symbol in composed:
        value = _evaluate(symbol, symbols)
        symbols[symbol] = fallback_size if value is None or value < 0 else value

    def resolve(spec: InputSpec, axis: int, size: int | str | None) -> int:
        if isinstance(size, str):
            return symbols[size]
        if size is None:
            return axes.get((spec.name, axis), fallback_size if axis else 1)
        return size

    return {spec.name: tuple(resolve(spec, axis, size) for axis, size in enumerate(spec.shape)) for spec in specs}


def _ones_after_first(specs: Sequence[InputSpec], dims: Mapping[str, int]) -> dict[str, int]:
    """Return the size 1 for every unknown dimension that the first input does not have.

    A recurrent state [layers, batch, features] with unnamed axes needs the same batch size 1 as axis 0 of the first
    input.
    """
    given, _ = _given_sizes(specs, dims)
    decided = {*given, *(specs[0].shape if specs else ())}
    ones: dict[str, int] = {}
    for spec in specs[1:]:
        for axis, size in enumerate(spec.shape):
            if size is None:
                ones[f"{spec.name}:{axis}"] = 1
            elif isinstance(size, str) and size not in decided and not _names_in(size):
                ones[size] = 1
    return ones


def _given_sizes(
    specs: Sequence[InputSpec], dims: Mapping[str, int]
) -> tuple[dict[str, int], dict[tuple[str, int], int]]:
    """Return the user's sizes by symbolic name, and those of unnamed axes by input and axis."""
    by_axis = {f"{spec.name}:{axis}": (spec, axis) for spec in specs for axis in range(len(spec.shape))}
    names = dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str))
    unnamed = [key for key, (spec, axis) in by_axis.items() if spec.shape[axis] is None]
    check_known((key for key in dims if key not in by_axis), [*names, *unnamed], "symbolic dimension")
    symbols: dict[str, int] = {}
    axes: dict[tuple[str, int], int] = {}
    for key, size in dims.items():
        if size < 0:
            raise ConfigError(f"dimension {key!r} cannot have the size {size}; give a whole number from 0")
        if key in names:
            there: int | str | None = key
        else:
            spec, axis = by_axis[key]
            there = spec.shape[axis]
            if there is None:
                axes[spec.name, axis] = size
        if isinstance(there, str) and symbols.setdefault(there, size) != size:
            raise ConfigError(f"dimension {there!r} is given two sizes, {symbols[there]} and {size}; give one")
        if isinstance(there, int) and there != size:
            raise ConfigError(f"dimension {key!r} is fixed at {there} in the model and cannot be {size}")
    return symbols, axes


def _parse_expression(symbol: str) -> ast.expr | None:
    """Return the syntax tree of a name that is an expression, such as "past_length + 1" or "2*length", or None."""
    if not re.fullmatch(r"[A-Za-z_0-9+*() -]{1,200}", symbol) or not re.search(r"[+*-]", symbol):
        return None
    try:
        return ast.parse(symbol.strip(), mode="eval").body
    except (SyntaxError, SyntaxWarning):
        return None


def _names_in(symbol: str) -> set[str]:
    """Return the names in the expression of a dimension; none for a plain name."""
    tree = _parse_expression(symbol)
    return set() if tree is None else {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _evaluate(symbol: str, sizes: Mapping[str, int]) -> int | None:
    """Return the value of a dimension's expression; None if it is not plain arithmetic with the given sizes."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Name):
            return sizes[node.id]
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise KeyError(ast.dump(node))

    tree = _parse_expression(symbol)
    try:
        return None if tree is None else value(tree)
    except KeyError:
        return None


def _draw(spec: InputSpec, shape: tuple[int, ...], values: ValueRange | None, rng: np.random.Generator) -> NDArray[Any]:
    """Return a generated array for an input."""
    dtype = spec.dtype
    if isinstance(dtype, str):
        if values is not None:
            raise ConfigError(f"input {spec.name!r} holds strings and cannot take numbers; give it in an .npz file")
        return np.full(shape, "", dtype=object)
    if dtype.kind in "iub":
        low, high = (0, 1) if values is None else _integer_bounds(spec, dtype, values)
        return np.asarray(rng.integers(low, high, size=shape, dtype=dtype.type, endpoint=True))
    exact = np.float64 if dtype == np.float64 else np.float32
    if values is None:
        return np.asarray(rng.standard_normal(shape, dtype=exact)).astype(dtype)
    largest = float(ml_dtypes.finfo(dtype).max)
    if max(abs(values.low), abs(values.high)) > largest:
        raise ConfigError(f"input {spec.name!r} is {dtype} and cannot take {values}; its largest value is {largest:g}")
    portion = np.asarray(rng.random(shape))
    # Not low + portion * (high - low), which can overflow for large floats. The clip keeps roundings in the range.
    drawn = np.clip((1 - portion) * values.low + portion * values.high, values.low, values.high)
    return np.asarray(drawn).astype(dtype)


def _integer_bounds(spec: InputSpec, dtype: np.dtype[Any], values: ValueRange) -> tuple[int, int]:
    """Return the ends of a range as integers of the input's type."""
    lowest, highest = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    low, high = int(values.low), int(values.high)
    if (low, high) != (values.low, values.high) or low < lowest or high > highest:
        raise ConfigError(
            f"input {spec.name!r} is {dtype} and cannot take {values}; give whole numbers from {lowest} to {highest}"
        )
    return low, high
