"""One job of a benchmark, for a process of its own: ``python -m benchmarks.job NAME SOURCE TARGET [BALLAST]``.

It imports what the job needs, removes the ballast if there is one, does the job, and prints ``{"work_seconds": ...}``,
the time of the job without imports. `benchmarks.page_cache` explains the ballast.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

__all__ = ["ARRAY", "main"]

# Rows and columns of the crossbar arrays of bundles.
ARRAY = (256, 256)

_Work = Callable[[Path, Path], object]

_BUFFER_BYTES = 1 << 18  # the size that cp uses


def _map() -> _Work:
    from onnx_gconv import map_model

    return map_model


def _restore() -> _Work:
    from onnx_gconv import restore_model

    return restore_model


def _map_packed() -> _Work:
    from onnx_gconv import map_model

    def map_to_codes(source: Path, target: Path) -> None:
        map_model(source, target, levels="weight", storage="codes")

    return map_to_codes


def _inspect_packed() -> _Work:
    from onnx_gconv import inspect_model

    def inspect(source: Path, target: Path) -> None:
        del target  # `inspect_model` writes nothing
        inspect_model(source, levels="weight", storage="codes")

    return inspect


def _compare_packed() -> _Work:
    from onnx_gconv.files.models import load_model
    from onnx_gconv.mapping.preconditions import require_mapped
    from onnx_gconv.verification.weights import compare_weights

    def compare(source: Path, target: Path) -> None:
        mapped = load_model(target)
        if not all(
            weight.bit_identical for weight in compare_weights(load_model(source), mapped, require_mapped(mapped))
        ):
            raise ValueError("a weight does not come back")

    return compare


def _program(seconds: str = "0s", compensation: Literal["none", "global"] = "none") -> _Work:
    from onnx_gconv import program_model

    def program(source: Path, target: Path) -> None:
        [model] = source.glob("*.onnx")
        program_model(model, target / "chip.onnx", "pcm", time=seconds, drift_compensation=compensation)

    return program


def _naive() -> _Work:
    from benchmarks.naive_mapping import map_naively

    return map_naively


def _quantize() -> _Work:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(source: Path, target: Path) -> None:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, use_external_data_format=True)

    return quantize


def _read_write() -> _Work:
    def copy_files(source: Path, target: Path) -> None:
        for file in sorted(source.iterdir()):
            _copy_file(file, target / file.name)

    return copy_files


def _hashed_copy() -> _Work:
    from concurrent.futures import ThreadPoolExecutor

    from onnx_gconv.tensors.streamed import worker_count

    def copy_files(source: Path, target: Path) -> None:
        with ThreadPoolExecutor(worker_count()) as executor:
            for copy in [
                executor.submit(_copy_file, file, target / file.name, hashlib.sha256()) for file in source.iterdir()
            ]:
                copy.result()

    return copy_files


def _handoff(arrays: Literal["hdf5", "npz"]) -> _Work:
    from onnx_gconv import write_bundle

    def hand_off(source: Path, target: Path) -> None:
        write_bundle(source, target, ARRAY, arrays=arrays)

    return hand_off


def _pictures() -> _Work:
    from onnx_gconv.handoff import open_bundle, write_pictures

    def draw(source: Path, target: Path) -> None:
        with open_bundle(source) as bundle:
            write_pictures(bundle, target)

    return draw


def _copy_file(source: Path, target: Path, sha256: hashlib._Hash | None = None) -> None:
    """Copy a file. If `sha256` is given, also hash its content."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while count := reader.readinto(buffer):
            if sha256 is not None:
                sha256.update(buffer[:count])
            written = 0
            while written < count:
                written += writer.write(buffer[written:count])


_LOADERS: dict[str, Callable[[], _Work]] = {
    "map": _map,
    "restore": _restore,
    "map_packed": _map_packed,
    "inspect_packed": _inspect_packed,
    "compare_packed": _compare_packed,
    "restore_packed": _restore,
    "program": _program,
    "program_day": lambda: _program("1d", "global"),
    "naive": _naive,
    "quantize": _quantize,
    "read_write": _read_write,
    "hashed_copy": _hashed_copy,
    "handoff_hdf5": lambda: _handoff("hdf5"),
    "handoff_npz": lambda: _handoff("npz"),
    "pictures": _pictures,
}


def main() -> None:
    name, source, target, *ballast = sys.argv[1:]
    work = _LOADERS[name]()
    for file in ballast:
        Path(file).unlink()
    start = time.perf_counter()
    work(Path(source), Path(target))
    print(json.dumps({"work_seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
