"""The name that people know a weight by: that of its parameter in their program, where the model says it."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["is_anonymous", "known_as", "listed_name", "quoted_name"]

# Names that PyTorch's exporters give to constants of their own: `val_12`, `onnx::MatMul_12`, `12`,
# `/lin/Constant_output_0`.
_ANONYMOUS = re.compile(r"val_\d+|onnx::\w+|\d+|/.*_output_\d+")


def is_anonymous(name: str) -> bool:
    """Whether a name is one that an exporter made up, and that nobody has seen before."""
    return _ANONYMOUS.fullmatch(name) is not None


def known_as(name: str, parameter: str | None, modules: Sequence[str] = ()) -> str:
    """What people know a weight by.

    Args:
        name: Its name in the model.
        parameter: Its parameter in the program that was exported; None if the model does not say it.
        modules: The modules of that program that use it, the one that has it first.

    Returns:
        The parameter; where that is not known and the name is anonymous, the module; else the name.
    """
    if parameter is not None:
        return parameter
    return modules[0] if modules and is_anonymous(name) else name


def quoted_name(name: str, known: str) -> str:
    """A weight in a sentence: what people know it by, and what it is called in the model if that is something else.

    Args:
        name: Its name in the model.
        known: What people know it by; empty if that is the same.
    """
    return f"'{name}'" if known in {"", name} else f"'{known}' ('{name}' in the model)"


def listed_name(name: str, known: str) -> str:
    """A weight in a list: what people know it by, and its name in the model behind it if that is something else.

    Args:
        name: Its name in the model.
        known: What people know it by; empty if that is the same.
    """
    return name if known in {"", name} else f"{known} ({name} in the model)"
