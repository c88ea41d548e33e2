"""New names differ from all names of a model, in all scopes, and from each other."""

from __future__ import annotations

import pytest

from onnx_gconv.mapping.unique_names import UniqueNames

EVERYWHERE = """main (bool c, float an_input) => (float y) <float an_initializer = {1.0}> {
    [a_node] y = If (c) <
        then_branch = t () => (float r) <float an_inner_initializer = {1.0}> {
            [an_inner_node] an_inner_output = Relu(an_input)
            r = Add(an_inner_output, an_inner_initializer)
        },
        else_branch = e () => (float s) { s = local.f(an_initializer) }
    >
}
<domain: "local", opset_import: ["" : 17]>
f (a_function_input) => (a_function_output) {
    [a_function_node] a_function_output = Relu(a_function_input)
    unused = If (a_function_input) <
        then_branch = u () => (float t1) <float an_initializer_in_a_function = {1.0}> { t1 = Relu(a_function_input) },
        else_branch = v () => (float t2) { t2 = Relu(a_function_input) }
    >
}"""


@pytest.fixture
def names(parse):
    return UniqueNames(parse(EVERYWHERE, opsets='"" : 17, "local" : 1'))


def test_a_free_name_is_given_as_it_is(names):
    assert names.new("W.g_plus") == "W.g_plus"


def test_a_name_is_given_once(names):
    assert [names.new("W") for _ in range(3)] == ["W", "W_1", "W_2"]


def test_a_suffix_that_is_taken_is_passed_over(names):
    assert names.new("W_1") == "W_1"
    assert [names.new("W") for _ in range(2)] == ["W", "W_2"]


@pytest.mark.parametrize(
    "taken",
    [
        "an_input",
        "an_initializer",
        "y",
        "a_node",
        "an_inner_initializer",
        "an_inner_output",
        "an_inner_node",
        "s",
        "a_function_input",
        "a_function_output",
        "a_function_node",
        "an_initializer_in_a_function",
    ],
)
def test_a_name_of_a_value_or_a_node_is_taken_wherever_it_stands(names, taken):
    assert names.new(taken) == f"{taken}_1"


def test_inputs_of_bodies_are_taken(parse):
    names = UniqueNames(
        parse(
            """g (int64 n, bool c, float x) => (float y) {
                y = Loop (n, c, x) <
                    body = b (int64 i, bool ci, float carried) => (bool co, float w) {
                        co = Identity(ci)
                        w = Relu(carried)
                    }
                >
            }"""
        )
    )
    assert names.new("carried") == "carried_1"
