"""Every graph of a model has a path that names it, whatever its nodes are called."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_gconv.weights import scopes
from onnx_gconv.weights.scopes import nodes_in_order

BRANCHES = """<
    then_branch = t{0} () => (float a{0}) {{ a{0} = Identity(x) }},
    else_branch = e{0} () => (float b{0}) {{ b{0} = Identity(x) }}
>"""


def paths(model):
    return [scope.path for scope in scopes(model)]


def test_the_main_graph_has_the_empty_path(parse):
    [scope] = scopes(parse("g (float x) => (float y) { y = Identity(x) }"))
    assert (scope.path, scope.node, scope.parent) == ("", None, None)


def test_bodies_are_named_after_their_node_and_its_attribute(parse):
    model = parse(f"g (bool c, float x) => (float y) {{ [choose] y = If (c) {BRANCHES.format(0)} }}")
    assert paths(model) == ["", "choose.then_branch", "choose.else_branch"]


def test_bodies_within_bodies_are_named_after_all_levels(parse):
    model = parse(
        """g (bool c, int64 n, float x) => (float y) {
            [choose] y = If (c) <
                then_branch = t () => (float a) { a = Identity(x) },
                else_branch = e () => (float b) {
                    [repeat] b = Loop (n, c, x) <
                        body = l (int64 i, bool ci, float v) => (bool co, float w) { co = Identity(ci) w = Identity(v) }
                    >
                }
            >
        }"""
    )
    assert paths(model) == ["", "choose.then_branch", "choose.else_branch", "choose.else_branch/repeat.body"]


@pytest.mark.parametrize("name", ["", "[same] "], ids=["unnamed", "equally named"])
def test_nodes_that_no_name_tells_apart_are_counted(parse, name):
    model = parse(
        f"""g (bool c, float x) => (float y, float z, float u) {{
            y = Identity(x)
            {name}z = If (c) {BRANCHES.format(0)}
            {name}u = If (c) {BRANCHES.format(1)}
        }}"""
    )
    assert paths(model) == [
        "",
        "If#0.then_branch",
        "If#0.else_branch",
        "If#1.then_branch",
        "If#1.else_branch",
    ]


def test_all_paths_of_a_model_differ(parse):
    model = parse(
        f"""g (bool c, float x) => (float y, float z, float u, float v) {{
            [same] y = If (c) {BRANCHES.format(0)}
            z = If (c) {BRANCHES.format(1)}
            [same] u = If (c) {BRANCHES.format(2)}
            [other] v = If (c) {BRANCHES.format(3)}
        }}"""
    )
    assert len(set(paths(model))) == len(paths(model)) == 9


def test_an_attribute_that_holds_several_graphs_counts_them(parse):
    model = parse(f"g (bool c, float x) => (float y) {{ [choose] y = If (c) {BRANCHES.format(0)} }}")
    [node] = model.graph
    branches = [node.attributes.pop(name).as_graph() for name in ("then_branch", "else_branch")]
    node.attributes.add(ir.AttrGraphs("branches", branches))
    assert paths(model) == ["", "choose.branches[0]", "choose.branches[1]"]


def test_outer_graphs_come_before_inner_ones_and_know_them(parse):
    model = parse(f"g (bool c, float x) => (float y) {{ [choose] y = If (c) {BRANCHES.format(0)} }}")
    main, *bodies = scopes(model)
    assert main.graph is model.graph
    for body in bodies:
        assert body.parent is main
        assert body.node is next(iter(model.graph))


def test_function_bodies_are_not_among_them(parse):
    model = parse(
        """g (float x) => (float y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 17]>
        f (a) => (r) { r = Identity(a) }""",
        opsets='"" : 17, "local" : 1',
    )
    assert paths(model) == [""]


def test_nodes_of_bodies_come_behind_the_node_that_has_them(parse):
    model = parse(
        """g (bool c, float[2] x) => (float[2] z) {
            [a] y = Neg(x)
            [choose] w = If (c) <
                then_branch = t () => (float[2] y1) { [b] u = Abs(y) [c] y1 = Neg(u) },
                else_branch = e () => (float[2] y2) { [d] y2 = Identity(y) }
            >
            [e] z = Abs(w)
        }"""
    )
    assert [node.name for node in nodes_in_order(model.graph)] == ["a", "choose", "b", "c", "d", "e"]
