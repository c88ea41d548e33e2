"""What PyTorch's exporters leave in a model says which parameter a weight is; no more is made of it than it says."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_gconv.known_names import is_anonymous, known_as, quoted_name
from onnx_gconv.weights.origin import OtherParameter, Reader, origin_of

FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"
KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
TORCH = "pkg.torch.onnx"
RULE = "pkg.onnxscript.rewriter.rule_name"

LINEAR = "torch.nn.modules.linear.Linear"
BATCH_NORM = "torch.nn.modules.batchnorm.BatchNorm2d"


def weight(name="val_0", folded_from=None, kind=None):
    metadata = {FOLDED_FROM: repr(folded_from)} if folded_from else {}
    return ir.Value(name=name, metadata_props=metadata | ({KIND: kind} if kind else {}))


def exported(value, *modules, cls="program.Net", fx="", rule=None, op_type="MatMul", inputs=None):
    """A node of the newer exporter, in modules of which the innermost is of a class."""
    metadata = {
        f"{TORCH}.name_scopes": repr(["", *modules, "linear"]),
        f"{TORCH}.class_hierarchy": repr(["program.Net", *["program.Part"] * (len(modules) - 1), cls, "aten.linear"]),
        f"{TORCH}.fx_node": f"%linear : [num_users=1] = call_function[...](args = ({fx}), kwargs = {{}})",
    }
    metadata |= {RULE: rule} if rule else {}
    node = ir.Node("", op_type, [None, value] if inputs is None else inputs, name="node", metadata_props=metadata)
    return Reader(node, 1, is_mvm=op_type != "Gather")


def traced(value, name, op_type="MatMul"):
    """A node of the older exporter, which has only its name."""
    return Reader(ir.Node("", op_type, [None, value], name=name), 1, is_mvm=True)


def parameter(value, *readers, sources=()):
    return origin_of(value, sources, readers).parameter


@pytest.mark.parametrize(
    ("folded_from", "expected"),
    [
        (["enc.lin.weight"], "enc.lin.weight"),
        (["lin.parametrizations.weight.original0", "lin.parametrizations.weight.original1", "mul"], "lin.weight"),
        (["parametrizations.weight.original", "val_3"], "weight"),
        (["a.b.parametrizations.weight.0._u", "a.b.parametrizations.weight.original"], "a.b.weight"),
        (["lin.weight_g", "lin.weight_v"], "lin.weight"),
        (["lin.weight_orig", "lin.weight_u", "lin.weight_v"], "lin.weight"),
        (["lin.weight_mask", "lin.weight_orig"], "lin.weight"),
        (["lin.weight_v"], "lin.weight_v"),
        (["rnn.weight_ih_l0", "rnn.weight_ih_l0_reverse"], "rnn.weight_ih_l0 + rnn.weight_ih_l0_reverse"),
        (["bn.bias", "bn.running_mean", "bn.running_var", "bn.weight", "conv.weight"], "conv.weight"),
        (["w"], "w"),
        (["abs_1", "g", "mul", "w"], None),
    ],
)
def test_what_a_constant_was_folded_from_gives_the_tensor_that_people_see(folded_from, expected):
    value = weight(folded_from=folded_from)
    assert parameter(value, exported(value, "part")) == expected


def test_the_weight_of_a_module_is_its_own_if_the_program_computes_it_from_another_parameter():
    value = weight(folded_from=["base.weight"])
    assert parameter(value, exported(value, "lin", cls=LINEAR, fx="%x, %mul, %p_lin_bias")) == "lin.weight"
    assert parameter(value, exported(value, "lin", cls=LINEAR, fx="%x, %p_base_weight")) == "base.weight"
    assert parameter(value, exported(value, "lin", fx="%x, %mul")) == "base.weight"


def test_constants_of_a_computed_weight_give_it_too_if_they_are_parameters():
    value = weight("mul")
    sources = ("lin.parametrizations.weight.original0", "lin.parametrizations.weight.original1", "val_2", "ones")
    assert parameter(value, exported(value, "lin"), sources=sources) == "lin.weight"
    assert parameter(value, traced(value, "/lin/MatMul"), sources=sources) == "lin.weight"
    assert parameter(value, Reader(ir.Node("", "MatMul", [None, value]), 1, is_mvm=True), sources=sources) is None


def test_a_name_without_any_trace_of_pytorch_is_no_parameter():
    for node_name in ("", "n", "model/dense/MatMul"):
        assert parameter(weight("dense.kernel"), traced(weight(), node_name)) is None
    value = weight("model.lin.MatMul.weight")  # names that another exporter derives from those of nodes
    assert origin_of(value, (), [traced(value, "/model/lin/MatMul")]).modules == ("model.lin",)


class TestBatchNorm:
    """It is folded into a Conv, whose node then names the module of the BatchNorm."""

    def origin(self, name, *more):
        value = weight(name)
        inputs = [None, value, *more]
        rule = "FuseBatchNormIntoConv"
        fx = "%conv2d, %p_l_bn_weight"
        return origin_of(value, (), [exported(value, "l", "l.bn", cls=BATCH_NORM, rule=rule, fx=fx, inputs=inputs)])

    def test_the_name_of_the_weight_stays(self):
        origin = self.origin("l.conv.weight")
        assert (origin.parameter, origin.others) == ("l.conv.weight", ())
        assert origin.modules == ("l.conv", "l.bn")
        assert origin.norms == ("l.bn",)

    def test_a_weight_without_a_name_is_that_of_the_module_of_the_bias(self):
        assert self.origin("mul", ir.Value(name="l.conv.bias")).parameter == "l.conv.weight"

    def test_without_a_bias_nothing_says_it(self):
        origin = self.origin("mul", ir.Value(name="mul_bias"))
        assert (origin.parameter, origin.modules) == (None, ("l.bn",))


class TestOthers:
    def others(self, value, *readers):
        return {other.name: other.relation for other in origin_of(value, (), readers).others}

    def test_nodes_that_read_one_parameter_in_several_modules_have_it_tied(self):
        value = weight("b.weight", kind="PARAMETER")
        readers = [exported(value, name, cls=LINEAR, fx="%x, %p_b_weight") for name in "ab"]
        assert self.others(value, *readers) == {"a.weight": "tied"}

    def test_an_embedding_may_be_tied(self):
        value = weight("head.weight", kind="PARAMETER")
        table = exported(
            value, "emb", cls="torch.nn.modules.sparse.Embedding", fx="%p_head_weight, %t", op_type="Gather"
        )
        assert self.others(value, table, exported(value, "head", cls=LINEAR, fx="%x, %p_head_weight")) == {
            "emb.weight": "tied"
        }

    def test_nodes_that_read_others_in_the_program_have_them_merged(self):
        value = weight(folded_from=["layers.0.attn.in_proj_weight"])
        readers = [
            exported(value, f"layers.{k}", f"layers.{k}.attn", fx=f"%x, %p_layers_{k}_attn_in_proj_weight")
            for k in range(3)
        ]
        assert self.others(value, *readers) == {
            "layers.1.attn.in_proj_weight": "merged",
            "layers.2.attn.in_proj_weight": "merged",
        }

    def test_which_of_both_is_open_where_the_program_computed_the_weights(self):
        value = weight(folded_from=["a.parametrizations.weight.original"])
        cls = "torch.nn.utils.parametrize.ParametrizedLinear"
        readers = [exported(value, name, cls=cls, fx="%x, %add") for name in "ab"]
        assert self.others(value, *readers) == {"b.weight": "tied or merged"}

    def test_modules_of_a_program_of_ones_own_may_call_their_weight_anything(self):
        value = weight("a.kernel", kind="PARAMETER")
        assert self.others(value, exported(value, "a"), exported(value, "b")) == {}

    def test_the_older_exporter_leaves_the_names_of_others_behind_identity_nodes(self):
        value = weight("c.weight")
        behind = ir.Node("", "Identity", [value], outputs=[ir.Value(name="d.weight")]).outputs[0]
        origin = origin_of(value, (), [traced(value, "/c/Conv", "Conv"), traced(behind, "/d/Conv", "Conv")])
        assert origin.others == (OtherParameter("d.weight", "merged"),)
        assert origin.modules == ("c", "d")


def test_a_second_call_of_a_module_is_no_module_of_its_own():
    value = weight("lin.weight")
    assert origin_of(value, (), [traced(value, "/lin/MatMul"), traced(value, "/lin_1/MatMul")]).modules == ("lin",)


def test_parameters_of_modules_within_are_known_by_the_older_exporter():
    value = weight("attn.out_proj.weight")
    origin = origin_of(value, (), [traced(value, "/attn/Gemm", "Gemm")])
    assert (origin.parameter, origin.modules) == ("attn.out_proj.weight", ("attn.out_proj", "attn"))


@pytest.mark.parametrize("name", ["val_12", "onnx::MatMul_12", "12", "/lin/Constant_output_0"])
def test_names_that_an_exporter_made_up_give_way_to_those_of_modules(name):
    assert is_anonymous(name)
    assert known_as(name, None, ("enc.lin", "enc.other")) == "enc.lin"
    assert known_as(name, None) == name
    assert known_as(name, "enc.lin.weight", ("enc.lin",)) == "enc.lin.weight"


@pytest.mark.parametrize("name", ["lin.weight", "W", "val_12_quantized", "validation"])
def test_other_names_stay(name):
    assert known_as(name, None, ("enc.lin",)) == name
    assert quoted_name(name, name) == quoted_name(name, "") == f"'{name}'"
