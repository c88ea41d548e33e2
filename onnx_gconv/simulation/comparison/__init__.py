"""Several devices and mappings of one model, side by side."""
