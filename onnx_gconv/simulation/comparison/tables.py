"""What the TOML file of a comparison can say, as pydantic models, which check values.

What `onnx_gconv.configuration` has of mappings is used as it is there.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

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
    """How a plain model is mapped: what a configuration has in its defaults and of the model, and `config`."""

    config: str | None = None
    """A configuration, which may have overrides for some weights; the other keys win over what it says."""

    @property
    def given(self) -> dict[str, Any]:
        """What is said, by its key."""
        return {name: value for name in self.model_fields_set if (value := getattr(self, name)) is not None}


class SimulatedTable(SettingsTable):
    """What is simulated."""

    device: _Device | None = None
    """The device model: a name, a preset that has one, or a .csv or .toml file of measurements. Default: "pcm"."""
    device_options: dict[str, Any] | None = None
    """Its settings."""
    drift_compensation: DriftCompensation | None = None
    """Whether a factor for each weight makes up for drift. Default: "none"."""
    times: Annotated[Any, WrapValidator(_seconds, json_schema_input_type=_Time | tuple[_Time, ...])] | None = None
    """When after programming chips are read: seconds, or texts such as "1d". Default: 1s, 1h, 1d, 1mo and 1y."""
    repeats: Count | None = None
    """How many chips. Default: 25."""
    mapping: MappingTable = MappingTable()
    """How a plain model is mapped."""


class CandidateTable(SimulatedTable):
    """What one of the candidates has of its own."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """What it is called. Default: what it has of its own."""


def _all_of(field: FieldInfo) -> tuple[Any, None]:
    """A list of values of a field, which need not be given: its type, and its default."""
    values: Any = tuple.__class_getitem__((field.rebuild_annotation(), ...))
    return Annotated[values | None, WrapValidator(_alternatives)], None


_LISTS: dict[str, Any] = {name: _all_of(field) for name, field in MappingTable.model_fields.items()}
GridMapping: Any = create_model("GridMapping", __base__=SettingsTable, **_LISTS)


class Grid(SettingsTable):
    """Lists of values, of which all combinations are candidates. The values of the last key change first."""

    device: Annotated[tuple[_Device, ...] | None, WrapValidator(_alternatives)] = None
    """Device models."""
    device_options: dict[str, Annotated[tuple[Any, ...], WrapValidator(_alternatives)]] = Field(default={})
    """Values of their settings."""
    drift_compensation: Annotated[tuple[DriftCompensation, ...] | None, WrapValidator(_alternatives)] = None
    """Compensations of drift."""
    mapping: GridMapping = GridMapping()
    """Values of the keys of a mapping."""


class ComparisonTable(SimulatedTable):
    """Candidates, what they have in common, and what they are compared by."""

    candidates: Annotated[tuple[CandidateTable, ...], WrapValidator(_tables)] = ()
    """What each candidate has of its own."""
    grid: Grid = Grid()
    """More candidates: all combinations of values."""
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**64)] | None = None
    """Of all random numbers, which are the same for all candidates. Default: 0."""
    inputs: str | None = None
    """An .npz file with an array for each input, samples along the first axis. Default: generated inputs."""
    labels: str | None = None
    """The array in it that has the right classes."""
    metric: str | None = None
    """The metric. Default: "accuracy" with labels, else "sqnr"."""
    output: str | None = None
    """The output that the metric is about. Default: the first one of floats."""
    batch: Count | None = None
    """How many samples go into one run. Default: what the model takes, or all; of more than 256 MiB, so many as have
    64 MiB."""
