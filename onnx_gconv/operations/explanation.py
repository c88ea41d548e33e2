"""The report of how one element of a weight becomes conductances, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.mapping import WeightRecord
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import plain

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["CellOnTile", "DeviceOfCell", "Explanation", "ScaleGroup"]

_DIGITS = {"float64": 17}
_DIGITS_OF_FLOAT32 = 9


@dataclass(frozen=True)
class ScaleGroup:
    """The elements that share the scale of the explained element.

    Attributes:
        matrix: Number of the matrix that contains them; None if the whole weight has one scale.
        rows: The first row (input), and the one after the last.
        columns: The first column (output), and the one after the last.
        minimum: The smallest element, in units of weight; for integer codes, of the codes minus their zero points.
        maximum: The largest element, in the same units.
    """

    matrix: int | None
    rows: tuple[int, int]
    columns: tuple[int, int]
    minimum: float
    maximum: float

    @property
    def max_abs(self) -> float:
        """max|W| of the group, in units of weight."""
        return max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True)
class DeviceOfCell:
    """One of the devices that hold an element.

    Attributes:
        device: Its name, e.g. ``g_plus``.
        coefficient: The factor of its conductance in the decoding.
        initializer: The initializer that contains the conductance.
        conductance_us: Its conductance, in µS.
        level: The number of its level, from 0; None if conductances are not rounded to levels, or were measured.
        code: The level code that the initializer contains instead of the conductance; None if it contains conductances.
    """

    device: str
    coefficient: float
    initializer: str
    conductance_us: float
    level: int | None
    code: int | None


@dataclass(frozen=True)
class CellOnTile:
    """The place of the element in a bundle.

    Attributes:
        layer: Id of the layer, e.g. ``L003``.
        tile: Id of the tile, e.g. ``L003/T0007``.
        row: The row (input) in the tile, from 0.
        column: The column (output) in the tile, from 0.
        array: Rows and columns of an array.
    """

    layer: str
    tile: str
    row: int
    column: int
    array: tuple[int, int]


@dataclass(frozen=True, repr=False)
class Explanation(ShownReport):
    """How one element of a weight becomes conductances; ``print`` shows it step by step.

    The values of integer weights are codes minus their zero points, which the conductances stand for.

    Attributes:
        model: The model.
        is_mapped_now: Whether it is a plain model, which was mapped in memory.
        record: The manifest's record of the weight.
        readers: The MVM nodes that read the weight.
        matrices: Number of matrices of the weight, and the inputs (rows) and outputs (columns) of each.
        matrix: Number of the matrix of the element, from 0.
        row: Row (input) of the element, from 0.
        column: Column (output) of the element, from 0.
        element: Index of the element in the tensor.
        rule: The equations of the converter; empty if the docstring of its class has none.
        value: The original element, in units of weight; None if the original is not known.
        zero_point: The zero point of its code; None if the weight has no codes.
        group: The elements that share its scale.
        scale: The scale of the group in the model, in µS per unit of weight.
        drift_factor: The scale of the targets divided by `scale`; it compensates the drift of a simulated chip.
        zero: The number that is added to the quotient, in units of weight.
        limits: The smallest and the largest weight that devices can hold with the scale of the targets.
        devices: The devices of the element.
        rebuilt: The element that the model rebuilds, in units of weight.
        bound: The mapping's bound for ``|rebuilt - W|`` for W within the limits; None if devices were measured.
        tile: The place of the element in a bundle; None if no size of arrays was given.
    """

    model: Path
    is_mapped_now: bool
    record: WeightRecord
    readers: tuple[str, ...]
    matrices: tuple[int, int, int]
    matrix: int
    row: int
    column: int
    element: tuple[int, ...]
    rule: tuple[str, ...]
    value: float | None
    zero_point: float | None
    group: ScaleGroup
    scale: float
    drift_factor: float
    zero: float
    limits: tuple[float, float]
    devices: tuple[DeviceOfCell, ...]
    rebuilt: float
    bound: float | None
    tile: CellOnTile | None = None

    @property
    def error(self) -> float | None:
        """``rebuilt - W``, in units of weight; None if the original is not known."""
        return None if self.value is None else self.rebuilt - self.value

    @property
    def is_clipped(self) -> bool:
        """Whether the element is beyond the devices' range and was clipped on purpose."""
        low, high = self.limits
        ends = 1 + 4 * 2.0**-23  # the limits have rounding errors
        return (
            self.record.clipping is not None
            and self.value is not None
            and not (low * ends <= self.value <= high * ends)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        matrices, rows, columns = self.matrices
        return {
            "model": str(self.model),
            "weight": self.record.name,
            "parameter": self.record.parameter,
            "dtype": self.record.dtype,
            "shape": list(self.record.shape),
            "readers": list(self.readers),
            "matrices": {"count": matrices, "rows": rows, "columns": columns},
            "matrix": self.matrix,
            "row": self.row,
            "column": self.column,
            "element": list(self.element),
            "converter": self.record.converter.model_dump(),
            "rule": list(self.rule),
            "granularity": self.record.granularity,
            "value": self.value,
            "zero_point": self.zero_point,
            "group": {**asdict(self.group), "max_abs": self.group.max_abs},
            "clipped": self.is_clipped,
            "limits": list(self.limits),
            "scale": self.scale,
            "drift_factor": self.drift_factor,
            "offset_us": self.record.offset_us,
            "zero": self.zero,
            "devices": [asdict(device) for device in self.devices],
            "rebuilt": self.rebuilt,
            "error": self.error,
            "bound": self.bound,
            "tile": None if self.tile is None else asdict(self.tile),
        }

    def _in_short(self) -> str:
        held = ", ".join(f"{item.device} {self._number(item.conductance_us)} µS" for item in self.devices)
        return f"{self.record.known_as} [{self.row}, {self.column}] of matrix {self.matrix}: {held}"

    def _frame_tables(self) -> FrameTables:
        return {"devices": self._columns}

    def _columns(self) -> Columns:
        return {
            "device": Column("text", [item.device for item in self.devices]),
            "coefficient": Column("number", [item.coefficient for item in self.devices]),
            "conductance_us": Column("number", [item.conductance_us for item in self.devices]),
            "level": Column("whole number", [item.level for item in self.devices]),
            "initializer": Column("text", [item.initializer for item in self.devices]),
        }

    def __rich__(self) -> Group:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table

        matrices, rows, columns = self.matrices
        of = "its matrix" if matrices == 1 else f"matrix {self.matrix} of its {matrices:,}"
        weight = (
            f"{self.record.quoted}, {self.record.dtype} {list(self.record.shape)}, read by {', '.join(self.readers)}"
        )
        place = f"Row {self.row} (input), column {self.column} (output) of {of}, {rows:,} inputs by {columns:,} outputs"
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold", style="dim")
        for name, number, remark in self._steps():
            table.add_row(plain(name), plain(number), plain(remark))
        rule = () if not self.rule else (plain(f"The rule of {self.record.converter.name}", *self.rule, style="dim"),)
        lines = (weight, f"{place}; element {list(self.element)} of the tensor")
        return Group(plain(*lines, style="bold"), table, *rule)

    def _steps(self) -> Iterator[tuple[str, str, str]]:
        """Yield the steps of the conversion in order, each as quantity, number, and remark on its origin."""
        number, record = self._number, self.record
        yield from self._value_steps()
        parameters = dict(record.converter.parameters)
        low, high = parameters.pop("g_min"), parameters.pop("g_max")
        others = ", ".join(f"{name} = {value}" for name, value in parameters.items() if value not in (None, False))
        yield "range", f"{low:g} to {high:g} µS", others and f"{record.converter.name} with {others}"
        yield "scale", f"{number(self.scale)} µS", self._source_of_scale()
        for item in self.devices:
            level = "" if item.level is None else f"level {item.level} of {record.levels.count if record.levels else 0}"
            code = "" if item.code is None else f"stored as code {item.code}"
            remark = ", ".join(filter(None, (f"'{item.initializer}'", level, code)))
            yield item.device, f"{number(item.conductance_us)} µS", remark
        if record.measured is not None:
            yield "", "", f"conductances {record.measured.origin}, no targets"
        if record.read_noise:
            yield "", "", "without the noise of readings, which each run of the model draws anew"
        yield "rebuilt", number(self.rebuilt), self._quotient()
        yield from self._error_steps()
        if self.tile is not None:
            size = "x".join(map(str, self.tile.array))
            yield "tile", f"{self.tile.tile}", f"row {self.tile.row}, column {self.tile.column}, on arrays of {size}"

    def _value_steps(self) -> Iterator[tuple[str, str, str]]:
        number, group = self._number, self.group
        if self.value is None:
            yield "W", "not known", "give the original (--original) to see it"
        else:
            code = "" if self.zero_point is None else f"the code less its zero point {self.zero_point:g}"
            yield "W", number(self.value), code or ("of the model" if self.is_mapped_now else "of the original")
        whole = "all elements"
        if group.matrix is not None:
            of = "" if self.matrices[0] == 1 else f" of matrix {group.matrix}"
            places = f"{_stretch('row', group.rows)}, {_stretch('column', group.columns)}{of}"
            whole = f"the elements that share a scale: {places}"
        as_rebuilt = "" if self.value is not None else ", as they are rebuilt"
        yield (
            "max|W|",
            number(group.max_abs),
            f"of {whole}{as_rebuilt} ({number(group.minimum)} to {number(group.maximum)})",
        )

    def _source_of_scale(self) -> str:
        record = self.record
        low, high = (self._number(limit) for limit in self.limits)
        held = f"devices then hold {low} to {high}"
        drift = "" if self.drift_factor == 1 else f"; that of the targets is {self._number(self.drift_factor)} times it"
        if record.clipping is not None:
            at = (
                f"at {record.clipping.value:g}"
                if record.clipping.percentile is None
                else f"at the percentile {record.clipping.percentile:g} of |W|"
            )
            clipped = ", so that this element is clipped" if self.is_clipped else ""
            return f"'{record.scale.name}': weights are clipped {at}; {held}{clipped}{drift}"
        return f"'{record.scale.name}': {held}{drift}"

    def _quotient(self) -> str:
        """Return the equation that rebuilds the element from its conductances, with numbers."""
        record = self.record
        terms = []
        for place, item in enumerate(self.devices):
            sign = "-" if item.coefficient < 0 else "+" if place else ""
            factor = "" if abs(item.coefficient) == 1 else f"{abs(item.coefficient):g} * "
            terms.append(f"{sign} {factor}{self._number(item.conductance_us)}".strip())
        offset = f" - {self._number(record.offset_us)}" if record.offset_us else ""
        total = f"{' '.join(terms)}{offset}"
        total = f"({total})" if len(terms) > 1 or offset else total
        zero = f" + {self._number(self.zero)}" if self.zero else ""
        quotient = f"{total} / {self._number(self.scale)}{zero}"
        if record.rounded:
            return f"round({quotient})"
        return quotient if record.dtype == record.compute_dtype else f"{quotient}, as {record.dtype}"

    def _error_steps(self) -> Iterator[tuple[str, str, str]]:
        number = self._number
        bound = "" if self.bound is None else "0, exactly W" if not self.bound else number(self.bound)
        of = " from what the devices hold" if self.is_clipped else ""
        promise = f"promised: at most {bound}{of}" if bound else "of measured conductances nothing is promised"
        if self.error is None:
            yield "error", "not known", promise
        else:
            yield "error", number(self.error), promise

    def _number(self, number: float) -> str:
        digits = _DIGITS.get(self.record.compute_dtype, _DIGITS_OF_FLOAT32)
        return f"{number:.{digits}g}"


def _stretch(what: str, ends: tuple[int, int]) -> str:
    """Return a range as text, e.g. ``rows 0 to 63``, or ``row 3``."""
    first, last = ends[0], ends[1] - 1
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"
