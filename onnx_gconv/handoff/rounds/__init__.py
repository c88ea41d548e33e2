"""Rounds of write and verify: a table for a pulse programmer of the cells to program next."""
