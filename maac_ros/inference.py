"""ONNX Runtime sessions with the settings a control loop needs, and the functions of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from maac_ros.errors import BundleError

Array = NDArray[np.float32]

CPU_PROVIDERS: tuple[str, ...] = ("CPUExecutionProvider",)


def available_providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime."""
    return tuple(ort.get_available_providers())


@dataclass(frozen=True)
class Signature:
    """Names and per-sample shapes of a graph's inputs and outputs; ``None`` is the batch axis."""

    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, tuple[int | None, ...]]


def session_options(threads: int = 1) -> ort.SessionOptions:
    """``threads`` that sleep when there is nothing to do, one graph node after the other, errors only."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


class OnnxFunction:
    """One graph, run by the thread that calls it alone: default pools starve a control loop.

    Several threads may call it at once.

    Args:
        graph: the serialised model, which has passed :func:`maac_ros.plain_graph.require_plain`.
        origin: its file name, for messages.
        signature: what the graph must take and give.
        providers: ONNX Runtime execution providers, best first.

    Raises:
        BundleError: when the graph cannot be loaded, or has another signature.
    """

    def __init__(
        self,
        graph: bytes,
        origin: str,
        signature: Signature,
        providers: Sequence[str] = CPU_PROVIDERS,
    ) -> None:
        try:
            self._session = ort.InferenceSession(
                graph, session_options(), providers=list(providers)
            )
        except Exception as reason:  # ONNX Runtime raises a different type for each fault
            raise BundleError(f"{origin}: not a graph ONNX Runtime can load: {reason}") from reason
        self.origin = origin
        self.signature = signature
        self._outputs = list(signature.outputs)
        _check_signature("input", self._session.get_inputs(), signature.inputs, origin)
        _check_signature("output", self._session.get_outputs(), signature.outputs, origin)

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """A call that reads and writes the given C-contiguous float32 arrays, and allocates nothing of its own.

        The arrays' memory must not move: change their contents in place. Outputs left out are not computed where
        the graph allows that.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, _address(array))
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, _address(array))
        # What is bound keeps only addresses: the closure keeps the memory.
        kept = (dict(inputs), dict(outputs))

        def call(_: object = kept) -> None:
            self._session.run_with_iobinding(binding)

        return call

    def __call__(self, **inputs: Array) -> list[Array]:
        """Run the graph on float32 arrays; outputs come in the order of the signature."""
        outputs: list[Array] = self._session.run(self._outputs, inputs)
        return outputs


def _address(array: Array) -> int:
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(
            f"expected a C-contiguous float32 array, got {array.dtype} {array.strides}"
        )
    return array.ctypes.data


def _check_signature(
    kind: str,
    found: Sequence[ort.NodeArg],
    expected: Mapping[str, tuple[int | None, ...]],
    origin: str,
) -> None:
    shapes = {arg.name: arg for arg in found}
    if set(shapes) != set(expected):
        raise BundleError(f"{origin}: {kind}s: got {sorted(shapes)}; expected {sorted(expected)}")
    for name, shape in expected.items():
        arg = shapes[name]
        if arg.type != "tensor(float)":
            raise BundleError(f"{origin}: {kind} '{name}': got {arg.type}; expected tensor(float)")
        # A named (string) axis is dynamic in ONNX Runtime's report.
        got = tuple(size if isinstance(size, int) else None for size in arg.shape)
        if got != shape:
            readable = ["batch" if size is None else size for size in shape]
            raise BundleError(
                f"{origin}: {kind} '{name}': got shape {list(arg.shape)}; expected {readable}"
            )


def policy_signature(observations: int, actions: int) -> Signature:
    """``observation`` (B, O) to ``action`` (B, A), the deterministic action in command units, and
    ``action_std`` (B, A), the standard deviation of the stochastic policy around it (first order)."""
    return Signature(
        {"observation": (None, observations)},
        {"action": (None, actions), "action_std": (None, actions)},
    )


def model_signature(observations: int, actions: int, members: int) -> Signature:
    """``observation`` (B, O), ``action`` (B, A) to every member's prediction: mean and standard
    deviation of the next observation (E, B, O), expected reward (E, B), and ``termination`` (E, B), 1 where the
    mean ends the episode."""
    return Signature(
        {"observation": (None, observations), "action": (None, actions)},
        {
            "next_observation_mean": (members, None, observations),
            "next_observation_std": (members, None, observations),
            "reward": (members, None),
            "termination": (members, None),
        },
    )


def step_signature(observations: int, actions: int, members: int) -> Signature:
    """``observation`` (E, B, O), ``action`` (E, B, A): rows of its own for every member, to what that member alone
    expects: ``next_observation`` (E, B, O), ``reward`` (E, B), and ``alive`` (E, B), 0 where the episode ends."""
    return Signature(
        {
            "observation": (members, None, observations),
            "action": (members, None, actions),
        },
        {
            "next_observation": (members, None, observations),
            "reward": (members, None),
            "alive": (members, None),
        },
    )


def value_signature(observations: int, actions: int, critics: int) -> Signature:
    """``observation`` (B, O), ``action`` (B, A) to ``value`` (C, B), every critic's discounted return."""
    return Signature(
        {"observation": (None, observations), "action": (None, actions)},
        {"value": (critics, None)},
    )


def state_value_signature(observations: int) -> Signature:
    """``observation`` (B, O) to ``value`` (B,): what the critics say, on average, of the policy's own action there."""
    return Signature({"observation": (None, observations)}, {"value": (None,)})


def bundle_signatures(
    observations: int,
    actions: int,
    members: int,
    critics: int,
    state_value: bool = False,
    distilled: bool = False,
) -> dict[str, Signature]:
    """The signature of each graph of a bundle, by its name.

    Not every bundle has a ``state_value``, nor ``distilled_step`` and ``distilled_policy``, which are the same as
    ``step`` and ``policy`` but smaller.
    """
    signatures = {
        "policy": policy_signature(observations, actions),
        "model": model_signature(observations, actions, members),
        "step": step_signature(observations, actions, members),
        "value": value_signature(observations, actions, critics),
    }
    if state_value:
        signatures["state_value"] = state_value_signature(observations)
    if distilled:
        signatures["distilled_step"] = signatures["step"]
        signatures["distilled_policy"] = signatures["policy"]
    return signatures
