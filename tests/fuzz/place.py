"""Where a damaged input is written, read and judged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from tests.fuzz.readings import NotJudgedError, Reading, check_same
from tests.fuzz.seeds import Mapping

__all__ = ["Place", "check_mapped", "check_mapping", "reading_of"]


class Place:
    """Two folders: one of inputs, which have to stay as they are, and one of outputs.

    Attributes:
        inputs: The folder of inputs.
        outputs: The folder of outputs.
        expected: Names that may be in the folder of outputs even if nothing was written.
    """

    def __init__(self, folder: Path) -> None:
        self.inputs, self.outputs = folder / "in", folder / "out"
        self.expected: set[str] = set()
        self._written: dict[Path, bytes] = {}
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._written, self.expected = {}, set()
        for folder in (self.inputs, self.outputs):
            folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(folder) as items:
                for item in items:
                    if item.is_dir(follow_symlinks=False):
                        shutil.rmtree(item)
                    else:
                        Path(item).unlink()

    def write(self, name: str, content: bytes) -> Path:
        """Write an input."""
        path = self.inputs / name
        path.write_bytes(content)
        self._written[path] = content
        return path

    def forget(self, name: str) -> None:
        """Let an input be something else than the file that was written."""
        del self._written[self.inputs / name]

    def leftovers(self) -> list[str]:
        """What a reader that refused its input has left behind."""
        return sorted(path.name for path in self.outputs.iterdir() if path.name not in self.expected)

    def changed(self) -> list[str]:
        """Inputs that are not as they were."""
        return [
            path.name for path, content in self._written.items() if not path.is_file() or path.read_bytes() != content
        ]


def reading_of(path: Path) -> Reading:
    """What a model holds.

    Raises:
        NotJudgedError: If its names do not say what it computes, or it is no model for those who wrote the parser.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise NotJudgedError(str(error)) from None
    reading = Reading(model, path.parent)
    for scope in reading.scopes.values():
        names = [name for node in scope.graph.node for name in node.output if name]
        names += [tensor.name for tensor in scope.graph.initializer]
        if len(set(names)) < len(names) or {value.name for value in scope.graph.input} & set(scope.producers):
            raise NotJudgedError("a name is given twice")
        if len({value.name for value in scope.graph.output}) < len(scope.graph.output):
            raise NotJudgedError("an output is listed twice")
    return reading


def check_mapped(original: Path, mapped: Path, restored: Path, mapping: Mapping) -> None:
    """Check a mapped model, and what was restored of it, against the original.

    Raises:
        WrongError: If a weight is further off than the way of mapping may make it.
        NotJudgedError: If the original cannot be judged.
    """
    before, after, again = reading_of(original), reading_of(mapped), reading_of(restored)
    check_same(after, again)
    check_mapping(before, after, mapping)
    check_mapping(before, again, mapping)


def check_mapping(before: Reading, after: Reading, mapping: Mapping) -> None:
    """Check a mapped or restored model against the original.

    Raises:
        WrongError: If a weight is further off than the way of mapping may make it.
        NotJudgedError: If the original cannot be judged.
    """
    if before.model.functions:
        raise NotJudgedError("functions are inlined under other names")
    check_same(before, after, mapping.tolerance)
