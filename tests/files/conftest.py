"""Fixtures of tests that write bundles."""

from __future__ import annotations

from tests.bundles import handed_off, mapped, ops

__all__ = ["handed_off", "mapped", "ops"]
