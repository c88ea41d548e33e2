"""Simulates chips: which conductances devices have after programming and drift, and how good the outputs are then."""

from __future__ import annotations

from onnx_gconv.simulation.comparison.compare import compare
from onnx_gconv.simulation.comparison.report import ComparedCandidate, ComparisonReport
from onnx_gconv.simulation.program import program_model
from onnx_gconv.simulation.report import ProgramReport, SimulatedWeight
from onnx_gconv.simulation.simulate import simulate
from onnx_gconv.simulation.simulation_report import SimulatedLayer, SimulatedTime, SimulationReport

__all__ = [
    "ComparedCandidate",
    "ComparisonReport",
    "ProgramReport",
    "SimulatedLayer",
    "SimulatedTime",
    "SimulatedWeight",
    "SimulationReport",
    "compare",
    "program_model",
    "simulate",
]
