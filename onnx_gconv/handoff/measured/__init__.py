"""Measurements of a chip: reading files of measured conductances, and comparing them with their targets."""
