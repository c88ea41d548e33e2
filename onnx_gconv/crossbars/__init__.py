"""How mapped weights become tiles on the crossbar arrays of a chip; hand-off, read-back and simulation build on it."""
