"""Reads and writes models, arrays and folders, so that an output appears whole or not at all."""
