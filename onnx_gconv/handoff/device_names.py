"""Whether the names of devices can be names of arrays and files, which they become in a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnx_gconv.mapping import WeightRecord

__all__ = ["device_name_problem"]

# One step of a key, a dataset or a file everywhere; a point in front would hide a file, or be a way out of the folder.
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}")


def device_name_problem(record: WeightRecord) -> str | None:
    """Why arrays cannot be named after the devices of a weight; None if they can.

    A mapped model may come from anywhere, and names such as ``../../x`` would lead out of the bundle.
    """
    names = [item.device for item in record.conductances]
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    if wrong is not None:
        return f"its device {wrong!r} is no name for an array, which has letters, digits, '_', '+', '-' and '.'"
    has_codes = record.levels is not None and record.levels.storage != "float"
    codes = [f"{name}_code" for name in names] if has_codes else []
    twice = _first_repeated([*names, *codes])
    return None if twice is None else f"two of its arrays would have the name {twice!r}"


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
