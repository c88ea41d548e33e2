"""Rounds of writing and verifying: which cells to program next, as a table for a pulse programmer."""
