"""All readers that are tried, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import command_targets, file_targets, model_targets
from tests.fuzz.mutators import Random
from tests.fuzz.place import Place

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """A reader with its inputs and its judge.

    Attributes:
        check: Damages an input, hands it to the reader, and judges what the reader makes of it.
        share: How many of a million inputs it gets; quick readers get more.
    """

    check: Callable[[Random, Place], None]
    share: int


TARGETS = {
    "model": Target(model_targets.check_model, 80_000),
    "mapped": Target(model_targets.check_mapped_model, 110_000),
    "manifest": Target(model_targets.check_manifest, 220_000),
    "external": Target(model_targets.check_external, 50_000),
    "handoff": Target(model_targets.check_written_bundle, 6_000),
    "verify": Target(model_targets.check_verified, 1_000),
    "bundle": Target(file_targets.check_bundle, 30_000),
    "measured": Target(file_targets.check_measured, 20_000),
    "inputs": Target(file_targets.check_inputs, 150_000),
    "defects": Target(file_targets.check_defects, 130_000),
    "configuration": Target(file_targets.check_configurations, 139_000),
    "presets": Target(file_targets.check_presets, 60_000),
    "command": Target(command_targets.check_command, 2_000),
    "options": Target(command_targets.check_options, 1_000),
    "leftovers": Target(command_targets.check_leftovers, 1_000),
}
