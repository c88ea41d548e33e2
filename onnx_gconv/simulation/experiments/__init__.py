"""The trials of a simulation: their common data, who computes them, their journal, and the report of their figures."""
