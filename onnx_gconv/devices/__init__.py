"""What devices can do: the levels that they can be programmed to, and published ranges. NumPy and data only."""
