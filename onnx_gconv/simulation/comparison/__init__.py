"""Compares several candidates, such as devices and mappings, for one model."""
