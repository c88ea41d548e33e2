"""Computes the values of nodes whose inputs are constant."""
