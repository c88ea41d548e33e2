"""What the manifest says of chips, measured or simulated, whose conductances a weight has in place of its targets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.mapping.records.record import Record
from onnx_gconv.schemes.scale_grid import ScaleGrid

__all__ = ["MeasuredRecord", "ReadNoiseRecord", "SimulatedRecord"]


class ReadNoiseRecord(Record):
    """How nodes draw readings of a device: ``clip(G + sigma * N(0, 1), low_us, high_us)``, anew in each run.

    Sigma is an initializer in µS, of the type and shape of the conductances G; the seed is that of its RandomNormalLike
    node.
    """

    sigma: str
    seed: int = Field(ge=1, lt=2**24)
    low_us: float
    high_us: float | None


class SimulatedRecord(Record):
    """The simulated chip that conductances are those of: with it, `program_model` gives them again.

    If nodes draw readings, there is a record of it for each device, in their order.
    """

    device: str
    settings: dict[str, Any]
    seconds: float = Field(ge=0)
    seed: int = Field(ge=0)
    chip: int = Field(ge=0)
    drift_compensation: Literal["none", "global", "tile", "column"]
    read_noise: tuple[ReadNoiseRecord, ...] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Chips that were read once are written as they were before there were others."""
        found: dict[str, Any] = serialize(self)
        if not self.read_noise:
            del found["read_noise"]
        return found


class MeasuredRecord(Record):
    """That the conductances are those of a chip, measured or simulated, and how far from their targets they are.

    Errors are those of the weights before they are rounded to integer codes or cast, in units of weight. The scale is
    that of the targets divided by `factor`, which compensates drift, or each scale is divided by one of `factors`: one
    for each group of elements that share a scale, those of a matrix together, and of these those of a piece of rows.
    """

    source: str
    cells: int
    measured: int
    max_abs_error: float
    rms_error: float
    saturated: bool = False
    factor: float = Field(default=1.0, gt=0)
    factors: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    simulated: SimulatedRecord | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Measured conductances are written as they were before there were simulated ones."""
        found: dict[str, Any] = serialize(self)
        usual = {"factor": 1.0, "factors": None, "simulated": None}
        return {name: value for name, value in found.items() if name not in usual or value != usual[name]}

    def factor_of_each(self, grid: ScaleGrid | None) -> FloatOrArray:
        """The factor that compensates drift, or the array of those of all scales, of the shape of their grid."""
        if self.factors is None:
            return self.factor
        return np.reshape(np.array(self.factors), () if grid is None else grid.shape)

    @property
    def origin(self) -> str:
        """Where the conductances come from, as in: conductances ... ."""
        if self.simulated is not None:
            return f"of a simulated chip ('{self.simulated.device}')"
        return f"measured on a chip ('{self.source}')"
