"""Nodes that rebuild weights are known by their names or their marks where no manifest lists them."""

from __future__ import annotations

import pytest

from onnx_gconv.mapping.nodes import ROLE_KEY
from onnx_gconv.mapping.unlisted import rebuilding_node, rebuilding_nodes


@pytest.fixture
def division(parse):
    """A model that divides by a scale, whose names are given afterwards, for text has no dots in names."""

    def build(conductance, scale, domain=""):
        prefix = f"{domain}." if domain else ""
        opsets = '"" : 17' + (f', "{domain}" : 1' if domain else "")
        model = parse(f"g (float[2] G, float S) => (float[2] y) {{ y = {prefix}Div(G, S) }}", opsets=opsets)
        for value, name in zip(model.graph.inputs, (conductance, scale), strict=True):
            value.name = name
        return model

    return build


@pytest.mark.parametrize("scale", ["W.g_scale", "W.g_scale_2", "W.g_scale_17"])
@pytest.mark.parametrize("conductance", ["W.g", "W.g_plus", "W.g_3"])
def test_a_scale_is_known_by_its_name_with_and_without_a_number(division, conductance, scale):
    model = division(conductance, scale)
    [node] = model.graph
    assert list(rebuilding_nodes(model)) == [(node, scale)]
    assert rebuilding_node(model) is node


@pytest.mark.parametrize(
    ("conductance", "scale"),
    [
        ("W.g", "W.g_scale_"),
        ("W.g", "W.g_scale_two"),
        ("W.g", "W.g_scale2"),
        ("W.g", "W.scale"),
        ("V.g", "W.g_scale"),
        ("W", "W.g_scale"),
    ],
)
def test_other_names_are_no_scale_of_that_weight(division, conductance, scale):
    model = division(conductance, scale)
    assert list(rebuilding_nodes(model)) == []
    assert rebuilding_node(model) is None


def test_a_div_of_another_domain_is_another_op(division):
    assert list(rebuilding_nodes(division("W.g", "W.g_scale", "lab"))) == []


def test_a_node_that_says_its_role_is_known_by_that_whatever_it_reads(division):
    model = division("a", "b")
    [node] = model.graph
    assert rebuilding_node(model) is None
    node.metadata_props[ROLE_KEY] = "difference"
    assert rebuilding_node(model) is node
