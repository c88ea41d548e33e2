"""Checks the laws for many models, outside of pytest::

python -m tests.generated.run --seeds 20000 --workers 2
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.generated.laws import LawBrokenError, OriginalDoesNotRunError, check_laws

_BATCH = 100

# Models with external data are written there; elsewhere, waiting until a disk has them takes longer than all the rest.
_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it


def findings_of(seeds: Sequence[int]) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """The failures, and the seeds for whose models ONNX Runtime cannot run the original, with what it says."""
    failures: list[tuple[int, str]] = []
    lost: list[tuple[int, str]] = []
    gc.disable()  # it would look at the objects of all imported packages again and again
    with tempfile.TemporaryDirectory(prefix="generated-", dir=_IN_MEMORY) as folder:
        for seed in seeds:
            own = Path(folder) / str(seed)
            own.mkdir()
            try:
                check_laws(seed, own)
            except LawBrokenError as error:
                failures.append((seed, str(error)))
            except OriginalDoesNotRunError as error:
                lost.append((seed, str(error)))
    gc.enable()
    gc.collect()
    return failures, lost


def main() -> int:
    """Check a range of seeds and print what fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.generated.run")
    parser.add_argument("--seeds", type=int, default=2000, help="how many models")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=1, help="how many processes")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    batches = [seeds[start : start + _BATCH] for start in range(0, len(seeds), _BATCH)]
    start, failed, not_run = time.perf_counter(), 0, 0
    with concurrent.futures.ProcessPoolExecutor(options.workers) as executor:
        for failures, lost in executor.map(findings_of, batches):
            failed += len(failures)
            not_run += len(lost)
            for seed, message in lost:
                print(f"seed {seed}: ONNX Runtime cannot run the original: {message}\n", flush=True)
            for _, message in failures:
                print(f"{message}\n", flush=True)
    seconds = time.perf_counter() - start
    print(
        f"{len(seeds)} models, {failed} failures, {not_run} that ONNX Runtime cannot run, "
        f"{1000 * seconds / len(seeds):.1f} ms per model"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
