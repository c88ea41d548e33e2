"""Errors that a user can act on.

Every message is one line that names the file, the tensor and the value that is wrong, and says what would be right. It
has at most some 2,000 characters, all of them printable.
"""

from __future__ import annotations

from onnx_gconv.visible_text import one_line

__all__ = [
    "BundleError",
    "ConfigError",
    "GconvError",
    "ModelError",
    "UnmappableWeightError",
    "VerificationError",
]


class GconvError(Exception):
    """The base class of all errors that onnx_gconv raises on purpose.

    Args:
        message: What is wrong, and what to do. It may quote any name and any message of another program: the text of
            the error is made printable, put on one line, and cut to a bounded length.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class ModelError(GconvError):
    """A model cannot be read, is unsafe to read, or is not in the state that an operation needs."""


class UnmappableWeightError(GconvError):
    """A weight has values that no conductance can hold, such as NaN or infinity."""


class ConfigError(GconvError, ValueError):
    """An option, a parameter or a pattern is wrong, or a file cannot be written where it was asked for."""


class BundleError(GconvError):
    """A hand-off bundle is damaged, incomplete or of a foreign format."""


class VerificationError(GconvError):
    """A check failed."""
