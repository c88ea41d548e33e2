"""Prepares a model for simulation: maps it, checks its weights, and makes the weights inputs of the model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions
from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.files.naming import named_in_messages
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.runtime.prompts import TokenIds
from onnx_gconv.simulation.bench import AskedInputs
from onnx_gconv.simulation.chips.chips import Chips, check_weight, whole_number
from onnx_gconv.simulation.mapped_in_memory import Mapped, mapped_in_memory
from onnx_gconv.simulation.run_time_weights import weights_as_inputs

__all__ = ["BenchFiles", "asked_inputs", "check_weights", "mapped_for", "saved_for_bench"]


@dataclass(frozen=True)
class BenchFiles:
    """The files from which a `Bench` is made.

    Attributes:
        bench: The model whose weights are inputs.
        names: The names of these inputs.
        mapped: The mapped model; None if it was not asked for.
    """

    bench: Path
    names: tuple[str, ...]
    mapped: Path | None


def asked_inputs(
    inputs: str | os.PathLike[str] | None,
    token_ids: Sequence[int] | TokenIds | None,
    *,
    labels: str | None,
    batch: int | None,
    dims: Mapping[str, int] | None,
    values: Mapping[str, ValueRange] | None,
    seed: int,
) -> AskedInputs:
    """The inputs that a caller asks for: a file, tokens or generated inputs. Arguments are those of `simulate`.

    Raises:
        ConfigError: If an option is given that does not apply to inputs of that kind, or the batch is not a whole
            number from 1.
    """
    batch = None if batch is None else whole_number("batch", batch, 1)
    _check_kinds(inputs, labels)
    if inputs is not None and token_ids is not None:
        raise ConfigError("token ids are inputs, too; give either them or a file with inputs")
    if inputs is None and (labels is not None or batch is not None):
        raise ConfigError("labels and batches are for inputs of your own; give a file with inputs, too")
    if (inputs is not None or token_ids is not None) and (dims or values):
        raise ConfigError("sizes and values are for generated inputs; give either them or the inputs themselves")
    return AskedInputs(
        file=None if inputs is None else Path(inputs),
        labels=labels,
        batch=batch,
        token_ids=None if token_ids is None else TokenIds.of(token_ids),
        dims=dims or {},
        values=values or {},
        seed=seed,
    )


def _check_kinds(inputs: object, labels: object) -> None:
    """Refuse arrays in place of the file and the name that hold them."""
    if inputs is not None and not isinstance(inputs, (str, os.PathLike)):
        kind = type(inputs).__name__
        raise ConfigError(f"inputs are the path of an .npz file, but not a {kind}; write arrays with numpy.savez")
    if labels is not None and not isinstance(labels, str):
        kind = type(labels).__name__
        raise ConfigError(
            f"labels are the name of an array in the file of inputs, but not a {kind}; add it to the file"
        )


def mapped_for(
    device: DeviceModel,
    graph: ir.Model,
    source: Path,
    watched: WatchedFiles,
    *,
    converter: ConverterLike | None = None,
    config: ConfigurationLike | None = None,
    mapping: MappingOptions | None = None,
) -> tuple[Mapped | None, tuple[MappedWeight, ...]]:
    """Map a plain model in place for a device; leave a mapped model as it is.

    Args:
        device: The device model.
        graph: The model.
        source: The file of the model, for messages.
        watched: The files that the model is read from.
        converter: See `MapConductances`.
        config: The configuration of the mapping, see `MapConductances`.
        mapping: More options of the mapping, see `MapConductances`.

    Returns:
        How the model was mapped, or None if it was mapped already; and its mapped weights.

    Raises:
        GconvError: If the model cannot be mapped, or its conductances are not targets but those of a chip.
    """
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        done = mapped_in_memory(graph, device, converter, config, mapping or {})
        return done, target_weights(graph, "simulated", "simulate")


def check_weights(weights: Sequence[MappedWeight], chips: Chips, source: Path) -> None:
    """Raise ConfigError if the device model does not fit one of the weights."""
    with named_in_messages(source):
        for weight in weights:
            check_weight(weight, chips)


def saved_for_bench(
    graph: ir.Model,
    weights: tuple[MappedWeight, ...],
    folder: Path,
    source: Path,
    watched: WatchedFiles,
    *,
    with_mapped: bool,
) -> BenchFiles:
    """Write a mapped model as one without a mapping, whose weights are inputs.

    Args:
        graph: The mapped model, which is changed in place.
        weights: The weights of the model.
        folder: The folder to write to.
        source: The file of the model, for messages.
        watched: The files that the model is read from.
        with_mapped: Whether to write the mapped model, too.
    """
    mapped = folder / "mapped.onnx" if with_mapped else None
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        if mapped is not None:
            save_model(graph, mapped, watched=watched)
        names = weights_as_inputs(graph, weights)
        save_model(graph, folder / "model.onnx", watched=watched)
    return BenchFiles(folder / "model.onnx", names, mapped)
