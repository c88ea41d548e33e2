"""The tables of the TOML file of a comparison, as pydantic models that check keys and values.

The keys of a mapping are those of `onnx_gconv.configuration`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field, Strict, ValidatorFunctionWrapHandler, WrapValidator, create_model
from pydantic.fields import FieldInfo

from onnx_gconv.configuration.setting_tables import Count, DeviceSettings, SettingsTable
from onnx_gconv.configuration.settings import ModelSettings, WeightSettings
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.simulation.chips.chip_weight import DriftCompensation
from onnx_gconv.simulation.times import times_of
from onnx_gconv.validation_messages import shown

__all__ = ["CandidateTable", "ComparisonTable", "Grid", "MappingTable"]


def _device(value: object, _: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if not isinstance(value, (str, DeviceModel)):
        raise ValueError(f"should be the name of a device model, but it is {shown(value)}")  # noqa: TRY004
    return value


def _seconds(value: object, _: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if isinstance(value, bool) or not isinstance(value, (str, int, float, list, tuple)):
        raise ValueError(f'should be a list of times, such as ["1s", "1d"], but it is {shown(value)}')  # noqa: TRY004
    return tuple(times_of(value))


def _tables(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if not isinstance(value, (list, tuple)):
        raise ValueError("should be a list of tables; write [[candidates]] above each of them")  # noqa: TRY004
    return handler(value)


def _alternatives(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"should be a list of values, each of which is tried, but it is {shown(value)}")
    return handler(value)


_Device: TypeAlias = Annotated[Any, WrapValidator(_device, json_schema_input_type=str)]
_Time: TypeAlias = str | float


class MappingTable(WeightSettings, ModelSettings, DeviceSettings):
    """How a plain model is mapped: the keys of a configuration for weights, the model and devices, and `config`."""

    config: str | None = None
    """The file of a configuration, which may have overrides for some weights. The other keys here win over it."""

    @property
    def given(self) -> dict[str, Any]:
        """The keys that are given and not None, with their values."""
        return {name: value for name in self.model_fields_set if (value := getattr(self, name)) is not None}


class SimulatedTable(SettingsTable):
    """The device, the times and the mapping that are simulated."""

    device: _Device | None = None
    """The device model: a name, a preset that has one, or a .csv or .toml file of measurements. Default: "pcm"."""
    device_options: dict[str, Any] | None = None
    """Settings of the device model."""
    drift_compensation: DriftCompensation | None = None
    """How drift is compensated: by a factor for each weight, tile or column, or not at all. Default: "none"."""
    times: Annotated[Any, WrapValidator(_seconds, json_schema_input_type=_Time | tuple[_Time, ...])] | None = None
    """When after programming chips are read: seconds, or texts such as "1d". Default: 1s, 1h, 1d, 1mo and 1y."""
    repeats: Count | None = None
    """How many chips are simulated. Default: 25."""
    mapping: MappingTable = MappingTable()
    """How a plain model is mapped."""


class CandidateTable(SimulatedTable):
    """A candidate: its name, and the keys in which it differs from others."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """The name of the candidate. Default: the values in which it differs from others."""


def _all_of(field: FieldInfo) -> tuple[Any, None]:
    """The type and the default of an optional list of values for a field."""
    values: Any = tuple.__class_getitem__((field.rebuild_annotation(), ...))
    return Annotated[values | None, WrapValidator(_alternatives)], None


_LISTS: dict[str, Any] = {name: _all_of(field) for name, field in MappingTable.model_fields.items()}
if TYPE_CHECKING:

    class GridMapping(SettingsTable):
        """Lists of values for the keys of a mapping. The fields are made from those of `MappingTable`."""

else:
    GridMapping = create_model("GridMapping", __base__=SettingsTable, **_LISTS)


class Grid(SettingsTable):
    """Lists of values; each combination is a candidate. The value of the last key changes first."""

    device: Annotated[tuple[_Device, ...] | None, WrapValidator(_alternatives)] = None
    """Device models that are tried."""
    device_options: dict[str, Annotated[tuple[Any, ...], WrapValidator(_alternatives)]] = Field(default={})
    """Lists of values for settings of the device models."""
    drift_compensation: Annotated[tuple[DriftCompensation, ...] | None, WrapValidator(_alternatives)] = None
    """Compensations of drift that are tried."""
    mapping: GridMapping = GridMapping()
    """Lists of values for the keys of a mapping."""


class ComparisonTable(SimulatedTable):
    """Candidates, their common settings, and the inputs and the metric by which they are compared."""

    candidates: Annotated[tuple[CandidateTable, ...], WrapValidator(_tables)] = ()
    """A list of candidates, each with the keys in which it differs from others."""
    grid: Grid = Grid()
    """More candidates: one for each combination of the values in these lists."""
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**64)] | None = None
    """The seed of all random numbers, which are the same for all candidates. Default: 0."""
    inputs: str | None = None
    """An .npz file with an array for each input, samples along the first axis. Default: generated inputs."""
    labels: str | None = None
    """The name of the array of labels in that file: the numbers of the right classes, or what your function takes."""
    metric: str | None = None
    """The metric. Default: "accuracy" with labels, else "sqnr"."""
    output: str | None = None
    """The output that the metric looks at. Default: the first output of floating-point numbers."""
    batch: Count | None = None
    """How many samples go into one run. Default: the batch of the model if it is fixed; else all samples, or, if they
    have more than 256 MiB, as many as have 64 MiB."""
