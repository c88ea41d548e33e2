"""Errors that a user can act on.

Every message is one line that names the file, the tensor and the value that is wrong, and says what would be right.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "ConfigError",
    "GconvError",
    "ModelError",
    "UnmappableWeightError",
    "VerificationError",
]


class GconvError(Exception):
    """The root of all errors that onnx_gconv raises on purpose."""


class ModelError(GconvError):
    """A model cannot be read, is unsafe to read, or is not in the state that an operation needs."""


class UnmappableWeightError(GconvError):
    """A weight has values that no conductance can hold, such as NaN or infinity."""


class ConfigError(GconvError, ValueError):
    """An option, a parameter or a pattern is wrong, or a file cannot be written where it was asked for."""


class BundleError(GconvError):
    """A hand-off bundle is damaged, incomplete or of a foreign format."""


class VerificationError(GconvError):
    """What was checked does not hold."""
