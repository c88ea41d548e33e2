"""The memory cell in the format of NVSim, which AccelForge 1.0 passes to its NeuroSim components."""

from __future__ import annotations

__all__ = ["HIGHEST_OHM", "cell_text"]

_US_PER_SIEMENS = 1e6

HIGHEST_OHM = 1e12
"""The resistance in ohm that stands for a conductance of 0; programs do not accept an infinite one."""

_TEXT = """\
# The devices of the mapping, from {low:g} to {high:g} uS. All but the resistances is from rram_example.yaml of
# AccelForge 1.0 (examples/arches/compute_in_memory/memory_cells): replace it by figures of your own cell.
-MemCellType: RRAM
-DeviceRoadmap -1LP 1HP 2LSTP:  2

-ResistanceOn (ohm): {on}
-ResistanceOff (ohm): {off}

-CellArea (F^2):  40
-CellAspectRatio: 1
-CellReadLeakEnergyMultiplier: 1
-CellWriteEnergyMultiplier: 1
-CellCapacitanceMultiplier: 0.25
-CellCapacitanceAdjust (F): 0
-AccessCMOSWidth (F): 1
-ReadMode: voltage
-SRAMCellNMOSWidth (F): 2
-SRAMCellPMOSWidth (F): 2
-MinSenseVoltage (mV): 20
-SetVoltage (V): 1.75
-SetPulse (ns): 8520
-ReadVoltage (V): 0.1
-ReadPulse (ns): 2
-AccessType: CMOS
-AccessTransistorResistance (ohm): 1000
-AccessVoltage (V): 0.1
"""


def cell_text(g_min: float, g_max: float) -> str:
    """The text of ``cell.yaml`` for devices with the range `g_min` to `g_max`, in µS."""
    off = min(_US_PER_SIEMENS / g_min, HIGHEST_OHM) if g_min else HIGHEST_OHM
    return _TEXT.format(low=g_min, high=g_max, on=_number(_US_PER_SIEMENS / g_max), off=_number(off))


def _number(value: float) -> str:
    """A number with nine digits and no plus sign, such as ``1e12``: AccelForge's reader stops at a plus sign."""
    return f"{value:.9g}".replace("e+", "e")
