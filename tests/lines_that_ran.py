"""Hands the lines that ran, as SlipCover writes them, to coverage.py, which reports them::

python -m tests.lines_that_ran LINES.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import coverage


def main() -> int:
    """Replace the data of coverage.py in this folder by those of the file."""
    files = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["files"]
    data = coverage.CoverageData()
    data.erase()
    data.add_lines({str(Path(name).resolve()): item["executed_lines"] for name, item in files.items()})
    data.touch_files([str(Path(name).resolve()) for name in files])  # those of which no line ran
    data.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
