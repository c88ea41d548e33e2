"""How one weight is mapped: granularity, clipping, which elements share a scale, and the conversion itself."""
