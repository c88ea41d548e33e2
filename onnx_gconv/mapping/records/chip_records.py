"""Records of measured or simulated chips: a weight can hold their conductances in place of its targets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.mapping.records.record import Record
from onnx_gconv.schemes.scale_grid import ScaleGrid

__all__ = ["MeasuredRecord", "ReadNoiseRecord", "SimulatedRecord"]


class ReadNoiseRecord(Record):
    """How nodes draw readings of a device, anew in each run: ``clip(G + sigma * N(0, 1), low_us, high_us)``.

    `sigma` names an initializer in µS with the type and shape of the conductances G; `seed` is the seed of the
    RandomNormalLike node.
    """

    sigma: str
    seed: int = Field(ge=1, lt=2**24)
    low_us: float
    high_us: float | None


class SimulatedRecord(Record):
    """The simulated chip that the conductances come from; `program_model` reproduces them from these settings.

    If nodes draw readings, `read_noise` has one record for each device, in the order of the conductances.
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
        """Leave out an empty `read_noise`: manifests of before it existed stay the same byte by byte."""
        found: dict[str, Any] = serialize(self)
        if not self.read_noise:
            del found["read_noise"]
        return found


class MeasuredRecord(Record):
    """The measured or simulated chip that the conductances come from, and how far the weights are from their targets.

    The errors are in units of weight, before weights are rounded to integer codes or cast. To compensate drift, the
    scale of the targets is divided by `factor`, or each scale by its own of `factors`. `factors` has one number for
    each group of elements that share a scale, in the C order of [matrices, pieces of rows, pieces of columns].
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
        """Leave out defaults of later keys: manifests of before these keys existed stay the same byte by byte."""
        found: dict[str, Any] = serialize(self)
        usual = {"factor": 1.0, "factors": None, "simulated": None}
        return {name: value for name, value in found.items() if name not in usual or value != usual[name]}

    def factor_of_each(self, grid: ScaleGrid | None) -> FloatOrArray:
        """The factor that compensates drift, or an array of one factor for each scale, of the shape of their grid."""
        if self.factors is None:
            return self.factor
        return np.reshape(np.array(self.factors), () if grid is None else grid.shape)

    @property
    def origin(self) -> str:
        """Where the conductances come from, as text that follows the word "conductances"."""
        if self.simulated is not None:
            return f"of a simulated chip ('{self.simulated.device}')"
        return f"measured on a chip ('{self.source}')"
