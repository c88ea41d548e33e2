"""Turns models that were trained with aihwkit or aihwkit-lightning into plain torch layers and settings of their chip.

aihwkit's layers cannot be exported to ONNX, and aihwkit writes its settings of a chip to no file::

    from onnx_gconv.integrations.aihwkit import settings_from, to_digital

    torch.onnx.export(to_digital(analog_model), (example,), "twin.onnx")
    settings = settings_from(analog_model)
    gconv.map_model("twin.onnx", "twin.gconv.onnx", config=settings.configuration)
    gconv.simulate("twin.gconv.onnx", **settings.chip)

Objects of aihwkit are read by their attributes. Neither aihwkit nor aihwkit-lightning is imported, and torch only where
layers are made.
"""

from __future__ import annotations

from onnx_gconv.integrations.aihwkit.digital import to_digital
from onnx_gconv.integrations.aihwkit.periphery import LayerPeriphery
from onnx_gconv.integrations.aihwkit.settings import AnalogSettings, settings_from

__all__ = ["AnalogSettings", "LayerPeriphery", "settings_from", "to_digital"]
