"""Simulated chips: the conductances of each weight on each chip, at any time after programming."""
