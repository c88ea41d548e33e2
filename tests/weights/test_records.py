"""Every reason for skipping a weight explains itself, and the remedies that explanations name do help."""

from __future__ import annotations

import pytest

from onnx_gconv.passes import InlineWeightFunctions
from onnx_gconv.weights import SkipReason, find_weights


@pytest.mark.parametrize("reason", list(SkipReason))
def test_every_reason_has_an_explanation(reason):
    assert len(reason.explanation) > 10


def test_freezing_a_default_of_a_graph_input_makes_the_weight_mappable(parse, normal):
    model = parse("g (float[2,3] x, float[3,4] W) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
    assert [skipped.reason for skipped in find_weights(model).skipped] == [SkipReason.OVERRIDABLE_INPUT]
    assert "--freeze-inputs, freeze_inputs=True" in SkipReason.OVERRIDABLE_INPUT.explanation
    assert [weight.name for weight in find_weights(model, freeze_inputs=True).weights] == ["W"]


def test_inlining_functions_as_mapping_does_makes_their_weights_mappable(parse, normal):
    model = parse(
        """g (float[2,3] x) => (float[2,2] y) { y = local.dense(x, W) }
        <domain: "local", opset_import: ["" : 17]>
        dense (a, w) => (r) {
            k = Constant <value = float[2,2] {1, 2, 3, 4}> ()
            b = MatMul(a, w)
            r = MatMul(b, k)
        }""",
        opsets='"" : 17, "local" : 1',
        W=normal(3, 2),
    )
    assert {skipped.reason for skipped in find_weights(model).skipped} == {SkipReason.INSIDE_FUNCTION}
    InlineWeightFunctions()(model)
    assert [weight.shape for weight in find_weights(model).weights] == [(3, 2), (2, 2)]
