"""A bundle's networks in PyTorch again, and its model rollouts as one graph: what the planner is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from maac_learning.config import ModelConfig, Norm, Spread
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.graphs import ActionScaling, PolicyGraph, StepGraph, ValueGraph
from maac_learning.networks import ACTIVATIONS, Critics, Policy, StateValue
from maac_ros.bundle import GOLDEN, Bundle
from maac_ros.errors import BenchmarkError
from maac_ros.golden import TOLERANCE
from maac_ros.inference import Array
from maac_ros.task import Task

_PREFIXES = {
    "policy": "policy.",
    "step": "model.",
    "value": "critics.",
    "state_value": "",
    "distilled_step": "model.",
    "distilled_policy": "policy.",
}
"""Of the names of a graph's network in its module."""


def read_graph(bundle: Bundle, name: str) -> onnx.ModelProto:
    """One graph of a verified bundle."""
    return onnx.load(str(bundle.path / f"{name}.onnx"))


def _constants(graph: onnx.ModelProto) -> dict[str, Tensor]:
    return {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in graph.graph.initializer
    }


def layers(graph: onnx.ModelProto) -> list[tuple[Tensor, Tensor]]:
    """Weights (in, out) and biases (out,) of its products: all layers of a network, then those of the next."""
    constants = _constants(graph)
    found = []
    for node in graph.graph.node:
        if node.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            weight = constants[node.input[1]]
            weight = weight.T if transposed else weight
            # A bias of zeros is left out.
            named = len(node.input) > 2
            bias = constants[node.input[2]] if named else torch.zeros(weight.shape[1])
            found.append((weight, bias))
    return found


def row_flops(graph: onnx.ModelProto) -> int:
    """Floating-point operations of the matrix products for one row, through all networks of the graph."""
    return sum(2 * weight.numel() for weight, _ in layers(graph))


class TorchFunction:
    """A module with the interface of :class:`maac_ros.inference.OnnxFunction`, as far as the planner uses it."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]) -> None:
        self.module, self._outputs = module.eval().requires_grad_(False), outputs

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """A call that reads and writes the arrays' memory."""
        given = [torch.from_numpy(array) for array in inputs.values()]
        wanted = {name: torch.from_numpy(array) for name, array in outputs.items()}

        @torch.inference_mode()
        def call() -> None:
            results = self(*given)
            for name, result in zip(self._outputs, results, strict=True):
                if name in wanted:
                    wanted[name].copy_(result)

        return call

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results = self.module(*inputs)
        return results if isinstance(results, tuple) else (results,)


def in_torch(bundle: Bundle) -> Bundle:
    """``bundle`` with its planning graphs computed by PyTorch: the same networks, checked on the golden vectors.

    Raises:
        BenchmarkError: when no network of this project computes what a graph does.
    """
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as golden:
        functions = {
            name: _torch_function(bundle, name, golden)
            for name in _PREFIXES
            if name in bundle.manifest.signatures()
        }
    changes: dict[str, Any] = functions
    return dataclasses.replace(bundle, **changes)


def torch_policy(bundle: Bundle) -> nn.Module:
    """The policy's graph in PyTorch: observations (B, O) to commands (B, A), and more.

    Raises:
        BenchmarkError: when no network of this project computes what the graph does.
    """
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as golden:
        return _torch_function(bundle, "policy", golden).module


def _torch_function(bundle: Bundle, name: str, golden: Mapping[str, Array]) -> TorchFunction:
    signature = bundle.manifest.signatures()[name]
    inputs = [torch.from_numpy(golden[f"{name}.{key}"]) for key in signature.inputs]
    weights = _weights(bundle, name)
    for module in _candidates(bundle, name, weights):
        known = module.state_dict()
        module.load_state_dict(
            {key: value for key, value in weights.items() if key in known}, strict=False
        )
        function = TorchFunction(module, tuple(signature.outputs))
        with torch.inference_mode():
            outputs = function(*inputs)
        if all(
            np.allclose(output, golden[f"{name}.{key}"], TOLERANCE, TOLERANCE)
            for key, output in zip(signature.outputs, outputs, strict=True)
        ):
            return function
    raise BenchmarkError(
        f"{bundle.path / name}.onnx: none of this project's networks computes what it does on the golden vectors"
    )


def _weights(bundle: Bundle, name: str) -> dict[str, Tensor]:
    """Tensors of the graph ``name`` by the names that they have in this project's modules."""
    graph = read_graph(bundle, name)
    weights = _constants(graph)
    members = bundle.manifest.members
    networks = {"step": members, "distilled_step": members, "value": bundle.manifest.critics}
    prefix = _PREFIXES[name]
    found = layers(graph)
    depth = len(found) // networks.get(name, 1)
    for layer in range(depth):
        own = found[layer::depth]
        weights[f"{prefix}_mlp.weights.{layer}"] = torch.stack([weight for weight, _ in own])
        weights[f"{prefix}_mlp.biases.{layer}"] = torch.stack([bias[None] for _, bias in own])
    return weights


def _candidates(bundle: Bundle, name: str, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Modules that fit the graph's weights, one for each activation: a graph does not say which network it was."""
    task = bundle.task
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    widths = [value.shape[-1] for key, value in weights.items() if "_mlp.weights." in key]
    hidden = tuple(widths[:-1])
    if name == "state_value":
        yield StateValue(observations, hidden)
        return
    scaling = ActionScaling(task)
    for activation, norm in product(ACTIVATIONS, get_args(Norm)):
        if name.endswith("policy"):
            for spread in get_args(Spread):
                policy = Policy(observations, actions, hidden, activation, norm, spread)
                yield PolicyGraph(policy, scaling)
        elif name == "value":
            shape = (bundle.manifest.critics, observations, actions, hidden)
            yield ValueGraph(Critics(*shape, activation, norm), scaling)
        else:
            config = ModelConfig.model_validate(
                {
                    "members": bundle.manifest.members,
                    "hidden": hidden,
                    "activation": activation,
                    "norm": norm,
                    "norm_epsilon": _norm_epsilon(read_graph(bundle, name)),
                    # The graph has no use for the spread beyond the outputs that it takes.
                    "noise": "residual" if widths[-1] == observations + 1 else "state_dependent",
                }
            )
            for changes in _rewards_and_frames(task):
                model = DynamicsEnsemble(
                    task, observations, actions, config.model_copy(update=changes)
                )
                yield StepGraph(model, scaling)


def _rewards_and_frames(task: Task) -> Iterator[dict[str, Any]]:
    """Settings that a step's graph does not tell otherwise than by what it computes."""
    yield {"reward": "learned"}
    if task.reward.analytic:
        yield {"reward": "analytic", "heading": True}
        yield {"reward": "analytic", "heading": False}


def _norm_epsilon(graph: onnx.ModelProto) -> float:
    """What the first LayerNorm of the graph adds to the variance; where it has none, any will do."""
    found = [
        attribute.f
        for node in graph.graph.node
        if node.op_type == "LayerNormalization"
        for attribute in node.attribute
        if attribute.name == "epsilon"
    ]
    return max(found[0], 1e-5) if found else 1e-5


def horizon_graph(bundle: Bundle, name: str = "step") -> bytes:
    """A graph of a whole rollout: the step graph ``name`` as the body of an ONNX loop over the actions.

    ``start`` (E, B, O) and ``actions`` (H, E, B, A) to ``total`` (E, B), the discounted rewards up to the end of
    the episode, and the last ``following`` (E, B, O).
    """
    manifest = bundle.manifest
    step = read_graph(bundle, name)
    members, size = manifest.members, len(manifest.observation)
    rows: tuple[int | str, ...] = (members, "rows")

    def tensor(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(shape))

    node = helper.make_node
    body = helper.make_graph(
        [
            node("Gather", ["actions", "t"], ["action"], axis=0),
            *step.graph.node,
            node("Mul", ["weight", "still"], ["weight_still"]),
            node("Mul", ["weight_still", "reward"], ["gain"]),
            node("Add", ["collected", "gain"], ["collected_next"]),
            node("Mul", ["still", "alive"], ["still_next"]),
            node("Mul", ["weight", "discount"], ["weight_next"]),
            node("Identity", ["more"], ["more_next"]),
        ],
        "step",
        [
            tensor("t", kind=TensorProto.INT64),
            tensor("more", kind=TensorProto.BOOL),
            tensor("observation", *rows, size),
            tensor("collected", *rows),
            tensor("still", *rows),
            tensor("weight"),
        ],
        [
            tensor("more_next", kind=TensorProto.BOOL),
            tensor("next_observation", *rows, size),
            tensor("collected_next", *rows),
            tensor("still_next", *rows),
            tensor("weight_next"),
        ],
    )
    constants = {
        "discount": np.float32(manifest.discount),
        "one": np.float32(1.0),
        "true": np.array(True),
        "last_axis": np.array([-1], np.int64),
        "first_axis": np.array([0], np.int64),
    }
    outer = helper.make_graph(
        [
            node("Shape", ["actions"], ["length"], start=0, end=1),
            node("Squeeze", ["length", "first_axis"], ["horizon"]),
            node("ReduceSum", ["start", "last_axis"], ["sums"], keepdims=0),
            node("Sub", ["sums", "sums"], ["nothing"]),
            node("Add", ["nothing", "one"], ["everything"]),
            node(
                "Loop",
                ["horizon", "true", "start", "nothing", "everything", "one"],
                ["following", "total", "alive_last", "weight_last"],
                body=body,
            ),
        ],
        "rollout",
        [tensor("start", *rows, size), tensor("actions", "steps", *rows, len(manifest.action))],
        [tensor("total", *rows), tensor("following", *rows, size)],
        initializer=[
            *step.graph.initializer,
            *(
                numpy_helper.from_array(np.asarray(value), name)
                for name, value in constants.items()
            ),
        ],
    )
    model = helper.make_model(
        outer, opset_imports=step.opset_import, ir_version=step.ir_version, functions=step.functions
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
