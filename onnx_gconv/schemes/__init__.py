"""How one weight is mapped: matrix view, granularity, clipping, levels, scales, and the conversion itself."""
