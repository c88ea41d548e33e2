"""``python -m onnx_gconv`` is ``onnx-gconv``."""

from __future__ import annotations

import sys

from onnx_gconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
