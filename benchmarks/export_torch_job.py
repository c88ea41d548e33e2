"""Exports a torch module, for a process of its own: ``python -m benchmarks.export_torch_job JOB LAYERS WIDTH FOLDER``.

It makes a stack of linear layers and ReLU, without biases, and exports it for inputs [batch, positions, width]: torch
then exports each weight transposed, which it computes by constant folding. It prints the seconds of the export, the
memory of the module, and the largest total size of the files in FOLDER at any time, temporary ones included.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["NAMES", "main", "module_of"]

NAMES = ("torch", "torch_save", "export")

_SAMPLE_SECONDS = 0.01


def module_of(layers: int, width: int) -> torch.nn.Module:
    """A module with `layers` linear layers, whose weights are float32, [width, width]."""
    parts: list[torch.nn.Module] = []
    for _ in range(layers):
        parts += [torch.nn.Linear(width, width, bias=False), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts).eval()


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^RssAnon:\s*(\d+) kB", status, re.MULTILINE)
    return 0 if found is None else int(found[1]) << 10


@contextmanager
def _disk_watched(folder: Path) -> Iterator[list[int]]:
    """Watch a folder. The only element of the list is the largest total size of its files so far, in bytes."""
    largest, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            largest[0] = max(largest[0], _bytes_in(folder))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()
        largest[0] = max(largest[0], _bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_blocks * 512 if path.is_file() else 0
        except OSError:  # a temporary file was removed meanwhile
            continue
    return found


def _work(name: str, module: torch.nn.Module, width: int, folder: Path) -> None:
    args = (torch.zeros(2, 3, width),)
    output = folder / "model.onnx"
    if name == "export":
        from onnx_gconv.integrations.torch import export

        export(module, args, output, verbose=False)
        return
    program = torch.onnx.export(module, args, dynamo=True, verbose=False)
    if name == "torch_save" and program is not None:
        program.save(output, external_data=True)


def main() -> None:
    name, layers, width, place = sys.argv[1:]
    folder = Path(place)
    tempfile.tempdir = str(folder)
    before = _anonymous_bytes()
    module = module_of(int(layers), int(width))
    of_module = _anonymous_bytes() - before
    start = time.perf_counter()
    with _disk_watched(folder) as largest:
        _work(name, module, int(width), folder)
        seconds = time.perf_counter() - start
    told = {"work_seconds": seconds, "module_bytes": of_module, "largest_disk_bytes": largest[0]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
