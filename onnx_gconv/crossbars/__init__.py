"""Tiles and crossbar arrays of a chip: what hand-off and read-back need, and whatever else asks what a chip holds."""
