"""One scheme of mapping of each kind: what is taken together in products of tests."""

from __future__ import annotations

from onnx_gconv import converters
from onnx_gconv.schemes.granularity import Granularity

CONVERTERS = {
    "single pair": converters.SinglePairConductanceConverter(),
    "single pair above 0": converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
    "exact": converters.SinglePairConductanceConverter(exact=True),
    "dual pair": converters.DualPairConductanceConverter([1.0, 3.0], g_min=0.5),
    "n pair": converters.NPairConductanceConverter([1.0, 2.0, 3.0]),
    "custom pair": converters.CustomPairConductanceConverter(
        [1.0], [[0.0, 5.0, 10.0, 15.0, 20.0], [20.0, 15.0, 10.0, 5.0, 0.0]]
    ),
    "single device": converters.SingleDeviceConductanceConverter(),
    "two-sided pair": converters.TwoSidedPairConductanceConverter(g_max=40.0, g_min=1.0),
    "offset": converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0),
    "bit-sliced pair": converters.BitSlicedPairConductanceConverter(bits=8, slice_bits=4),
    "bit-sliced offset": converters.BitSlicedOffsetConductanceConverter(bits=8, slice_bits=4, g_min=1.0),
}

GRANULARITIES = {
    "tensor": Granularity(),
    "channel": Granularity("channel"),
    "tile equal": Granularity("tile", (5, 4), "equal"),
    "tile max": Granularity("tile", (5, 4), "max"),
    "tile channel": Granularity("tile_channel", (6, 4)),
}
