"""Programs a simulated chip: writes a mapped model with the conductances that devices hold in place of the targets."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.models import check_output_path, save_model
from onnx_gconv.files.naming import named_in_messages, stem_of_mapped
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.rewrite_check import RewriteCheck
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping import SimulatedRecord, WeightRecord
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.passes import MeasuredConductances, ReplaceConductances
from onnx_gconv.simulation.chips.chip_weight import (
    AbsoluteSums,
    Chip,
    DriftCompensation,
    drift_factor,
    simulated_tensors,
    weight_errors,
)
from onnx_gconv.simulation.chips.chips import Chips, check_weight, chips_of, scaling_notes, whole_number
from onnx_gconv.simulation.chips.live_noise import LiveNoise, live_noise
from onnx_gconv.simulation.chips.simulated_tensor import Moment, SimulatedTensor
from onnx_gconv.simulation.report import ProgramReport, ReadNoiseMode, SimulatedWeight
from onnx_gconv.simulation.times import seconds_of
from onnx_gconv.tensors.spooled import Spool, SpooledTensor
from onnx_gconv.tensors.streamed import StreamedTensor, worker_count

__all__ = ["default_chip_path", "program_model"]


@dataclass(frozen=True)
class _Instance:
    """A chip that is written as a model.

    Attributes:
        chips: The chips that it is one of.
        number: Which of them.
        seconds: How long after programming it is read.
        live: How the model draws readings; None if it is read once.
        spool: Where its conductances are kept until they are written.
    """

    chips: Chips
    number: int
    seconds: float
    live: LiveNoise | None
    spool: Spool

    @property
    def moment(self) -> Moment:
        """What becomes of conductances before they are written."""
        return "read" if self.live is None else "drifted"

    @property
    def chip(self) -> Chip:
        return self.chips.chip(self.number, self.seconds)

    @property
    def record(self) -> SimulatedRecord:
        return self.chips.record(self.number, self.seconds)


def program_model(
    mapped: ModelLike,
    output: str | os.PathLike[str] | None = None,
    device: str | DeviceModel = "pcm",
    *,
    settings: Mapping[str, Any] | None = None,
    time: str | float = 0.0,
    seed: int = 0,
    chip: int = 0,
    drift_compensation: DriftCompensation = "none",
    read_noise: ReadNoiseMode = "fixed",
    external_data: bool | None = None,
    progress: Progress | None = None,
) -> ProgramReport:
    """Write one simulated chip as an ONNX model: programmed once, drifted for some time, and read once.

    Devices are programmed to the conductances of the mapping, and the weights are rebuilt with the scale of the
    mapping, as the hardware does it. aihwkit's `program_analog_weights` and `drift_analog_weights` convert programmed
    weights again, with another scale; its `apply_noise` gives what this function gives.

    The same seed and chip give the same model, whatever the machine has of processors and memory. Chips of other times
    with that seed are the same devices later. Memory does not grow with the model.

    Args:
        mapped: The mapped model, as a file or in memory as for `simulate`. It is not changed.
        output: The model to write; beside the file of `mapped`, named ``NAME.chip.onnx``, if None.
        device: The name of a device model, or of a preset that has one; or a device model.
        settings: Of the device model, if it is given by its name, such as ``{"read_scale": 0.5}``.
        time: How long after programming the chip is read: seconds, or a text such as ``1d``.
        seed: Of all random numbers.
        chip: Which chip of that seed; each has devices of its own.
        drift_compensation: ``global`` multiplies each weight by one factor, in its scale, so that drift on the whole
            has no effect, see `drift_factor`; ``tile`` and ``column`` do so for each tile or output column, where each
            has a scale of its own; ``none`` leaves the scale.
        read_noise: ``fixed`` reads the chip once: each run of the model computes with these readings. ``live`` stores
            what devices have after drift, and puts nodes into the model that draw the noise of a reading, anew in each
            run; drift is then compensated for these conductances without noise, and so are errors given. The devices
            and their drift are those of ``fixed``.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        progress: Called with the step ("simulate", "write"), what is done and how much there is.

    Raises:
        ModelError: If the model cannot be read, is no mapped model with targets, or ONNX Runtime could not draw noise
            in it.
        ConfigError: If there is no such device, an option is wrong, conductances are outside of the range of the device
            model, drift cannot be compensated in that way, the device does not say how readings are spread, or the
            output cannot be written.
    """
    given = GivenModel.of(mapped, "program_model")
    source, target = given.label, given.output(output, default_chip_path)
    chips = chips_of(device, settings or {}, seed, drift_compensation)
    chip = whole_number("chip", chip)
    seconds = seconds_of(time)
    if read_noise not in {"fixed", "live"}:
        raise ConfigError(f"the noise of readings is 'fixed' or 'live', but not '{read_noise}'")
    check_output_path(
        target, [*given.files, *([Path(device)] if isinstance(device, str) and Path(device).is_file() else [])]
    )
    watched = WatchedFiles()
    model = given.load(watched, may_lack_data=True)
    with (
        named_in_messages(source, options_concern_it=False),
        watched.blamed(),
        Spool(target.parent) as spool,
    ):
        weights = target_weights(model, "programmed", "program")
        with named_in_messages(source):
            for weight in weights:
                check_weight(weight, chips)
            live = live_noise(model, weights, chips.chip(chip, seconds)) if read_noise == "live" else None
        check = RewriteCheck(model)
        replacements: dict[tuple[str, str], MeasuredConductances] = {}
        figures = []
        for weight, (conductances, found) in zip(
            weights, _simulated(weights, _Instance(chips, chip, seconds, live, spool), progress), strict=True
        ):
            replacements[weight.record.graph, weight.record.name] = conductances
            figures.append(found)
        ReplaceConductances(replacements)(model)
        check.require_sound(model)
        step = progress_of_step(progress, "write")
        files = save_model(
            model, target, external_data=external_data, inputs=given.files, watched=watched, progress=step
        )
    return ProgramReport(
        mapped=source,
        output=target,
        files=tuple(files),
        simulated=chips.record(chip, seconds),
        weights=tuple(figures),
        notes=(*_notes(check.note, read_noise, live, chips), *scaling_notes(weights, chips)),
        read_noise="fixed" if live is None else "live",
    )


def default_chip_path(mapped: Path) -> Path:
    """``model.chip.onnx`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}.chip{mapped.suffix}")


def _notes(of_check: str | None, read_noise: ReadNoiseMode, live: LiveNoise | None, chips: Chips) -> Iterator[str]:
    if of_check is not None:
        yield of_check
    if live is not None:
        yield (
            "each run draws new readings of all devices; errors and drift factors are those of the conductances "
            "without that noise"
        )
    elif read_noise == "live":
        yield (
            f"readings of the device '{chips.device}' with these settings have no noise at that time: there is nothing "
            "to draw, and each run gives the same"
        )


def _simulated(
    weights: Sequence[MappedWeight],
    instance: _Instance,
    progress: Progress | None,
) -> Iterator[tuple[MeasuredConductances, SimulatedWeight]]:
    """What takes the place of the conductances of each weight, and its figures, in their order."""
    sizes = [math.prod(weight.record.shape) * len(weight.record.conductances) for weight in weights]
    report, done = progress_of_step(progress, "simulate"), 0
    with ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_one, weight, instance) for weight in weights]
        try:
            for job, size in zip(jobs, sizes, strict=True):
                yield job.result()
                done += size
                if report is not None:
                    report(done, sum(sizes))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _drift_factor(
    record: WeightRecord,
    tensors: Sequence[SimulatedTensor],
    read: Sequence[StreamedTensor],
    compensation: DriftCompensation,
) -> FloatOrArray:
    """What compensates the drift of a weight, of which all devices are programmed and read once, and kept then."""
    before, after = AbsoluteSums(record, compensation), AbsoluteSums(record, compensation)

    def chunks(tensor: SimulatedTensor, kept: StreamedTensor) -> Iterator[tuple[NDArray[Any], ...]]:
        both = tensor.with_programmed()
        return kept.storing(both) if isinstance(kept, SpooledTensor) else both

    for devices in zip(*map(chunks, tensors, read), strict=True):
        before.add([programmed for programmed, _ in devices])
        after.add([found for _, found in devices])
    return drift_factor(record, before.total, after.total, compensation)


def _one(weight: MappedWeight, instance: _Instance) -> tuple[MeasuredConductances, SimulatedWeight]:
    record, chip, live = weight.record, instance.chip, instance.live
    # They are read to compute factors and errors, and once more to be written.
    tensors = simulated_tensors(weight, chip, instance.moment)
    read = [instance.spool.kept(tensor) for tensor in tensors]
    factor = 1.0 if chip.compensation == "none" else _drift_factor(record, tensors, read, chip.compensation)
    errors = weight_errors(weight, read, factor)
    cells = math.prod(record.shape) * len(read)
    conductances = MeasuredConductances(
        tuple(read),
        source=instance.chips.device,
        cells=cells,
        measured=cells,
        max_abs_error=errors.max_abs,
        rms_error=errors.rms,
        simulated=instance.record,
        factor=factor,
        read_noise=() if live is None else live.of_weight(weight, chip),
    )
    figures = SimulatedWeight(
        name=record.name,
        graph=record.graph,
        cells=cells,
        max_abs=record.max_abs,
        max_abs_error=errors.max_abs,
        rms_error=errors.rms,
        sqnr_db=errors.sqnr_db,
        drift_factor=float(np.mean(factor)),
        drift_factor_range=(float(np.min(factor)), float(np.max(factor))),
        known_as=record.known_as,
    )
    return conductances, figures
