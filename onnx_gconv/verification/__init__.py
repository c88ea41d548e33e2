"""Proof that a mapped model computes what the original computes."""
