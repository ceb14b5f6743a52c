"""Graphs that the exporter cannot have written are refused before they are run."""

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from maac_ros import graph_rules, plain_graph
from maac_ros.errors import BundleError
from maac_ros.graph_rules import ROWS, RULES
from maac_ros.inference import OnnxFunction
from maac_ros.plain_graph import require_plain

pytestmark = pytest.mark.timeout(120)

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])


def node(operator, inputs, outputs=("y",), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), name="n", **attributes)


def model(nodes, constants=(), domains=("",), opset=20, **more):
    tensors = [
        value
        if isinstance(value, onnx.TensorProto)
        else numpy_helper.from_array(np.asarray(value), name)
        for name, value in dict(constants).items()
    ]
    graph = helper.make_graph(list(nodes), "g", [X], [Y], initializer=tensors)
    imports = [helper.make_opsetid(domain, opset) for domain in domains]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **more)


def floats(*shape):
    return np.ones(shape, np.float32)


def refused(made, message):
    with pytest.raises(BundleError, match=rf"(?s)^policy\.onnx: {message}"):
        require_plain(made.SerializeToString(), "policy.onnx")


def outside():
    tensor = numpy_helper.from_array(floats(1), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


ADD = node("Add", ["x", "w"])


def test_the_exporters_operators_and_weights_inside_pass():
    require_plain(model([ADD], {"w": floats(1)}).SerializeToString(), "policy.onnx")


def test_data_outside_the_file_is_refused():
    refused(model([ADD], {"w": outside()}), "tensor 'w': its data lies outside the file")


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "evil"])
def test_custom_operators_are_refused(domain):
    run = helper.make_node("Run", ["x"], ["y"], name="n", domain=domain)
    refused(model([run], domains=("", domain)), f"node 'n': operator 'Run' of domain '{domain}'")


def test_functions_of_its_own_are_refused():
    imports = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "F", ["a"], ["b"], [], imports)
    made = model([ADD], {"w": floats(1)}, functions=[function])
    refused(made, r"defines functions of its own: \['F'\]; expected none")


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100, b"\x3a\x7f"])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(BundleError, match=r"policy\.onnx: "):
        require_plain(data, "policy.onnx")


def branch():
    return helper.make_graph([node("Identity", ["x"], ["z"])], "b", [], [Y])


LOOP = helper.make_graph(
    [node("Identity", ["more"], ["more_next"]), node("Identity", ["v"], ["v_next"])],
    "body",
    [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("more", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
    ],
    [
        helper.make_tensor_value_info("more_next", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v_next", TensorProto.FLOAT, None),
    ],
)

OTHER_OPERATORS = {
    "Loop": (node("Loop", ["n", "", "x"], body=LOOP), {"n": np.int64(2**60)}),
    "If": (node("If", ["c"], then_branch=branch(), else_branch=branch()), {"c": np.int64(1)}),
    "Scan": (node("Scan", ["x"], body=LOOP, num_scan_inputs=1), {}),
    "ConstantOfShape": (node("ConstantOfShape", ["n"]), {"n": np.array([300_000_000])}),
    "Constant": (node("Constant", [], value=numpy_helper.from_array(floats(4))), {}),
    "Range": (node("Range", ["a", "b", "c"]), {k: np.int64(2**40) for k in "abc"}),
    "RandomNormal": (node("RandomNormal", [], shape=[2**40]), {}),
    "Tile": (node("Tile", ["x", "n"]), {"n": np.array([2**30, 1])}),
    "Resize": (node("Resize", ["x", "", "s"]), {"s": floats(2)}),
    "Fürwahr": (node("Fürwahr", ["x"]), {}),
}


@pytest.mark.parametrize("operator", sorted(OTHER_OPERATORS))
def test_operators_that_the_exporter_does_not_write_are_refused(operator):
    made, constants = OTHER_OPERATORS[operator]
    refused(
        model([made], constants), f"node 'n': operator '{operator}': expected one of Abs, Add, .*"
    )


def doubled(times):
    names = ["x", *(f"d{i}" for i in range(times))]
    return [node("Concat", [a, a], [b], axis=1) for a, b in itertools.pairwise(names)]


def squared(times):
    names = ["w", *(f"d{i}" for i in range(times))]
    return [node("Gemm", [a, "w"], [b]) for a, b in itertools.pairwise(names)]


LARGE = {
    "Expand": ([node("Expand", ["w", "s"])], {"w": floats(1), "s": np.array([300_000_000])}),
    "Mul": ([node("Mul", ["a", "b"])], {"a": floats(1 << 15, 1), "b": floats(1, 1 << 15)}),
    "Gather": (
        [node("Gather", ["w", "i"], axis=0)],
        {"w": floats(1, 1 << 14), "i": np.zeros(1 << 14, np.int64)},
    ),
    "Concat": (doubled(40), {}),
    "Gemm": (squared(40), {"w": floats(700, 700)}),
}


@pytest.mark.parametrize("operator", sorted(LARGE))
def test_what_a_few_bytes_can_ask_for_is_bounded(operator):
    nodes, constants = LARGE[operator]
    refused(model(nodes, constants), f"node 'n': operator '{operator}': .* expected at most")


def test_too_many_nodes_are_refused():
    made = model([node("Relu", ["x"])] * (plain_graph.MAX_NODES + 1))
    refused(made, f"{plain_graph.MAX_NODES + 1} nodes; expected at most")


def test_rows_times_rows_are_refused():
    nodes = [
        node("Unsqueeze", ["x", "a"], ["p"]),
        node("Unsqueeze", ["x", "b"], ["q"]),
        node("Mul", ["p", "q"]),
    ]
    made = model(nodes, {"a": np.array([0]), "b": np.array([1])})
    refused(made, r"node 'n': operator 'Mul': gives shape \('rows', 'rows', 4\)")


def test_sizes_that_are_computed_are_refused():
    nodes = [node("Shape", ["x"], ["s"]), node("Mul", ["s", "n"], ["t"])]
    made = model([*nodes, node("Expand", ["x", "t"])], {"n": np.array([1, 2**40])})
    refused(made, "node 'n': operator 'Expand': size 't' is computed")


MALFORMED = {
    "inputs": (node("Mul", ["x"]), "1 inputs; expected 2 to 2"),
    "outputs": (node("Relu", ["x"], ["y", "z"]), "2 outputs; expected 1"),
    "unknown input": (node("Relu", ["z"]), "input 'z' comes from nowhere"),
    "no output": (node("Relu", ["x"], [""]), "output '': expected a name of its own"),
    "output of an input": (node("Relu", ["x"], ["x"]), "output 'x': expected a name of its own"),
    "shapes": (node("Add", ["x", "v"]), "do not go together"),
    "axis": (node("Concat", ["x", "x"], axis=2), "axis 2 of 2"),
    "rows": (node("Concat", ["x", "x"], axis=0), "along the batch axis"),
    "parts": (
        node("Split", ["x"], ["y", "z"], axis=1, num_outputs=3),
        "4 entries to 3 and 2 outputs",
    ),
    "a billion parts": (
        node("Split", ["x"], num_outputs=10**9),
        r"num_outputs 1000000000; expected one of range\(1, 1024\)",
    ),
    "index": (node("Gather", ["x", "i"], axis=1), "index 9 of 4"),
    "gain": (node("LayerNormalization", ["x", "v", "v"]), "expected one for each entry"),
    "flag": (node("ReduceSum", ["x", "one"], keepdims=7), r"keepdims 7; expected one of \(0, 1\)"),
    "no axes": (node("Squeeze", ["x", "one"]), r"axes \[1\] of .*; expected axes of size 1"),
    "attribute": (node("Relu", ["x"], axis=1), "attribute 'axis'; expected none"),
    "type of attribute": (node("Concat", ["x"], axis=[1]), "attribute 'axis': not of the type"),
    "tensor": (node("Cast", ["x"], to=numpy_helper.from_array(floats(1))), "not of the type"),
    "kind": (node("Cast", ["x"], to=TensorProto.STRING), r"to 8; expected one of \(1, 7, 9\)"),
}


@pytest.mark.parametrize("what", sorted(MALFORMED))
def test_nodes_in_another_form_are_refused(what):
    made, message = MALFORMED[what]
    constants = {"v": floats(3), "i": np.array(9), "one": np.array([1])}
    refused(model([made], constants), f"node 'n': operator '{made.op_type}': .*{message}")


def changed(**fields):
    tensor = numpy_helper.from_array(floats(1), "w")
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (changed(raw_data=b""), r"0 bytes of raw data; expected 4 for shape \(1,\)"),
        (changed(raw_data=b"", float_data=[1.0]), "0 bytes of raw data; expected 4"),
        (changed(dims=[10**12]), "4 bytes of raw data; expected 4000000000000"),
        (changed(dims=[-1]), r"shape \[-1\]; expected"),
        (changed(dims=[1] * 9), "expected at most 8 axes"),
        (changed(data_type=TensorProto.STRING), "data type 8; expected float32 or int64"),
        (changed(data_type=TensorProto.DOUBLE), "data type 11; expected float32 or int64"),
        (numpy_helper.from_array(np.zeros(1 << 17, np.int64), "w"), "expected at most 65536 int"),
    ],
)
def test_weights_that_are_not_what_they_say_are_refused(tensor, message):
    refused(model([ADD], {"w": tensor}), f"tensor 'w': .*{message}")


def test_sparse_weights_are_refused():
    made = model([ADD])
    made.graph.sparse_initializer.add().dims.append(10**12)
    refused(made, "has sparse weights or training graphs")


def test_older_operators_are_refused():
    refused(model([ADD], {"w": floats(1)}, opset=12), r"opset \[12\]; expected 18 or later")


def test_inputs_of_unknown_shape_are_refused():
    made = model([ADD], {"w": floats(1)})
    made.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    refused(made, "input 'x': shape .*; expected sizes")


def test_names_that_stand_for_two_things_are_refused():
    twice = [numpy_helper.from_array(floats(1), "w"), numpy_helper.from_array(floats(9), "w")]
    made = model([ADD])
    made.graph.initializer.extend(twice)
    refused(made, "tensor 'w': expected a name of its own")
    refused(model([ADD], {"w": floats(1), "x": floats(9)}), "input 'x': expected a name of its own")


def test_names_that_are_no_text_are_shown_as_they_are():
    data = model([node("Relu", ["x"])]).SerializeToString().replace(b"Relu", b"R\xffl\xff")
    with pytest.raises(BundleError, match=r"operator b'R\\xffl\\xff': expected one of"):
        require_plain(data, "policy.onnx")


@pytest.mark.parametrize("field", ["node", "initializer", "value_info", "input"])
def test_parts_of_two_bytes_are_counted_before_they_become_objects(field, monkeypatch):
    number = onnx.GraphProto.DESCRIPTOR.fields_by_name[field].number
    content = bytes([number << 3 | 2, 0]) * (1 << 20)
    data = b"\x3a\x80\x80\x80\x01" + content
    monkeypatch.setattr(onnx, "load_model_from_string", lambda _: pytest.fail("parsed"))
    with pytest.raises(BundleError, match="more than 100000 parts"):
        require_plain(data, "policy.onnx")


def test_what_lies_deeper_is_bounded_by_its_size(monkeypatch):
    made = model([node("Relu", ["x"] * (1 << 20))])
    monkeypatch.setattr(onnx, "load_model_from_string", lambda _: pytest.fail("parsed"))
    refused(made, r"\d+ bytes beside its weights; expected at most 2097152")


def test_weights_do_not_count_as_structure():
    large = floats(4, (plain_graph.MAX_STRUCTURE >> 4) + 1)
    require_plain(model([node("Gemm", ["x", "w"])], {"w": large}).SerializeToString(), "p.onnx")


INPUTS = {"x": ("batch", 4), "u": ("batch", 1), "b": (4, "batch", 4)}
ROW_COUNT = 3
INDEX = st.sampled_from([-3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 4])


@st.composite
def graphs(draw):
    """One to three nodes of the exporter's operators, in forms that are often those in which it writes them."""
    constants, nodes, names = {}, [], [*INPUTS]

    def constant(shape, numbers=None):
        name = f"w{len(constants)}"
        count = int(np.prod(shape))
        given = (
            [1.0] * count
            if numbers is None
            else draw(st.lists(numbers, min_size=count, max_size=count))
        )
        constants[name] = np.array(given, np.float32 if numbers is None else np.int64).reshape(
            shape
        )
        return name

    for _ in range(draw(st.integers(1, 3))):
        operator = draw(st.sampled_from(sorted(RULES)))
        rule = RULES[operator]
        count = max(rule.inputs[0], min(rule.inputs[1], draw(st.integers(1, 3))))
        inputs = [draw(st.sampled_from(names))]
        for place in range(1, count):
            if operator == "Gemm":
                inputs.append(constant((4, 4) if place == 1 else (4,)))
            elif operator == "LayerNormalization":
                inputs.append(constant((4,)))
            elif operator == "Clip":
                inputs.append(constant(()))
            elif operator in ("Expand", "Gather", "GatherND", "Slice", "Squeeze", "Unsqueeze"):
                shape = {"Gather": st.sampled_from([(), (2,)]), "GatherND": st.just((2, 1))}
                inputs.append(constant(draw(shape.get(operator, st.just((1,)))), INDEX))
            elif operator.startswith("Reduce"):
                inputs.append(constant((1,), INDEX))
            else:
                inputs.append(draw(st.sampled_from([*names, constant((4,)), constant((4, 1, 4))])))
        attributes = {}
        for name in rule.attributes:
            if name == "perm":
                attributes[name] = draw(st.sampled_from([[1, 0], [2, 0, 1]]))
            elif name in ("alpha", "beta", "epsilon"):
                attributes[name] = 1.0
            elif draw(st.booleans()) or name == "to":
                allowed = graph_rules._INTEGERS[name]
                attributes[name] = draw(st.sampled_from([i for i in allowed if -4 < i < 10]))
        parts = attributes.get("num_outputs", 1) if operator == "Split" else 1
        outputs = [f"v{len(nodes)}_{part}" for part in range(parts)]
        nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        names += outputs
    return of_inputs(nodes, constants)


def results_that_agree(made):
    """How many results ONNX Runtime gives, each of which is as the rules say; none where the graph is refused."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    data = made.SerializeToString()
    try:
        require_plain(data, "policy.onnx")
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # by ONNX Runtime for types that do not go together
        return 0
    known = {t.name: plain_graph._constant(t, "policy.onnx") for t in made.graph.initializer}
    known |= {given.name: plain_graph._input(given, "policy.onnx") for given in made.graph.input}
    plain_graph._check_nodes(made.graph, known, "policy.onnx")
    feeds = {
        name: np.ones([ROW_COUNT if size == "batch" else size for size in shape], np.float32)
        for name, shape in INPUTS.items()
    }
    for output, value in zip(made.graph.output, session.run(None, feeds), strict=True):
        shape, numbers = known[output.name]
        assert value.shape == concrete(shape), made
        assert numbers is None or tuple(value.ravel()) == concrete(numbers), made
    return len(made.graph.output)


def concrete(sizes):
    return tuple(ROW_COUNT if size == ROWS else size for size in sizes)


def of_inputs(nodes, constants):
    """A graph of :data:`INPUTS` all of whose results are outputs."""
    declared = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in INPUTS.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for each in nodes for name in each.output]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", declared, results, initializer=tensors)
    for each in graph.node:
        each.name = ""  # two of a name cannot be loaded
    imports = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def integers(*numbers):
    return np.array(numbers, np.int64)


WRITTEN = {
    "Slice": (
        node("Slice", ["b", "s", "e", "a", "t"]),
        {
            "s": integers(1, 0),
            "e": integers(2**63 - 1, -1),
            "a": integers(2, 0),
            "t": integers(2, 1),
        },
    ),
    "Shape": (node("Shape", ["b"], start=1, end=3), {}),
    "Shape of the last": (node("Shape", ["b"], start=-1), {}),
    "Concat": (node("Concat", ["x", "u", "x"], axis=-1), {}),
    "Split": (node("Split", ["b"], ["y", "z"], axis=2, num_outputs=2), {}),
    "Gather": (node("Gather", ["b", "i"], axis=2), {"i": integers(3, 0, -1)}),
    "Gather of one": (node("Gather", ["b", "i"], axis=0), {"i": integers(2)[0]}),
    "GatherND": (node("GatherND", ["b", "i"], batch_dims=0), {"i": integers(3, 0).reshape(2, 1)}),
    "Transpose": (node("Transpose", ["b"], perm=[2, 0, 1]), {}),
    "Squeeze": (node("Squeeze", ["u", "a"]), {"a": integers(-1)}),
    "Unsqueeze": (node("Unsqueeze", ["x", "a"]), {"a": integers(3, 0)}),
    "ReduceSum": (node("ReduceSum", ["b", "a"]), {"a": integers(0, -1)}),
    "ReduceMax": (node("ReduceMax", ["b", "a"], keepdims=0), {"a": integers(0)}),
    "Max": (node("Max", ["x", "w"]), {"w": floats(4)}),
    "Min": (node("Min", ["x", "u"]), {}),
    "Gemm": (node("Gemm", ["x", "w", "v"], transB=1), {"w": floats(7, 4), "v": floats(7)}),
    "Gemm of columns": (node("Gemm", ["x", "x"], transA=1), {}),
    "LayerNormalization": (node("LayerNormalization", ["b", "w", "w"], axis=-1), {"w": floats(4)}),
    "Clip": (node("Clip", ["x", "w", "w"]), {"w": np.float32(1)}),
}


@pytest.mark.parametrize("what", sorted(WRITTEN))
def test_results_are_as_large_as_their_rule_says(what):
    made, constants = WRITTEN[what]
    assert results_that_agree(of_inputs([made], constants)) == len(made.output)


def test_a_choice_is_as_large_as_what_it_is_of():
    nodes = [node("Greater", ["x", "u"], ["c"]), node("Where", ["c", "x", "w"])]
    assert results_that_agree(of_inputs(nodes, {"w": floats(4, 1, 1)})) == 2


def test_sizes_put_together_are_known():
    nodes = [
        node("Shape", ["x"], ["rows"], end=1),
        node("Concat", ["five", "rows", "four"], ["size"], axis=0),
        node("Expand", ["x", "size"]),
    ]
    made = of_inputs(nodes, {"five": integers(5), "four": integers(4)})
    assert results_that_agree(made) == 3


def test_results_of_any_nodes_are_as_large_as_the_rules_say():
    agreed = []

    @settings(deadline=None, max_examples=300, derandomize=True)
    @given(graphs())
    def check(made):
        agreed.append(results_that_agree(made))

    check()
    assert sum(agreed) > 50


def exported(module, signature, rows):
    from maac_learning.export import export_graph

    return export_graph(module, signature, rows)[0]


@pytest.mark.parametrize(
    ("policy", "model"),
    [
        (
            {"policy_activation": "silu", "policy_norm": "none", "policy_spread": "softplus"},
            {"activation": "relu", "norm": "after", "noise": "trained", "reward": "analytic"},
        ),
        (
            {"policy_activation": "tanh", "policy_norm": "after", "policy_spread": "bounded"},
            {"activation": "silu", "norm": "none", "noise": "residual", "members": 1},
        ),
    ],
)
def test_every_setting_of_the_networks_is_exported_to_known_operators(policy, model):
    from maac_learning.agent import Agent
    from maac_learning.config import AgentConfig, ModelConfig
    from maac_learning.dynamics import DynamicsEnsemble
    from maac_learning.export import _golden_inputs
    from maac_learning.graphs import graph_modules
    from maac_ros.inference import bundle_signatures
    from maac_ros.task import load_task

    task = load_task("late_pendulum")
    size = len(task.observation_entries())
    agent = Agent(size, 1, AgentConfig(hidden=(8, 8), **policy), torch.device("cpu"))
    ensemble = DynamicsEnsemble(task, size, 1, ModelConfig(hidden=(8, 8), **model))
    signatures = bundle_signatures(size, 1, ensemble.members, 2)
    rows = _golden_inputs(task, torch.randn(8, size), 0)
    modules = graph_modules(agent, ensemble, task)
    for name in ("policy", "model"):
        graph = exported(modules[name], signatures[name], rows)
        require_plain(graph, name)
        OnnxFunction(graph, name, signatures[name])


class Formulas(torch.nn.Module):
    """What reward terms can write of tensors and arrays alike, and those that ship."""

    def forward(self, observation):
        from maac_ros import reward_terms as terms
        from maac_ros.terms import Transition

        x, y = observation[..., 0], observation[..., 1]
        step = Transition(
            {"a": 0, "b": 1}, observation, observation, observation * 2, (x > 1) * 1.0
        )
        shipped = (
            terms.AliveReward(term="alive", weight=1.0),
            terms.VelocityReward(term="velocity", weight=1.0, entry="a"),
            terms.EffortReward(term="effort", weight=1.0),
            terms.ClosenessReward(term="closeness", weight=1.0, entry="a", target="b", scale=2.0),
            terms.SquareReward(term="square", weight=1.0, entry="a", target=1.0),
            terms.ChangeReward(term="change", weight=1.0, entry="b"),
        )
        total = sum(term.value(step) for term in shipped)
        total = total + abs(x) - (-y) + x % 2.0 + x // 2.0 + x.round() + 2.0**x + abs(x) ** y
        total = total + (x < y) + (x <= 1) * (x >= y) + (x == 1) * (x != y)
        total = total + (((x < 1) & (y > 0)) | ~(x > 2)) + ((x < 1) ^ (y > 0))
        total = total + observation.mean(-1) + observation.std(-1) + observation.prod(-1)
        total = total + (observation < 1).all(-1) + (observation < 1).any(-1) + x.clip(-1, 1)
        total = total + observation[..., [0, 2]].sum(-1) + observation[..., 1:4:2].sum(-1)
        return total


def test_what_reward_terms_compute_is_exported_to_known_operators():
    from maac_ros.inference import Signature

    signature = Signature({"observation": (2, None, 4)}, {"reward": (2, None)})
    rows = torch.rand(8, 4) + 0.5
    graph = exported(Formulas(), signature, {"observation": rows})
    require_plain(graph, "step.onnx")
    function = OnnxFunction(graph, "step.onnx", signature)
    given = torch.stack([rows, rows.flip(0)])
    (got,) = function(observation=given.numpy())
    np.testing.assert_allclose(got, Formulas()(given), rtol=1e-5)


def test_every_graph_that_is_exported_passes(untrained_bundle):
    for path in untrained_bundle("hopper").path.glob("*.onnx"):
        require_plain(path.read_bytes(), path.name)
