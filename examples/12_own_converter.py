"""A converter of your own: a conductance pair that leaves the upper part of the range free."""

import onnx_gconv as gconv
from onnx_gconv.converters import (
    Scaling,
    SinglePairConductanceConverter,
    TwoSidedPairConductanceConverter,
    register_converter,
)
from onnx_gconv.models import model_path


@register_converter
class MarginPair(TwoSidedPairConductanceConverter):
    """A two-sided pair that uses only a part of the range, so that programming noise does not exceed g_max."""

    name = "margin-pair"

    def __init__(self, g_max: float | None = None, g_min: float | None = None, margin: float = 0.1) -> None:
        super().__init__(g_max, g_min)
        self.margin = float(margin)

    def manifest_parameters(self) -> dict:
        """The arguments that make an equal converter, as JSON values."""
        return {**super().manifest_parameters(), "margin": self.margin}

    def scaling(self, statistics, dtype) -> Scaling:  # noqa: ANN001
        """The scale, in µS per unit of weight."""
        return Scaling(self._scale_of_largest((1 - self.margin) * (self.g_max - self.g_min), statistics, dtype))


original = model_path("digits_mlp.onnx")
for converter in (SinglePairConductanceConverter(g_max=40.0), MarginPair(g_max=40.0, margin=0.2)):
    report = gconv.map_model(original, "mapped.onnx", converter)
    gconv.verify(original, "mapped.onnx").raise_if_failed()
    print(f"{converter.name}: {report.mapped[0].scale.value:.2f} µS per unit of weight")

# Output:
# single-pair: 46.80 µS per unit of weight
# margin-pair: 37.44 µS per unit of weight
