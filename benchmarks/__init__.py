"""Benchmarks: programs that measure and report, and never pass or fail on a time. Run them with ``python -m``."""
