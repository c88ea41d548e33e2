"""Lets every reader read damaged inputs, and says what becomes of them.

    python -m tests.fuzz --count 1000000 --seed 1
    python -m tests.fuzz --count 5000 --readers manifest bundle
    python -m tests.fuzz --readers manifest --seed 1 --only 4711 --keep /tmp/input

The first takes about an hour of one core. An input has to be taken, or refused by a `GconvError` of one line. Any other
exception, any warning, more than 5 seconds, more than 1 GiB, files that are left behind, and weights that are not those
of the input are faults. Each is told with its number, with which `--only` tries it again, and `--keep` leaves its files
in a folder. Readers run in processes of their own, one after the other, on a file system in memory where there is one.
In the end stand the figures of each: inputs, how many were accepted, on how many of these the judge had no opinion, how
many were refused, faults, the time, the slowest input and its number, and the most memory.

`targets.py` lists the readers. To add one, write a function that damages an input, reads it, and compares the result
with what another way of reading gives, and add a line there.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.fuzz.attempts import attempt
from tests.fuzz.place import Place
from tests.fuzz.runner import Finding, Findings, run
from tests.fuzz.seeds import bundle_files, mapped_seeds, measured_files, model_seeds
from tests.fuzz.targets import TARGETS

_KEPT = Path(tempfile.gettempdir()) / "damaged-input"


def main() -> int:
    """Try inputs; 1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Lets every reader read damaged inputs.")
    parser.add_argument("--count", type=int, default=10_000, help="how many inputs, over all readers")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other inputs")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input of each reader")
    parser.add_argument(
        "--readers", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="READER", help=", ".join(TARGETS)
    )
    parser.add_argument("--only", type=int, help="try the input of this number, of one reader")
    parser.add_argument("--keep", type=Path, default=_KEPT, help=f"where --only leaves its files: {_KEPT}")
    parser.add_argument("--most-faults", type=int, default=1000, help="leave a reader after so many")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of onnx-ir, about what is missing in a model
    if options.only is not None:
        outcome = attempt(options.readers[0], options.seed, options.only, Place(options.keep))
        print(f"{outcome.kind}: {outcome.detail}")
        return outcome.kind == "fault"
    # What all readers share is made once, before there are other processes.
    model_seeds(), mapped_seeds(), measured_files(), bundle_files("npz")
    shares = sum(TARGETS[name].share for name in options.readers)
    print(_row(*_COLUMNS))
    all_findings = []
    for name in options.readers:
        count = max(round(options.count * TARGETS[name].share / shares), 1)
        findings = run(name, options.seed, options.first, count, most_faults=options.most_faults)
        all_findings.append(findings)
        print(_line(findings), flush=True)
        _print_faults(findings.faults, options.seed)
    inputs, faults = sum(item.inputs for item in all_findings), sum(len(item.faults) for item in all_findings)
    print(f"{inputs:,} inputs, {faults} faults, at most {max(item.peak for item in all_findings) / 2**20:.0f} MiB")
    return 1 if faults else 0


def _line(item: Findings) -> str:
    counts, slowest = item.counts, f"{item.slowest[0]:.2f} ({item.slowest[1]})"
    accepted = counts["accepted"] + counts["unjudged"]
    numbers = item.inputs, accepted, counts["unjudged"], counts["refused"], len(item.faults), round(item.seconds)
    return _row(item.reader, *numbers, round(item.inputs / item.seconds), slowest, round(item.peak / 2**20))


_COLUMNS = ("reader", "inputs", "accepted", "unjudged", "refused", "faults", "s", "per s", "slowest s", "MiB")


def _row(reader: str, *cells: object) -> str:
    return f"{reader:14}{''.join(f'{cell!s:>10}' for cell in cells[:-2])}{cells[-2]!s:>16}{cells[-1]!s:>8}"


def _print_faults(faults: list[Finding], seed: int) -> None:
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for fault in faults:
        kinds[fault.place].append(fault)
    for place, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = found[0]
        again = f"python -m tests.fuzz --readers {first.reader} --seed {seed} --only {first.number}"
        print(f"  {len(found)} x {place}\n    {first.detail}\n    {again}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
