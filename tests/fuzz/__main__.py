"""Lets every reader read damaged inputs, and says what becomes of them.

    python -m tests.fuzz --count 1000000 --seed 1
    python -m tests.fuzz --count 5000 --readers manifest bundle
    python -m tests.fuzz --readers manifest --seed 1 --only 4711 --keep /tmp/input

The first takes about an hour on one core. An input has to be taken or refused by a `GconvError` of one line: any other
exception, any warning, more than 5 seconds, more than 1 GiB, files that are left behind, and weights that are not those
of the input are faults. Each is told with its number, with which `--only` repeats it; `--keep` leaves its files in a
folder. Readers run in processes of their own, one after the other, on a file system in memory where there is one.
The figures of each are printed in the end: inputs, accepted (and how many of them the judge had no opinion on), refused,
faults, time, the slowest input and its number, and the most memory.

`targets.py` lists the readers. To add one, write a function there that damages an input, reads it, and compares the
result with what another way of reading gives.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import defaultdict
from pathlib import Path

from tests.fuzz.attempts import attempt
from tests.fuzz.place import Place
from tests.fuzz.runner import Finding, Findings, run
from tests.fuzz.seeds import bundle_files, mapped_seeds, measured_files, model_seeds
from tests.fuzz.targets import TARGETS

_SHARES = sum(target.share for target in TARGETS.values())


def main() -> int:
    """Try inputs; 1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Lets every reader read damaged inputs.")
    parser.add_argument("--count", type=int, default=10_000, help="how many inputs, over all readers")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other inputs")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input of each reader")
    parser.add_argument("--readers", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="READER", help=", ".join(TARGETS))
    parser.add_argument("--only", type=int, help="try the input of this number, of one reader")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-input"), help="where --only leaves its files")
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
    print(f"{'reader':14}{'inputs':>9}{'accepted':>10}{'unjudged':>10}{'refused':>10}{'faults':>8}{'s':>8}{'per s':>8}{'slowest s (number)':>22}{'peak MiB':>10}")
    all_findings = []
    for name in options.readers:
        count = max(round(options.count * TARGETS[name].share / shares), 1)
        findings = run(name, options.seed, options.first, count, most_faults=options.most_faults)
        all_findings.append(findings)
        print(_line(findings), flush=True)
        _print_faults(findings.faults, options.seed)
    print(f"{sum(item.inputs for item in all_findings):,} inputs, {sum(len(item.faults) for item in all_findings)} faults")
    return 1 if any(item.faults for item in all_findings) else 0


def _line(item: Findings) -> str:
    slowest = f"{item.slowest[0]:.2f} ({item.slowest[1]})"
    counts = item.counts
    return (
        f"{item.reader:14}{item.inputs:>9}{counts['accepted'] + counts['unjudged']:>10}{counts['unjudged']:>10}{counts['refused']:>10}"
        f"{len(item.faults):>8}{item.seconds:>8.0f}{item.inputs / item.seconds:>8.0f}{slowest:>22}{item.peak / 2**20:>10.0f}"
    )


def _print_faults(faults: list[Finding], seed: int) -> None:
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for fault in faults:
        kinds[fault.place].append(fault)
    for place, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = found[0]
        print(f"  {len(found)} x {place}\n    {first.detail}\n    python -m tests.fuzz --readers {first.reader} --seed {seed} --only {first.number}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
