"""Programs a simulated chip: writes a mapped model whose conductances are those of the chip, not the targets."""

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
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.passes import MeasuredConductances, ReplaceConductances
from onnx_gconv.simulation.chips.chip_weight import (
    AbsoluteSums,
    Chip,
    DriftCompensation,
    drift_factor,
    simulated_tensors,
    tensor_parts,
)
from onnx_gconv.simulation.chips.chips import Chips, check_weight, chips_of, scaling_notes, whole_number
from onnx_gconv.simulation.chips.live_noise import LiveNoise, live_noise
from onnx_gconv.simulation.chips.simulated_tensor import Moment, SimulatedTensor, Stretch
from onnx_gconv.simulation.chips.weight_errors import weight_errors
from onnx_gconv.simulation.report import ProgramReport, ReadNoiseMode, SimulatedWeight
from onnx_gconv.simulation.times import seconds_of
from onnx_gconv.tensors.spooled import Spool, SpooledTensor
from onnx_gconv.tensors.streamed import StreamedTensor, worker_count

__all__ = ["default_chip_path", "program_model"]


@dataclass(frozen=True)
class _Instance:
    """A chip that is written as a model.

    Attributes:
        chips: All chips of the device model and the seed.
        number: The number of this chip.
        seconds: How long after programming the chip is read.
        live: How the model draws readings; None if the chip is read once.
        spool: Keeps the simulated conductances until they are written.
    """

    chips: Chips
    number: int
    seconds: float
    live: LiveNoise | None
    spool: Spool

    @property
    def moment(self) -> Moment:
        """Which conductances are written: one reading, or the means of readings that the model draws itself."""
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
    mapping, as the hardware does it. `apply_noise` of aihwkit does the same. aihwkit's `program_analog_weights` and
    `drift_analog_weights` do not: they compute a new scale from the programmed weights.

    The same seed and chip give the same model on any number of processors and with any memory. With another time they
    give the same devices, after more or less drift. Memory does not grow with the model.

    Args:
        mapped: The mapped model, as a file or in memory as for `simulate`. It is not changed.
        output: The model to write. If None, it is named ``NAME.chip.onnx`` and written beside the file of `mapped`.
        device: The name of a device model, the name of a preset that has one, or a device model.
        settings: Settings of a device model that is given by its name, such as ``{"read_scale": 0.5}``.
        time: How long after programming the chip is read: seconds, or a text such as ``1d``.
        seed: The seed of all random numbers.
        chip: The number of the chip. Each chip of a seed has devices of its own.
        drift_compensation: ``global`` corrects the scale of each weight by one factor, which undoes the mean effect of
            drift, see `drift_factor`. ``tile`` and ``column`` do so for each tile or output column; each of these needs
            a scale of its own. ``none`` leaves the scale as it is.
        read_noise: ``fixed`` reads the chip once, and each run of the model computes with these readings. ``live``
            stores the conductances after drift without read noise, and adds nodes to the model that draw the noise
            in each run. Drift factors and errors are then those of the conductances without read noise. Devices and
            their drift are the same for both.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        progress: Called with the step ("simulate", "write"), what is done and how much there is.

    Raises:
        ModelError: If the model cannot be read or is not mapped, its conductances are not targets but those of a chip,
            or ONNX Runtime cannot run the nodes that draw noise in it.
        ConfigError: If there is no such device, an option is wrong, conductances are outside of the range of the device
            model, drift cannot be compensated in that way, the device model does not give the standard deviation of
            readings, or the output cannot be written.
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
        notes=(
            *_notes(check.note, read_noise, live, chips),
            *_notes_of_errors(figures, live, chips),
            *scaling_notes(weights, chips),
        ),
        read_noise="fixed" if live is None else "live",
    )


def default_chip_path(mapped: Path) -> Path:
    """The default path of a chip's model: ``model.chip.onnx`` beside ``model.gconv.onnx``."""
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


def _notes_of_errors(figures: Sequence[SimulatedWeight], live: LiveNoise | None, chips: Chips) -> Iterator[str]:
    if live is None and figures and not any(item.max_abs_error for item in figures):
        yield (
            f"the chip has exactly the targets: the device '{chips.device}' has no errors and no noise with these "
            "settings; give it some with --device-option (settings=)"
        )


def _simulated(
    weights: Sequence[MappedWeight],
    instance: _Instance,
    progress: Progress | None,
) -> Iterator[tuple[MeasuredConductances, SimulatedWeight]]:
    """The simulated conductances of each weight and its line of the report, in the order of the weights."""
    sizes = [math.prod(weight.record.shape) * len(weight.record.conductances) for weight in weights]
    report, done = progress_of_step(progress, "simulate"), 0
    with ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_one, weight, instance, *_tensors(weight, instance)) for weight in weights]
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
    """The factors that compensate the drift of a weight.

    All devices are programmed and read once for it; readings that `read` keeps are stored on the way.
    """
    before, after = AbsoluteSums(record, compensation), AbsoluteSums(record, compensation)
    for devices in _stretches(tensors, read):
        before.add([device.programmed for device in devices])
        after.add([device.found for device in devices])
    return drift_factor(record, before.total, after.total, compensation)


def _stretches(tensors: Sequence[SimulatedTensor], read: Sequence[StreamedTensor]) -> Iterator[tuple[Stretch, ...]]:
    """The stretches of all devices of a weight, side by side; readings that `read` keeps are stored on the way."""

    def of_device(tensor: SimulatedTensor, kept: StreamedTensor) -> Iterator[Stretch]:
        simulated = tensor.stretches()
        return kept.storing(simulated) if isinstance(kept, SpooledTensor) else simulated

    return zip(*map(of_device, tensors, read), strict=True)


def _tensors(
    weight: MappedWeight, instance: _Instance
) -> tuple[tuple[SimulatedTensor, ...], tuple[StreamedTensor, ...]]:
    """The simulated conductances of a weight, and the same with a place in the temporary file.

    They are read for the drift factors or for the errors, and for the output. Places are given in the order of the
    weights, so that the output does not depend on the order in which threads get there.
    """
    tensors = simulated_tensors(weight, instance.chip, instance.moment)
    return tensors, tuple(instance.spool.kept(tensor) for tensor in tensors)


def _one(
    weight: MappedWeight,
    instance: _Instance,
    tensors: Sequence[SimulatedTensor],
    read: Sequence[StreamedTensor],
) -> tuple[MeasuredConductances, SimulatedWeight]:
    record, chip, live = weight.record, instance.chip, instance.live
    pieces: Iterator[tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]]
    if chip.compensation == "none":
        factor: FloatOrArray = 1.0
        both = _stretches(tensors, read)
        pieces = (([each.targets for each in one], [each.found for each in one]) for one in both)
    else:
        factor = _drift_factor(record, tensors, read, chip.compensation)
        pieces = zip(tensor_parts(weight.tensors), tensor_parts(read), strict=True)
    errors = weight_errors(weight, pieces, factor)
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
