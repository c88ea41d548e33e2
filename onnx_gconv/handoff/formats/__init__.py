"""Formats of other tools, each written to a folder of its own in the bundle."""
