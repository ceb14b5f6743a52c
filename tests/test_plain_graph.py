"""Graphs that reach beyond their own bytes are refused before they are run."""

import onnx
import pytest
from onnx import TensorProto, helper

from maac_ros.errors import BundleError
from maac_ros.plain_graph import require_plain


def model(nodes, initializer=(), functions=(), domains=("",)):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(list(nodes), "g", [x], [y], initializer=list(initializer))
    imports = [helper.make_opsetid(domain, 17) for domain in domains]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def weight(outside):
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if outside:
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def test_standard_operators_and_weights_inside_pass():
    require_plain(model([ADD], [weight(outside=False)]).SerializeToString(), "policy.onnx")


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_data_outside_the_file_is_refused(where):
    constant = helper.make_node("Constant", [], ["w"], value=weight(outside=True))
    if where == "initializer":
        made = model([ADD], [weight(outside=True)])
    elif where == "constant":
        made = model([constant, ADD])
    else:
        result = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
        branch = helper.make_graph([constant], "b", [], [result])
        made = model([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])
    with pytest.raises(BundleError, match=r"policy\.onnx: tensor 'w': its data lies outside"):
        require_plain(made.SerializeToString(), "policy.onnx")


@pytest.mark.parametrize("domain", ["com.microsoft", "evil"])
def test_custom_operators_are_refused(domain):
    node = helper.make_node("Run", ["x"], ["y"], name="n", domain=domain)
    with pytest.raises(BundleError, match=f"node 'n': operator 'Run' of domain '{domain}'"):
        require_plain(model([node], domains=("", domain)).SerializeToString(), "policy.onnx")


def test_functions_of_its_own_are_refused():
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "F", ["a"], ["b"], [], imports)
    with pytest.raises(BundleError, match="defines functions of its own: 'F'; expected none"):
        require_plain(model([ADD], functions=[function]).SerializeToString(), "policy.onnx")


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x00" * 100])
def test_what_is_no_model_is_refused(data):
    from maac_ros.inference import OnnxFunction, policy_signature

    with pytest.raises(BundleError, match=r"policy\.onnx: "):
        OnnxFunction(data, "policy.onnx", policy_signature(4, 1))


def test_every_graph_that_is_exported_passes(untrained_bundle):
    for path in untrained_bundle("hopper").path.glob("*.onnx"):
        require_plain(onnx.load(path).SerializeToString(), path.name)
