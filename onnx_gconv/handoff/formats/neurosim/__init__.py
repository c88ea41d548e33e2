"""Folders that NeuroSim's program runs on: the network, its weights, and what arrives at its layers."""
