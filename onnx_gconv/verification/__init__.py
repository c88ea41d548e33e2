"""Verifies that a mapped model computes what the original computes."""

from __future__ import annotations

from onnx_gconv.verification.verify import VerificationReport, verify

__all__ = ["VerificationReport", "verify"]
