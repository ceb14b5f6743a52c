"""What a graph may consist of: standard ONNX operators and the weights in its own file, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from maac_ros.errors import BundleError

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


def require_plain(graph: bytes, origin: str) -> None:
    """Refuse a serialised model that would reach beyond its own bytes, before any runtime sees it.

    External data would be read from other files of this machine, and a custom operator would run whatever library
    registered it.

    Args:
        graph: the serialised model.
        origin: its file name, for messages.

    Raises:
        BundleError: naming the tensor or the operator.
    """
    try:
        model = onnx.load_model_from_string(graph)
    except (DecodeError, ValueError) as reason:
        raise BundleError(f"{origin}: not an ONNX model: {reason}") from reason
    if model.functions:
        names = ", ".join(f"'{function.name}'" for function in model.functions)
        raise BundleError(f"{origin}: defines functions of its own: {names}; expected none")
    for part in _graphs(model.graph):
        for tensor in _tensors(part):
            if uses_external_data(tensor):
                raise BundleError(
                    f"{origin}: tensor '{tensor.name}': its data lies outside the file; expected it inside"
                )
        for node in part.node:
            if node.domain not in STANDARD_DOMAINS:
                raise BundleError(
                    f"{origin}: node '{node.name}': operator '{node.op_type}' of domain '{node.domain}'; "
                    "expected standard ONNX operators"
                )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and those inside its nodes, as branches and loops have them."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
