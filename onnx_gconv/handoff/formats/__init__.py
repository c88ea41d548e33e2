"""Further formats of the conductances, each in a folder of its own in the bundle."""
