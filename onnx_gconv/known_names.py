"""The name by which users know a weight: the parameter of their PyTorch program, if the model has it."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["is_anonymous", "known_as", "listed_name", "quoted_name"]

# Names that PyTorch's exporters make up for constants: `val_12`, `onnx::MatMul_12`, `12`, `/lin/Constant_output_0`.
_ANONYMOUS = re.compile(r"val_\d+|onnx::\w+|\d+|/.*_output_\d+")


def is_anonymous(name: str) -> bool:
    """Whether an exporter made up a name, so that it tells users nothing."""
    return _ANONYMOUS.fullmatch(name) is not None


def known_as(name: str, parameter: str | None, modules: Sequence[str] = ()) -> str:
    """The name by which users know a weight.

    Args:
        name: The name of the weight in the model.
        parameter: The parameter of the exported program; None if the model does not have it.
        modules: The modules of that program that use the weight, the module that owns it first.

    Returns:
        The parameter. If it is unknown and an exporter made up the name: the owning module, if known. Else the name.
    """
    if parameter is not None:
        return parameter
    return modules[0] if modules and is_anonymous(name) else name


def quoted_name(name: str, known: str) -> str:
    """The name of a weight for a sentence: its known name, followed by its name in the model if that differs.

    Args:
        name: The name of the weight in the model.
        known: The name by which users know it; empty if that is the same.
    """
    return f"'{name}'" if known in {"", name} else f"'{known}' ('{name}' in the model)"


def listed_name(name: str, known: str) -> str:
    """The name of a weight for a list: its known name, followed by its name in the model if that differs.

    Args:
        name: The name of the weight in the model.
        known: The name by which users know it; empty if that is the same.
    """
    return name if known in {"", name} else f"{known} ({name} in the model)"
