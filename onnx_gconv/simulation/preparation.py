"""From a model to one whose weights can be put on chips: mapped, checked, and with its weights as inputs."""

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
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.runtime.prompts import TokenIds
from onnx_gconv.simulation.bench import AskedInputs
from onnx_gconv.simulation.chips.chips import Chips, check_weight, whole_number
from onnx_gconv.simulation.mapped_in_memory import Mapped, mapped_in_memory
from onnx_gconv.simulation.run_time_weights import weights_as_inputs

__all__ = ["BenchFiles", "asked_inputs", "check_weights", "mapped_for", "saved_for_bench"]


@dataclass(frozen=True)
class BenchFiles:
    """What a bench is made of.

    Attributes:
        bench: The model whose weights are inputs.
        names: The names of these inputs.
        mapped: The mapped model; None if nobody has asked for it.
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
    """What is asked for as inputs; what is said of them has to be for inputs of that kind.

    Raises:
        ConfigError: If it is not, or the batch is no whole number.
    """
    batch = None if batch is None else whole_number("batch", batch, 1)
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
    """Map a plain model in place for a device; a mapped one stays as it is.

    Args:
        device: The device model.
        graph: The model.
        source: Its file, for messages.
        watched: The files that it is read from.
        converter: As for `MapConductances`, as the next two.
        config: A configuration.
        mapping: What is said besides.

    Returns:
        How it was mapped, None if it was mapped already; and its weights.

    Raises:
        GconvError: If it cannot be mapped, or has no targets any more.
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
    """Write a mapped model with its weights as inputs. It carries no mapping any more.

    Args:
        graph: The model, which is changed.
        weights: Its weights.
        folder: Where to.
        source: Its file, for messages.
        watched: The files that it is read from.
        with_mapped: Whether to write the mapped model, too.
    """
    mapped = folder / "mapped.onnx" if with_mapped else None
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        if mapped is not None:
            save_model(graph, mapped, watched=watched)
        names = weights_as_inputs(graph, weights)
        save_model(graph, folder / "model.onnx", watched=watched)
    return BenchFiles(folder / "model.onnx", names, mapped)
