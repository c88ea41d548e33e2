"""Simulated chips: the conductances of weights on each of many, at any time."""
